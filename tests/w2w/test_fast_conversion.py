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


def test_the_compiled_track_decides_as_the_plain_recursion(buzz):
    tracker = PitchTracker(16_000, 160)
    salience, _ = tracker.salience(torch.cat([buzz(9_000), torch.zeros(2, 1, 3_000)], dim=-1).double())
    scores = tracker._scores(salience, torch.zeros(2, salience.shape[-1]).double())
    score, reach = torch.zeros(salience.shape[-1]).double(), len(tracker.jump) // 2
    for now, found in zip(salience[0], scores[0]):
        near = torch.nn.functional.pad(score, (reach, reach), value=-10.0).unfold(0, 2 * reach + 1, 1)
        arrived = torch.maximum((near - tracker.jump).amax(-1), score.amax() - 0.35)
        score = now + 0.8 * arrived
        assert_close(found, score, rtol=0, atol=1e-12)
