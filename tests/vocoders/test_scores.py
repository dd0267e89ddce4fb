"""Scores of copies compared with closed forms: equal, louder, noisy, and pitch-shifted copies."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from data.frontends import LogMel, named_mel
from engine.user_error import UserError
from vocoders.scores import copies as scores
from vocoders.scores.copies import MultiResolutionSTFT
from vocoders.scores.pitch import compare, pitch_scores, pitch_track

RATE = 16_000
HAS_PESQ = pytest.mark.skipif(not scores.has_pesq(), reason="pesq is not installed")


def voice(f0: float = 150.0, seconds: float = 1.0, rate: int = RATE, level: float = 0.1) -> Tensor:
    time = torch.arange(round(seconds * rate)).double() / rate
    partials = [torch.sin(2 * math.pi * k * f0 * time + k) / k for k in range(1, int(0.45 * rate / f0))]
    return (level * torch.stack(partials).sum(0)).float()[None, None]


def noise(seconds: float = 1.0, level: float = 0.1) -> Tensor:
    return level * torch.randn(1, 1, round(seconds * RATE))


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 32_000])
def test_equal_copy_has_perfect_scores(rate: int) -> None:
    wave = voice(rate=rate)
    values = scores.scores(wave, wave.clone(), rate)
    best = {"log_mel_l1": 0, "stft_distance": 0, "periodicity_error": 0, "pitch_error": 0, "vuv_f1": 1}
    assert {name: values[name] for name in best} == best


def test_log_mel_l1_of_a_gain_is_its_logarithm() -> None:
    wave = noise(level=0.3)
    assert scores.log_mel_l1(wave, wave / 2, RATE) == pytest.approx(math.log(2), rel=1e-4)


@pytest.mark.parametrize("gain", [0.5, 0.9, 2.0])
def test_stft_distance_of_a_gain_equals_the_closed_form(gain: float) -> None:
    wave = noise(level=0.3)
    expected = abs(1 - gain) + abs(math.log(gain))
    distance = float(scores.MultiResolutionSTFT()(gain * wave, wave))
    assert distance == pytest.approx(expected, rel=1e-3)


def test_stft_distance_has_gradients_only_for_the_copy() -> None:
    real, copy = noise().requires_grad_(), noise().requires_grad_()
    MultiResolutionSTFT()(copy, real).backward()
    assert real.grad is None
    assert copy.grad is not None
    assert copy.grad.isfinite().all()
    assert copy.grad.any()


def test_stft_distance_and_gradient_are_finite_in_silence() -> None:
    copy = torch.zeros(2, 1, 4096, requires_grad=True)
    loss = MultiResolutionSTFT()(copy, torch.zeros(2, 1, 4096))
    loss.backward()
    assert loss == 0
    assert copy.grad is not None
    assert copy.grad.isfinite().all()


@pytest.mark.parametrize(("gain", "direction"), [(0.3, -1), (3.0, 1)])
def test_stft_distance_gradient_corrects_the_level(gain: float, direction: float) -> None:
    real, factor = noise(seconds=0.25), torch.tensor(gain, requires_grad=True)
    MultiResolutionSTFT()(factor * real, real).backward()
    assert factor.grad is not None
    assert factor.grad.sign() == direction


@pytest.mark.parametrize("f0", [80.0, 151.3, 300.0])
def test_pitch_of_a_harmonic_sound_is_tracked(f0: float) -> None:
    track = pitch_track(voice(f0), RATE)
    inner = slice(5, -5)
    assert track.voiced[inner].all()
    assert (track.periodicity[inner] > 0.98).all()
    np.testing.assert_allclose(1200 * np.log2(track.f0[inner] / f0), 0, atol=5)


def test_noise_and_silence_have_no_pitch() -> None:
    track = pitch_track(noise(), RATE)
    assert track.voiced.mean() < 0.05
    assert track.periodicity.mean() < 0.4
    assert not pitch_track(torch.zeros(1, 1, RATE), RATE).periodicity.any()


def test_noise_copy_has_low_voicing_scores() -> None:
    values = scores.scores(voice(), noise(), RATE)
    assert values["vuv_f1"] < 0.1
    assert values["periodicity_error"] > 0.5


def test_semitone_shift_has_a_pitch_error_of_100_cents() -> None:
    a, b = voice(150), voice(150 * 2 ** (1 / 12))
    values = pitch_scores(a, b, RATE)
    assert values["pitch_error"] == pytest.approx(100, abs=3)
    assert values["vuv_f1"] == 1
    assert values["periodicity_error"] < 0.1


def test_half_voiced_copy_has_vuv_f1_of_two_thirds() -> None:
    half = voice()
    half[..., RATE // 2 :] = 0
    assert pitch_scores(voice(), half, RATE)["vuv_f1"] == pytest.approx(2 / 3, abs=0.03)


def test_scores_without_voiced_frames_are_nan() -> None:
    silent = pitch_track(torch.zeros(1, 1, RATE), RATE)
    values = compare(silent, silent)
    assert math.isnan(values["vuv_f1"])
    assert math.isnan(values["pitch_error"])
    assert values["periodicity_error"] == 0


def test_shorter_copy_is_compared_over_its_length() -> None:
    assert scores.log_mel_l1(voice(), voice()[..., :-500], RATE) < 0.05


@HAS_PESQ
def test_pesq_ranks_noise_and_is_nan_for_silence(speech: Tensor) -> None:
    quiet, loud = (
        scores.pesq(speech, speech + level * torch.randn_like(speech), RATE) for level in (1e-3, 3e-2)
    )
    assert 1 < loud < quiet < scores.pesq(speech, speech, RATE)
    assert scores.pesq(speech, speech, RATE) == pytest.approx(4.64, abs=0.01)
    assert math.isnan(scores.pesq(speech, torch.zeros_like(speech), RATE))


def test_missing_pesq_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    with pytest.raises(UserError, match="pip install pesq"):
        scores.pesq(voice(), voice(), RATE)


def test_evaluate_is_the_mean_over_recordings() -> None:
    log_mel = LogMel(named_mel("speech16k"))
    waves = [voice(120), voice(200)]
    copies = iter([waves[0], 0.5 * waves[1]])
    values = scores.evaluate(lambda mel: next(copies), log_mel, waves)
    expected = scores.log_mel_l1(waves[1], 0.5 * waves[1], RATE) / 2
    assert values["log_mel_l1"] == pytest.approx(expected, rel=1e-5)
    assert values["vuv_f1"] == 1


def test_evaluate_omits_scores_without_values() -> None:
    log_mel = LogMel(named_mel("speech16k"))
    values = scores.evaluate(lambda mel: torch.zeros(1, 1, RATE), log_mel, [torch.zeros(1, 1, RATE)])
    assert set(values) == {"log_mel_l1", "stft_distance", "periodicity_error"}


@pytest.fixture
def speech() -> Tensor:
    """A voice in syllables: PESQ looks for utterances."""
    time = torch.arange(2 * RATE) / RATE
    return voice(seconds=2.0) * (time % 0.5 < 0.35)
