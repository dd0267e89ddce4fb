"""Inverting StarGAN's spectrogram: level, timing, any pieces, by phases or a vocoder."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.audio import load
from data.frontends import NAMED, LogMel, MelConfig, stft
from data.manifest import rows_from
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLimConfig
from w2w.baselines.stargan.spectrogram import (
    BLACK,
    KNEE,
    Spectrogram,
    SpectrogramConfig,
    ToMel,
    ToWave,
    at_full_scale,
    framed,
    hum,
    levels,
)

WHOLE = SpectrogramConfig()
SMALL = SpectrogramConfig(n_fft=256, hop=64, n_frames=64, n_bins=64)
SPEECH = NAMED["speech16k"]
KNOWN = 61
"""Bands of ``speech16k`` that lie below 4 kHz."""


def voice(samples: int = 25_600) -> torch.Tensor:
    return hum(16_000)[..., :samples]


@pytest.mark.parametrize(
    "mel",
    [
        SPEECH,
        NAMED["speech16k_causal"],
        replace(SPEECH, padding="center"),
        replace(SPEECH, n_fft=640),
        replace(SPEECH, win=1024, hop=256, n_mels=40, f_max=4_000.0),
        replace(SPEECH, power=2, floor=1e-8),
        replace(SPEECH, log="log10", norm="none", scale="htk"),
    ],
)
def test_mel_from_a_spectrogram_is_close_to_the_waves_mel(mel):
    wave = 0.9 * voice() * torch.linspace(0.6, 1.0, 25_600)
    own, told = LogMel(mel)(wave), ToMel(WHOLE, mel)(framed(Spectrogram(WHOLE), wave))
    frames = slice(6, min(own.shape[-1], told.shape[-1]) - 6)
    known = mel.n_mels if mel.f_max <= 4_000 else mel.n_mels * 3 // 4 - 4
    unit = (1.0 if mel.log == "ln" else torch.tensor(10.0).log()) / mel.power
    difference = (told[:, :known, frames] - own[:, :known, frames]) * unit
    assert difference.mean().abs() < 0.06
    assert difference.abs().mean() < 0.3


def test_mel_scales_with_the_spectrograms_level():
    to_mel, spectrogram = ToMel(WHOLE, SPEECH), Spectrogram(WHOLE)
    quiet, loud = (to_mel(framed(spectrogram, gain * voice())) for gain in (0.5, 1.0))
    risen = (loud - quiet)[:, :KNOWN, 6:-6].median()  # a little more: what sinks towards black in one
    assert risen == pytest.approx(torch.tensor(2.0).log().item(), abs=0.06)


def test_mel_frames_are_aligned_with_the_wave():
    bursts = torch.zeros(1, 1, 32_000)
    for centre in (8_000, 21_000):
        bursts[..., centre - 60 : centre + 60] = torch.randn(120)
    mel = ToMel(WHOLE, SPEECH)(framed(Spectrogram(WHOLE), bursts)).mean(1)[0]
    first, second = mel[:90].argmax(), mel[90:].argmax() + 90
    assert abs(160 * first + 80 - 8_000) <= 256
    assert abs(160 * second + 80 - 21_000) <= 256


def test_value_zero_is_lowered_below_the_floor():
    spectrogram = torch.tensor([0.0, KNEE / 2, KNEE, 0.5, 1.0]).expand(1, 1, 4, 5)
    found = levels(spectrogram, WHOLE)[0, 0]
    plain = spectrogram[0, 0, 0] * (WHOLE.high - WHOLE.low) + WHOLE.low
    assert_close(found - plain, torch.tensor([-BLACK, -BLACK / 2, 0.0, 0.0, 0.0]))


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 59), max_size=5), n_frames=st.integers(1, 99))
def test_mel_does_not_depend_on_the_pieces(cuts, n_frames):
    to_mel = ToMel(SMALL, MelConfig(sample_rate=16_000, n_fft=512, win=400, hop=40, n_mels=20))
    spectrogram = torch.rand(2, 1, 64, 60, generator=torch.Generator().manual_seed(1))
    whole = to_mel(spectrogram, n_frames)
    assert whole.shape == (2, 20, n_frames)
    cuts = sorted({0, 60, *cuts})
    pieces = [spectrogram[..., a:b] for a, b in pairwise(cuts)]
    assert_close(torch.cat(list(to_mel.stream(pieces, n_frames)), dim=-1), whole)


def test_phase_retrieval_reproduces_the_spectrogram():
    wave = voice()
    spectrogram = framed(Spectrogram(WHOLE), wave)
    found = ToWave(WHOLE, GriffinLimConfig(iterations=24))(spectrogram)
    assert found.shape[-1] == 256 * spectrogram.shape[-1]
    again = framed(Spectrogram(WHOLE), found)
    decibels = (again - spectrogram).abs() * (WHOLE.high - WHOLE.low) * 10 / 2.302585
    heard = spectrogram > 0.1
    assert decibels[heard].mean() < 2.0
    above = stft(found, n_fft=1024, hop=256).abs()
    assert above[:, 262:].mean() < 0.02 * above[:, 1:257].mean()


def test_phase_retrieval_does_not_depend_on_the_pieces():
    to_wave = ToWave(SMALL, GriffinLimConfig(iterations=4, block=32, overlap=8))
    spectrogram = torch.rand(1, 1, 64, 90)
    whole = to_wave(spectrogram)
    pieces = to_wave.stream(spectrogram.split([1, 40, 9, 40], dim=-1))
    assert_close(torch.cat(list(pieces), dim=-1), whole, rtol=0, atol=0)


def test_vocoder_of_another_rate_is_refused():
    with pytest.raises(UserError, match=r"22050 Hz.*16000 Hz"):
        ToMel(WHOLE, NAMED["hifigan"])


def test_recorded_speech_keeps_its_level_and_its_bands(speech_pack):
    to_mel, differences, loud = ToMel(WHOLE, SPEECH), [], []
    for row in rows_from(str(speech_pack))[:300:60]:
        wave = at_full_scale(load(row.path, 16_000))
        wave = wave[..., : wave.shape[-1] // 1_280 * 1_280]
        own, told = LogMel(SPEECH)(wave), to_mel(framed(Spectrogram(WHOLE), wave))
        differences.append((told - own)[0, :KNOWN])
        loud.append(own[0, :KNOWN] > -3.0)
    difference, above = torch.cat(differences, dim=1), torch.cat(loud, dim=1)
    assert difference[above].abs().mean() < 0.45  # what is above the floor: measured .31
    assert difference.abs().mean() < 1.3  # with what is below it, which nobody knows: measured .98
    assert difference[above].median().abs() < 0.2
