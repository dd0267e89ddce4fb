"""Griffin-Lim for every mel definition and any length: seeds, blocks, and comparison with librosa."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.frontends import LogMel, MelConfig, named_mel, stft
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig

TINY = MelConfig(sample_rate=8_000, n_fft=256, win=256, hop=64, n_mels=40, f_max=4_000.0)
FEW = GriffinLimConfig(iterations=16)


def voice(samples: int, sample_rate: int = 8_000) -> torch.Tensor:
    """A vibrato of harmonics that comes and goes, and a little noise."""
    time = torch.arange(samples) / sample_rate
    phase = 2 * torch.pi * (120 * time + 3 * torch.sin(2 * torch.pi * 3 * time))
    harmonics = torch.stack([torch.sin(n * phase) / n for n in range(1, 20)]).sum(0)
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    return (0.1 * harmonics * torch.sin(2 * torch.pi * 2 * time).abs() + 0.003 * noise)[None, None]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"log": "log10", "magnitude_floor": 0.0},
        {"power": 2, "floor": 1e-8},
        {"scale": "htk", "norm": "none"},
        {"padding": "center", "pad_mode": "constant"},
        {"padding": "causal", "pad_mode": "constant", "win": 192},
        {"padding": "none", "win": 200},
        {"hop": 48, "win": 200},
        {"f_min": 80.0, "f_max": 3_000.0},
    ],
)
def test_wave_has_the_given_mel_for_every_definition(changes):
    config = replace(TINY, **changes)
    log_mel = LogMel(config)
    mel = log_mel(voice(8_000))
    wave = GriffinLim(FEW, config)(mel)
    assert wave.shape == (1, 1, mel.shape[-1] * config.hop)
    new_mel = log_mel(wave)[..., : mel.shape[-1]]
    frames = slice(4, new_mel.shape[-1] - 8)  # edges are mirrored, silent, or missing
    unit = 1.0 if config.log == "ln" else np.log(10.0)
    error = (new_mel[..., frames] - mel[..., frames]).abs().mean() * unit / config.power
    assert error < 0.25


def test_magnitudes_have_the_given_mel_bands():
    mel = LogMel(TINY)(voice(4_000))
    inverter = GriffinLim(GriffinLimConfig(), TINY)
    magnitudes = inverter.magnitudes(mel)
    assert magnitudes.min() >= 0
    bands = (magnitudes @ inverter.filters.T).transpose(1, 2)
    assert float((bands - mel.exp()).norm() / mel.exp().norm()) < 0.01


def test_seed_determines_the_wave_and_rows_are_independent():
    mel = LogMel(TINY)(voice(2_048))
    inverter = GriffinLim(FEW, TINY)
    first, again, other = (inverter(mel, [seed]) for seed in (0, 0, 1))
    assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    both = inverter(mel.expand(2, -1, -1), [0, 1])
    assert_close(both, torch.cat([first, other]), rtol=0, atol=1e-4)


def test_blocks_are_joined_without_seams():
    config = replace(FEW, block=64, overlap=16)
    log_mel = LogMel(TINY)
    mel = log_mel(voice(64 * 300))
    inverter = GriffinLim(config, TINY)
    wave = inverter(mel)
    assert wave.shape[-1] == 300 * 64
    pieces = torch.cat(list(inverter.stream(mel.split([1, 100, 7, 192], dim=-1))), dim=-1)
    assert_close(pieces, wave, rtol=0, atol=0)
    at_once = GriffinLim(FEW, TINY)(mel)
    error, error_at_once = ((log_mel(w) - mel).abs().mean(1)[0] for w in (wave, at_once))
    assert error.mean() < error_at_once.mean() + 0.02
    assert error.max() < error_at_once.max() + 0.25  # at the seams no more than elsewhere


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_shortest_mels_give_finite_waves(frames):
    wave = GriffinLim(FEW, TINY)(torch.full((1, 40, frames), -3.0))
    assert wave.shape == (1, 1, frames * 64)
    assert wave.isfinite().all()


@pytest.mark.parametrize("invalid", [{"momentum": 1.0}, {"iterations": 0}, {"overlap": 6}, {"block": 40}])
def test_invalid_settings_are_refused(invalid):
    with pytest.raises(UserError):
        GriffinLimConfig(**invalid)


@pytest.mark.reference
@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_phase_retrieval_is_as_good_as_librosa(momentum):
    librosa = pytest.importorskip("librosa")
    sizes = {"n_fft": 256, "hop": 64}
    target = stft(voice(8_000), padding="center", **sizes).abs()
    config = replace(TINY, padding="center")
    inverter = GriffinLim(GriffinLimConfig(iterations=32, momentum=momentum), config)
    errors_ours, errors_theirs = [], []
    for seed in range(3):  # single runs differ by a tenth
        turns = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) * 2 * torch.pi
        spectrum = torch.polar(target, turns).transpose(1, 2)
        ours = inverter.phases.find_phases(target.transpose(1, 2), spectrum)[:, None]
        theirs = librosa.griffinlim(
            target[0].numpy(), n_iter=32, hop_length=64, momentum=momentum, random_state=seed
        )
        errors_ours.append((stft(ours, padding="none", **sizes).abs() - target).norm())
        new_mel = stft(torch.from_numpy(theirs)[None, None], padding="center", **sizes).abs()
        errors_theirs.append((new_mel - target).norm())
    assert sum(errors_ours) < 1.1 * sum(errors_theirs)


@pytest.mark.reference
def test_mel_inversion_is_as_good_as_librosa():
    librosa = pytest.importorskip("librosa")
    config = replace(named_mel("hifigan"), padding="center")
    log_mel = LogMel(config)
    mel = log_mel(voice(22_016, 22_050))
    ours = GriffinLim(GriffinLimConfig(iterations=32), config)(mel)[..., :22_016]
    theirs = librosa.feature.inverse.mel_to_audio(
        mel[0].exp().numpy(), sr=22_050, n_fft=1024, hop_length=256, power=1.0, n_iter=32, fmax=8_000.0
    )
    error_ours, error_theirs = (
        (log_mel(wave) - mel)[..., 2:-2].abs().mean() for wave in (ours, torch.from_numpy(theirs)[None, None])
    )
    assert error_ours < 1.05 * error_theirs
