"""Resampling inside networks equals torchaudio's and passes gradients."""

import pytest
import torch
from torch.testing import assert_close

from data.audio.sinc import resample


@pytest.mark.parametrize(("rate", "to"), [(24_000, 16_000), (16_000, 22_050), (110, 100), (16_000, 16_000)])
def test_resampling_matches_torchaudio(rate, to):
    functional = pytest.importorskip("torchaudio.functional")
    wave = torch.randn(2, 1, 4_001)
    made = resample(wave, rate, to)
    theirs = functional.resample(wave, rate, to)
    assert_close(made, theirs, rtol=0, atol=2e-4)  # its filters are in single precision
    assert made.shape[-1] == -(-4_001 * to // rate)


def test_gradients_pass():
    wave = torch.randn(1, 1, 480, requires_grad=True)
    resample(wave, 24_000, 16_000).square().sum().backward()
    assert wave.grad is not None
    assert wave.grad.abs().gt(0).all()
