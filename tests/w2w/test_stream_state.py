"""External stream states: copied, resumed, batched, of constant size."""

import copy
import gc

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from engine.user_error import UserError
from w2w import Converter
from w2w.networks.network import ConverterNetwork


@pytest.fixture(scope="module", params=["today", "earlier"])
def case(request, tiny, buzz):
    """A converter of each kind, and a voice."""
    torch.manual_seed(4)
    converter = Converter(ConverterNetwork(tiny(request.param)))
    return converter, converter.embed(buzz(8_000, f0=(190.0,)))


def tensors(state) -> list[Tensor]:
    """All tensors of a state."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict):
        state = state.values()
    elif not isinstance(state, list | tuple):
        return []
    return [found for part in state for found in tensors(part)]


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_step_with_external_state_equals_push(case, buzz, rate):
    converter, voice = case
    source = buzz(3_000, f0=(140.0,), rate=rate)
    live = converter.stream(voice, sample_rate=rate)
    state, parts = live.begin(), []
    for chunk in source.split(371, dim=-1):
        ready, state = live.step(chunk, state)
        assert torch.equal(ready, live.push(chunk))
        parts.append(ready)
    tail = live.finish(state)
    assert torch.equal(tail, live.flush())
    whole = converter.convert(source, voice, sample_rate=rate)
    assert_close(torch.cat([*parts, tail], dim=-1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_state_can_be_copied_and_resumed_repeatedly(case, buzz, rate, tmp_path):
    converter, voice = case
    source = buzz(3_000, f0=(140.0,), rate=rate)
    live = converter.stream(voice, sample_rate=rate)
    _, kept = live.step(source[..., :1_234], live.changed(live.begin(), voice + 0.1))
    copied = copy.deepcopy(kept)
    before = [part.clone() for part in tensors(kept)]
    first, after = live.step(source[..., 1_234:], kept)
    live.finish(after)
    assert all(torch.equal(part, was) for part, was in zip(tensors(kept), before, strict=True))
    for state in (kept, copied):
        again, _ = live.step(source[..., 1_234:], state)
        assert torch.equal(again, first)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_batched_sources_equal_single_ones(case, buzz, rate):
    converter, voice = case
    voices = torch.cat([voice, voice + 0.2, voice - 0.1])
    sources = buzz(2_500, f0=(110.0, 150.0, 220.0), rate=rate)
    many = converter.stream(voices, sample_rate=rate)
    made = torch.cat([*(many.push(chunk) for chunk in sources.split(700, dim=-1)), many.flush()], dim=-1)
    for row in range(3):
        alone = converter.convert(sources[row : row + 1], voices[row : row + 1], sample_rate=rate)
        assert_close(made[row : row + 1], alone, rtol=0, atol=1e-5)


@pytest.fixture
def few_objects():
    """Existing objects are frozen for the garbage collector, which would take seconds in a long session."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize(("rate", "chunk"), [(48_000, 480), (16_000, 100)])
def test_stream_state_has_constant_size(case, rate, chunk, few_objects):
    converter, voice = case
    live = converter.stream(voice, chunk, sample_rate=rate)
    sizes, counts, held = [], [], []
    live.change(voice + 0.1, over_ms=20.0)
    for number in range(1, 49):
        live.push(0.1 * torch.randn(1, 1, chunk))
        if number % 16 == 0:  # chunks come round to the same place in their hop
            gc.collect()
            parts = tensors(live.state)
            sizes.append(sum(part.numel() * part.element_size() for part in parts))
            held.append(sum(part.untyped_storage().nbytes() for part in parts))
            counts.append(sum(type(thing) is Tensor for thing in gc.get_objects()))
    assert len(set(sizes)) == 1
    assert max(held[1:]) <= held[0]
    assert max(counts[1:]) <= counts[0]


def test_repeated_voice_changes_use_no_memory(case):
    converter, voice = case
    live = converter.stream(voice, 160)
    sizes = []
    for number in range(30):
        live.change(voice + 0.01 * number, over_ms=35.0)
        live.push(0.1 * torch.randn(1, 1, 160))
        sizes.append(sum(part.untyped_storage().nbytes() for part in tensors(live.state)))
    assert len(set(sizes[2:])) == 1


def test_state_does_not_reference_long_chunks(case, buzz):
    converter, voice = case
    live = converter.stream(voice, sample_rate=48_000)
    _, long = live.step(buzz(48_001, f0=(150.0,), rate=48_000), live.begin())
    for part in (long.waiting, long.entering.past, long.leaving.past):
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_mismatched_chunks_and_voices_are_refused(case):
    converter, voice = case
    live = converter.stream(voice)
    with pytest.raises(UserError, match="same converter"):
        live.change(voice[:, 1:])
    with pytest.raises(UserError, match="over_ms"):
        live.change(voice, over_ms=-1.0)
    with pytest.raises(UserError, match="a chunk has shape"):
        live.push(torch.zeros(2, 1, 160))
    live.flush()
    with pytest.raises(ValueError, match="flushed"):
        live.flush()
    with pytest.raises(ValueError, match="flushed"):
        live.change(voice)
