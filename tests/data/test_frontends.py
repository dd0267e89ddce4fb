"""Frontends: equality with librosa and published mels, frame counts, causality, gradients, F0."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.frontends import (
    NAMED,
    LogMel,
    MelConfig,
    mel_filters,
    named_mel,
    stft,
)
from engine.user_error import UserError
from vocoders.wavenet.spoken import f0_pyworld

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("GOLDEN", ROOT / "../shared/golden"))


def golden(name: str) -> dict:
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"{path.name} is not here; set GOLDEN to the folder of published outputs")
    return torch.load(path, weights_only=True)


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0)) * 0.1


def assert_same_bands(ours: torch.Tensor, published: torch.Tensor) -> None:
    """Before the logarithm: it would magnify the rounding of an FFT, below 1e-7, in bands near the floor."""
    assert_close(ours, published, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "output"), [("hifigan", "fmax_8000"), ("hifigan_full_band", "fmax_None")])
def test_hifigan_mel_equals_the_published_one(name, output):
    published = golden("mel_hifigan.pt")
    ours = LogMel(named_mel(name))(published["input"][None])
    assert_same_bands(ours.exp(), published["output"][output].exp())
    assert_close(mel_filters(named_mel(name)), published["state_dict"]["mel_basis" + output[4:]])


def test_melgan_mel_equals_the_published_one():
    published = golden("mel_melgan_audio2mel.pt")
    ours = LogMel(named_mel("melgan"))(published["input"])
    assert_same_bands(10**ours, 10 ** published["output"])


@pytest.mark.reference
@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", "none"])
@pytest.mark.parametrize(
    ("sample_rate", "n_mels", "f_min", "f_max"), [(22050, 80, 0, 8000), (16000, 40, 90, 7600)]
)
def test_filters_match_librosa(scale, norm, sample_rate, n_mels, f_min, f_max):
    librosa = pytest.importorskip("librosa")
    config = MelConfig(
        sample_rate=sample_rate, n_mels=n_mels, f_min=float(f_min), f_max=float(f_max), scale=scale, norm=norm
    )
    theirs = librosa.filters.mel(
        sr=sample_rate,
        n_fft=1024,
        n_mels=n_mels,
        fmin=f_min,
        fmax=f_max,
        htk=scale == "htk",
        norm="slaney" if norm == "slaney" else None,
    )
    assert_close(mel_filters(config), torch.tensor(theirs), rtol=1e-5, atol=1e-7)


@pytest.mark.reference
def test_centred_power_mel_matches_librosa(noise):
    librosa = pytest.importorskip("librosa")
    config = MelConfig(sample_rate=16_000, n_fft=512, win=400, hop=160, power=2, padding="center")
    theirs = librosa.feature.melspectrogram(
        y=noise[0, 0].numpy(),
        sr=16_000,
        n_fft=512,
        win_length=400,
        hop_length=160,
        n_mels=80,
        fmax=8000,
        pad_mode="reflect",
    )
    assert_close(LogMel(config)(noise)[0].exp(), torch.tensor(theirs).clamp_min(1e-5), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMED)
def test_each_mel_definition_gives_one_frame_per_hop(name, noise):
    config = named_mel(name)
    mel = LogMel(config)(noise)
    assert mel.shape == (2, config.n_mels, 8000 // config.hop)
    assert mel.dtype == torch.float32
    assert mel.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(700, 3000), hop=st.integers(50, 300))
def test_same_padding_has_samples_over_hop_frames(samples, hop):
    assert stft(torch.zeros(1, 1, samples), n_fft=512, hop=hop).shape == (1, 257, samples // hop)


def test_causal_frames_do_not_depend_on_the_future(noise):
    config = named_mel("speech16k_causal")
    wave = noise[:1].clone().requires_grad_()
    frame = 20
    LogMel(config)(wave)[..., frame].sum().backward()
    assert wave.grad is not None
    assert not wave.grad[..., (frame + 1) * config.hop :].any()
    assert wave.grad[..., frame * config.hop : (frame + 1) * config.hop].any()


@pytest.mark.parametrize("name", NAMED)
def test_gradients_are_finite_in_digital_silence(name):
    wave = torch.zeros(1, 1, 4000, requires_grad=True)
    LogMel(named_mel(name))(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_autocast_does_not_change_the_mel(noise):
    mel = LogMel(named_mel("speech16k"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mel(noise)
    assert_close(mixed, mel(noise), rtol=0, atol=0)


def test_mel_has_no_state():
    assert not LogMel(MelConfig()).state_dict()


@pytest.mark.parametrize("wrong", [{"f_max": 12_000.0}, {"f_min": 9_000.0}, {"hop": 2048}, {"floor": 0.0}])
def test_impossible_definitions_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        replace(MelConfig(), **wrong)


def test_unknown_definition_is_refused():
    with pytest.raises(UserError, match="hifigan"):
        named_mel("hifi")


def test_too_short_a_wave_is_refused():
    with pytest.raises(ValueError, match="too few"):
        LogMel(MelConfig())(torch.zeros(1, 1, 10))


def test_pyworld_finds_the_pitch_of_a_tone():
    pytest.importorskip("pyworld")
    time = np.arange(16_000) / 16_000
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20)) * 0.2
    f0 = f0_pyworld(torch.tensor(tone, dtype=torch.float32)[None, None], 16_000)[0]
    assert f0.shape == (101,)
    assert abs(f0[20:80].median().item() - 150) < 1
