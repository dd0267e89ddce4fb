"""The fast way through a converter on a CPU: the plain way's samples, in any chunks, after any change."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
import torch
from torch.testing import assert_close

from w2w import Converter
from w2w.networks import fast_compiling
from w2w.networks.fast import runs_fast
from w2w.networks.network import ConverterNetwork
from w2w.networks.pitch import PitchTracker

HEADS, FRONTENDS = ("harmonic", "istft", "transposed"), ("mel", "conv")


def built(config):
    torch.manual_seed(5)
    return ConverterNetwork(config).eval().requires_grad_(False)


@pytest.fixture
def network(tiny):
    return built(tiny())


def plain(network, source, voice, semitones=0.0):
    """With gradients on, nothing is compiled; the pitch, which never has any, must be told."""
    with torch.enable_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("w2w.networks.pitch.compiles", lambda heard: False)
        return network(source, voice, semitones).detach()


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("head", HEADS)
def test_the_fast_way_makes_the_plain_ways_samples_in_any_chunks(head, frontend, tiny, buzz):
    network = built(tiny(head=head, frontend=frontend))
    source, voice = buzz(97 * 160, f0=(140.0,)), network.style(buzz(8_000, f0=(200.0,)))
    expected = plain(network, source, voice)
    with torch.inference_mode():
        state, parts = network.begin(1), []
        for chunk in network.lead(source).split([160 * n for n in (1, 2, 1, 50, 3, 40, 1)], dim=-1):
            wave, state = network.step(chunk, voice, state)
            parts.append(wave)
    found = torch.cat(parts, dim=-1)[..., network.look_ahead :][..., : source.shape[-1]]
    assert expected.abs().max() > 1e-3
    assert_close(found, expected, rtol=0, atol=1e-5)
    assert_close(Converter(network).convert(source, voice), expected, rtol=0, atol=1e-5)


def test_other_rates_and_a_moved_pitch_are_plain_too(tiny, buzz):
    network = built(tiny(sample_rate=24_000))
    source, voice = buzz(9_000, f0=(140.0,), rate=24_000), torch.randn(1, network.voice_dim)
    voice[:, -1] = 5.0
    found = Converter(network).convert(source, voice, semitones=5.0)
    assert_close(found, plain(network, source, voice, 5.0), rtol=0, atol=1e-5)


def test_no_sample_changes_before_its_future(network, buzz):
    source, voice = buzz(8_000, f0=(140.0,)), network.style(buzz(8_000, f0=(200.0,)))
    changed = source.clone()
    changed[..., 5_000:] = 0.1 * torch.randn(3_000)
    converter = Converter(network)
    before, after = converter.convert(source, voice), converter.convert(changed, voice)
    same = 5_000 - network.look_ahead - network.hop
    assert torch.equal(before[..., :same], after[..., :same])
    assert not torch.equal(before, after)


def test_changed_weights_and_other_voices_are_heard(network, buzz):
    source = buzz(4_000, f0=(140.0,))
    voices = [network.style(buzz(8_000, f0=(f0,))) for f0 in (110.0, 200.0)]
    converter = Converter(network)
    before = converter.convert(source, voices[0])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    for voice in voices:
        after = converter.convert(source, voice)
        assert not torch.allclose(after, before, atol=1e-4)
        assert_close(after, plain(network, source, voice), rtol=0, atol=1e-5)
    network.content.stem.weight = torch.nn.Parameter(network.content.stem.weight * 1.5, requires_grad=False)
    assert_close(converter.convert(source, voices[0]), plain(network, source, voices[0]), rtol=0, atol=1e-5)


def test_a_copy_has_its_own_weights(network, buzz):
    source, voice = buzz(3_000, f0=(140.0,)), network.style(buzz(8_000, f0=(200.0,)))
    first = Converter(network).convert(source, voice)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.decoder.tint.weight.mul_(3.0)
    assert_close(Converter(other).convert(source, voice), plain(other, source, voice), rtol=0, atol=1e-5)
    assert torch.equal(Converter(network).convert(source, voice), first)


def test_threads_do_not_disturb_each_other(network, buzz):
    sources = [buzz(6_000 + 800 * i, f0=(100.0 + 20 * i,)) for i in range(8)]
    voices = [network.style(buzz(8_000, f0=(120.0 + 10 * i,))) for i in range(8)]
    converter = Converter(network)
    alone = [converter.convert(source, voice) for source, voice in zip(sources, voices)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(converter.convert, sources, voices), alone):
                assert torch.equal(found, expected)


def test_training_and_mixed_precision_take_the_plain_way(tiny, buzz):
    torch.manual_seed(5)
    network, source = ConverterNetwork(tiny()), buzz(3_200, f0=(140.0,))
    voice = network.style(source)
    network(source, voice).square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    frames = torch.zeros(1, 4, 4)
    with torch.no_grad():
        assert runs_fast(frames)
        assert not runs_fast(frames.bfloat16())
        assert not runs_fast(torch.zeros(2, 4, 4))
        assert not runs_fast(frames.to("meta"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not runs_fast(frames)
            assert torch.isfinite(network(source, voice.detach())).all()
    assert not runs_fast(frames)


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_the_compiled_track_decides_as_the_plain_one_for_any_chunks(rate, buzz, monkeypatch):
    tracker, hop = PitchTracker(rate, rate // 100), rate // 100
    pause = 0.01 + torch.zeros(2, 1, 10 * hop)  # silence that is not zero
    wave = torch.cat([buzz(40 * hop, rate=rate), pause, 1e-3 * torch.randn(2, 1, 10 * hop)], dim=-1)
    found, state = [], tracker.begin(2)
    for chunk in wave.split([hop, 2 * hop, 30 * hop, 27 * hop], dim=-1):
        pitch, state = tracker.step(chunk, state)
        found.append(pitch)
    monkeypatch.setattr("w2w.networks.pitch.compiles", lambda heard: False)
    expected, after = tracker.step(wave, tracker.begin(2))
    log_f0, voicing = (torch.cat(parts, dim=-1) for parts in zip(*found))
    assert (voicing > 0.5).any()
    assert_close(log_f0, expected.log_f0, rtol=0, atol=1e-11)
    assert_close(voicing, expected.voicing, rtol=0, atol=1e-11)
    for ours, theirs in zip(state, after):
        assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_without_a_place_for_a_cache_passes_are_compiled_all_the_same(monkeypatch):
    asked = []

    def njit(**options):
        asked.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(fast_compiling, "njit", njit)
    twice = fast_compiling.compiled(lambda x: 2 * x)
    assert twice(21) == 42
    assert asked == [True, False]


def test_the_released_converter_says_the_same_of_real_speech(speech_pack):
    from data.audio import load

    converter = Converter.from_pretrained()
    files = sorted(speech_pack.rglob("*.flac"))
    voice = converter.embed(load(files[-1], converter.sample_rate))
    for file in files[:: len(files) // 3]:
        source = load(file, converter.sample_rate)[..., :64_000]
        found = converter.convert(source, voice)
        assert_close(found, plain(converter.network, source, voice), rtol=0, atol=1e-5)
