"""Mel matching: the wanted mel stays as it is, another wave comes nearer with every pass."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from data.frontends import LogMel, named_mel
from engine.user_error import UserError
from vocoders.wavenet.mel_wavenet import MelMatching


def voice(n_samples: int) -> torch.Tensor:
    """A buzz with noise, swelling."""
    time = torch.arange(n_samples) / 16_000
    buzz = sum(torch.sin(2 * torch.pi * 120 * k * time) / k for k in range(1, 30))
    return (0.1 * buzz * time.mul(9).sin() + 0.01 * torch.randn(n_samples))[None, None]


@pytest.mark.parametrize("name", ["speech16k", "hifigan", "melgan", "speech24k"])
def test_a_wave_with_the_wanted_mel_stays(name):
    mel = named_mel(name)
    wave = voice(40 * mel.hop)
    matched = MelMatching(mel)(wave, LogMel(mel)(wave), 3)
    inner = slice(mel.n_fft, -mel.n_fft)  # at the edges the mirrored samples take part
    assert_close(matched[..., inner], wave[..., inner], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["speech16k", "melgan"])
def test_noise_comes_nearer_with_more_passes(name):
    mel = named_mel(name)
    log_mel, wave = LogMel(mel), voice(60 * mel.hop)
    wanted, noise = log_mel(wave), 0.05 * torch.randn(1, 1, 60 * mel.hop)
    apart = [
        float((log_mel(MelMatching(mel)(noise, wanted, n)) - wanted).abs().mean()) for n in (0, 3, 6, 12)
    ]
    assert all(later < earlier for earlier, later in pairwise(apart))
    assert apart[-1] < 0.15 * apart[0]


def test_silence_is_finite():
    mel = named_mel("speech16k")
    matched = MelMatching(mel)(torch.zeros(1, 1, 4_800), torch.zeros(1, 80, 30), 4)
    assert torch.isfinite(matched).all()


def test_only_paddings_with_a_way_back_are_taken():
    with pytest.raises(UserError, match="padding"):
        MelMatching(named_mel("speech16k_causal"))
