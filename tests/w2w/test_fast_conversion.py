"""The fast way through blocks on a CPU: the plain way's samples, also after the weights have changed."""

import pytest
import torch
from torch.testing import assert_close

from w2w import Converter
from w2w.networks.network import ConverterNetwork
from w2w.networks.pitch import PitchTracker


@pytest.fixture
def network(tiny):
    torch.manual_seed(5)
    return ConverterNetwork(tiny()).eval()


def plain(network, source, voice):
    """With gradients on, nothing is compiled."""
    with torch.enable_grad():
        return network(source, voice).detach()


def test_the_fast_way_makes_the_plain_ways_samples(network, buzz):
    source = buzz(7_000, f0=(140.0,))
    voice = network.style(buzz(8_000, f0=(200.0,))).detach()
    expected = plain(network, source, voice)
    converter = Converter(network)
    assert_close(converter.convert(source, voice), expected, rtol=0, atol=1e-5)


def test_changed_weights_and_other_voices_are_heard(network, buzz):
    source = buzz(4_000, f0=(140.0,))
    voices = [network.style(buzz(8_000, f0=(f0,))).detach() for f0 in (110.0, 200.0)]
    converter = Converter(network)
    before = converter.convert(source, voices[0])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    for voice in voices:
        after = converter.convert(source, voice)
        assert not torch.allclose(after, before, atol=1e-4)
        assert_close(after, plain(network, source, voice), rtol=0, atol=1e-5)


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
