"""Scores of copies against closed forms: equal, louder, noisy, another pitch."""

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
def test_an_equal_copy_is_perfect(rate: int) -> None:
    wave = voice(rate=rate)
    found = scores.scores(wave, wave.clone(), rate)
    best = {"log_mel_l1": 0, "stft_distance": 0, "periodicity_error": 0, "pitch_error": 0, "vuv_f1": 1}
    assert {name: found[name] for name in best} == best


def test_a_gain_moves_every_log_mel_by_its_logarithm() -> None:
    wave = noise(level=0.3)
    assert scores.log_mel_l1(wave, wave / 2, RATE) == pytest.approx(math.log(2), rel=1e-4)


def test_decades_are_not_nepers() -> None:
    """A definition in log10 judges as one in ln does, or scores of two vocoders could not be compared."""
    wave, mel = torch.randn(1, 1, 22_050), named_mel("melgan")
    assert scores.log_mel_l1(wave, wave / 2, 22_050, mel) == pytest.approx(math.log(2), rel=1e-4)


@pytest.mark.parametrize("gain", [0.5, 0.9, 2.0])
def test_a_gain_has_the_distance_that_the_paper_gives(gain: float) -> None:
    wave = noise(level=0.3)
    expected = abs(1 - gain) + abs(math.log(gain))
    distance = float(scores.MultiResolutionSTFT()(gain * wave, wave))
    assert distance == pytest.approx(expected, rel=1e-3)


def test_the_distance_teaches_the_copy_and_not_the_recording() -> None:
    real, made = noise().requires_grad_(), noise().requires_grad_()
    MultiResolutionSTFT()(made, real).backward()
    assert real.grad is None
    assert made.grad is not None
    assert made.grad.isfinite().all()
    assert made.grad.any()


def test_silence_has_a_finite_distance_and_gradient() -> None:
    made = torch.zeros(2, 1, 4096, requires_grad=True)
    loss = MultiResolutionSTFT()(made, torch.zeros(2, 1, 4096))
    loss.backward()
    assert loss == 0
    assert made.grad is not None
    assert made.grad.isfinite().all()


@pytest.mark.parametrize(("gain", "direction"), [(0.3, -1), (3.0, 1)])
def test_the_gradient_points_at_the_level(gain: float, direction: float) -> None:
    real, factor = noise(seconds=0.25), torch.tensor(gain, requires_grad=True)
    MultiResolutionSTFT()(factor * real, real).backward()
    assert factor.grad is not None
    assert factor.grad.sign() == direction


@pytest.mark.parametrize("f0", [80.0, 151.3, 300.0])
def test_the_pitch_of_a_voice_is_found(f0: float) -> None:
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


def test_a_whispered_copy_loses_voicing() -> None:
    found = scores.scores(voice(), noise(), RATE)
    assert found["vuv_f1"] < 0.1
    assert found["periodicity_error"] > 0.5


def test_a_copy_a_semitone_off_is_a_hundred_cents_off() -> None:
    a, b = voice(150), voice(150 * 2 ** (1 / 12))
    found = pitch_scores(a, b, RATE)
    assert found["pitch_error"] == pytest.approx(100, abs=3)
    assert found["vuv_f1"] == 1
    assert found["periodicity_error"] < 0.1


def test_half_the_voice_has_two_thirds_of_f1() -> None:
    half = voice()
    half[..., RATE // 2 :] = 0
    assert pitch_scores(voice(), half, RATE)["vuv_f1"] == pytest.approx(2 / 3, abs=0.03)


def test_nothing_voiced_is_no_score() -> None:
    silent = pitch_track(torch.zeros(1, 1, RATE), RATE)
    found = compare(silent, silent)
    assert math.isnan(found["vuv_f1"])
    assert math.isnan(found["pitch_error"])
    assert found["periodicity_error"] == 0


def test_a_shorter_copy_is_compared_as_far_as_it_goes() -> None:
    assert scores.log_mel_l1(voice(), voice()[..., :-500], RATE) < 0.05


def test_a_mel_of_another_rate_is_refused() -> None:
    with pytest.raises(UserError, match="22050 Hz cannot score waves at 16000 Hz"):
        scores.log_mel_l1(voice(), voice(), RATE, named_mel("hifigan"))


@HAS_PESQ
def test_pesq_prefers_less_noise_and_gives_silence_no_score(speech: Tensor) -> None:
    quiet, loud = (
        scores.pesq(speech, speech + level * torch.randn_like(speech), RATE) for level in (1e-3, 3e-2)
    )
    assert 1 < loud < quiet < scores.pesq(speech, speech, RATE)
    assert scores.pesq(speech, speech, RATE) == pytest.approx(4.64, abs=0.01)
    assert math.isnan(scores.pesq(speech, torch.zeros_like(speech), RATE))


def test_pesq_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    with pytest.raises(UserError, match="pip install pesq"):
        scores.pesq(voice(), voice(), RATE)


def test_evaluate_is_the_mean_over_recordings() -> None:
    log_mel = LogMel(named_mel("speech16k"))
    waves = [voice(120), voice(200)]
    copies = iter([waves[0], 0.5 * waves[1]])
    found = scores.evaluate(lambda mel: next(copies), log_mel, waves)
    expected = scores.log_mel_l1(waves[1], 0.5 * waves[1], RATE) / 2
    assert found["log_mel_l1"] == pytest.approx(expected, rel=1e-5)
    assert found["vuv_f1"] == 1


def test_evaluate_leaves_out_what_nobody_scored() -> None:
    log_mel = LogMel(named_mel("speech16k"))
    found = scores.evaluate(lambda mel: torch.zeros(1, 1, RATE), log_mel, [torch.zeros(1, 1, RATE)])
    assert set(found) == {"log_mel_l1", "stft_distance", "periodicity_error"}


@pytest.fixture
def speech() -> Tensor:
    """A voice in syllables: PESQ looks for utterances."""
    time = torch.arange(2 * RATE) / RATE
    return voice(seconds=2.0) * (time % 0.5 < 0.35)
