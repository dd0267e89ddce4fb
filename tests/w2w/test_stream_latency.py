"""The latency is the exact bound of look-ahead and delay."""

import math

import pytest
import torch

from w2w import Converter
from w2w.networks.network import ConverterNetwork


@pytest.fixture(scope="module", params=["today", "earlier"])
def case(request, tiny, buzz):
    """A converter of each kind, and a voice."""
    torch.manual_seed(6)
    converter = Converter(ConverterNetwork(tiny(request.param)))
    return converter, converter.embed(buzz(8_000, f0=(190.0,)))


def converted(live, source):
    """The whole result, chunk by chunk."""
    state, parts = live.begin(), []
    for chunk in source.split(live.chunk_samples, dim=-1):
        ready, state = live.step(chunk, state)
        parts.append(ready)
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize(
    ("rate", "chunk"), [(16_000, 160), (16_000, 100), (48_000, 480), (44_100, 441), (8_000, 80)]
)
def test_latency_is_exact_for_any_rate_and_chunk(case, rate, chunk):
    converter, voice = case
    live = converter.stream(voice, chunk, sample_rate=rate)
    arrived, made, longest = 0, 0, 0
    while arrived < 20 * chunk:
        arrived += chunk
        ready = live.push(torch.zeros(1, 1, chunk)).shape[-1]
        if ready:  # its first sample has waited longest, from the instant it was spoken
            longest = max(longest, arrived - made)
        made += ready
    assert longest == live.latency_samples == round(live.latency_ms * rate / 1000)


@pytest.mark.parametrize("rate", [16_000, 48_000, 44_100])
def test_gradients_reach_exactly_to_the_look_ahead(case, buzz, rate):
    converter, voice = case
    hop = rate // 100
    live = converter.stream(voice, hop, sample_rate=rate)
    source = buzz(12 * hop, f0=(140.0,), rate=rate).requires_grad_()
    made = converted(live, source)
    furthest = 0
    start = -live.lag % hop + 5 * hop  # here a hop of the result begins
    for place in (start - 1, start, start + 1, start + 3, start + 6, start + hop // 2):
        (gradient,) = torch.autograd.grad(made[0, 0, place], source, retain_graph=True)
        heard = gradient[0, 0].nonzero()[:, 0]
        furthest = max(furthest, int(heard.max()) + 1 - place)
    # The filters between rates end in weights that vanish: a sample or two at either end.
    slack = 6 if rate == 16_000 else 6 + 2 * math.ceil(rate / 16_000) + 2
    assert live.latency_samples - slack <= furthest <= live.latency_samples


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_later_input_changes_neither_samples_nor_f0(case, buzz, rate):
    """Pitch has no gradient, so the source is changed and outputs are compared."""
    converter, voice = case
    hop = rate // 100
    live = converter.stream(voice, hop, sample_rate=rate)
    quiet, loud = (buzz(12 * hop, rate=rate) * torch.tensor([1.0, 5.0])[:, None, None]).split(1)
    steady = converted(live, quiet)
    nearest = math.inf
    for place in (8 * hop, 9 * hop - 1 - rate // 1_000):
        other = quiet.clone()
        other[..., place:] = loud[..., place:]
        changed = (steady != converted(live, other))[0, 0].nonzero()[:, 0]
        reached = place + 1 - int(changed.min())
        assert reached <= live.latency_samples
        nearest = min(nearest, live.latency_samples - reached)
    assert nearest < 56 * rate // 16_000


def test_impulse_reaches_the_f0_tracker_no_earlier_than_its_frame(tiny, buzz):
    network = ConverterNetwork(tiny())
    source = buzz(6_400, f0=(140.0,))
    before = network.pitch(source)
    for place in (3_199, 3_200, 3_333):
        other = source.clone()
        other[..., place] += 0.9
        after = network.pitch(other)
        changed = (before.log_f0 != after.log_f0) | (before.voicing != after.voicing)
        frame = int(changed[0, 0].nonzero()[0])
        assert place // 160 <= frame <= place // 160 + 1


@pytest.mark.parametrize("rate", [16_000, 48_000, 44_100, 8_000, 96_000, 192_000])
def test_released_converter_is_within_20_ms(released, rate):
    voice = torch.zeros(1, released.network.voice_dim)
    live = released.stream(voice, chunk_samples=rate // 100, sample_rate=rate)
    assert 10.0 < live.latency_ms <= 20.0


@pytest.fixture(scope="module")
def released():
    return Converter.from_pretrained("released_live")
