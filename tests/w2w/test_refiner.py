"""The refiner: initialised as the identity, exact in pieces, causal."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from w2w.networks.refiner import Refiner, RefinerConfig

HOP, WIDTH, FRAMES = 160, 12, 14


@pytest.fixture
def case():
    """A refiner, a wave and features."""
    refiner = Refiner(RefinerConfig(n_channels=8, n_blocks=2), WIDTH, HOP)
    return refiner, 0.1 * torch.randn(2, 1, FRAMES * HOP), torch.randn(2, WIDTH, FRAMES)


def test_refiner_is_initialised_as_the_identity(case):
    refiner, wave, features = case
    refined, _ = refiner.step(wave, features, refiner.begin(2))
    assert refined.shape == wave.shape
    assert (refined - wave).square().mean() < 0.01 * wave.square().mean()
    with torch.no_grad():
        refiner.synthesis.weight.zero_()
    assert torch.equal(refiner.step(wave, features, refiner.begin(2))[0], wave)


def test_pieces_equal_the_whole(case):
    refiner, wave, features = case
    with torch.no_grad():
        refiner.synthesis.weight.mul_(30.0)
        whole, _ = refiner.step(wave, features, refiner.begin(2))
        state, parts = refiner.begin(2), []
        for start, stop in pairwise((0, 1, 2, 7, FRAMES)):
            part, state = refiner.step(wave[..., start * HOP : stop * HOP], features[..., start:stop], state)
            parts.append(part)
    assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-5)


def test_refiner_does_not_look_beyond_its_frame(case):
    refiner, wave, features = case
    wave.requires_grad_()
    refined, _ = refiner.step(wave, features, refiner.begin(2))
    for sample in (0, 159, 160, 700):
        (heard,) = torch.autograd.grad(refined[..., sample].sum(), wave, retain_graph=True)
        short = HOP // 4
        assert not heard[..., (sample // short + 1) * short :].any()


def test_short_frames_must_fill_the_frame():
    with pytest.raises(UserError, match="per_frame"):
        Refiner(RefinerConfig(per_frame=3), WIDTH, HOP)
