"""Linear prediction from log-mels: accuracy, stability, and inversion of the filters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.frontends import LogMel, MelConfig, named_mel
from engine.user_error import UserError
from vocoders.wavenet.prediction import (
    MelPrediction,
    PredictionConfig,
    Predictor,
    excitation,
    levinson_durbin,
    predict,
    synthesize,
)

MEL = named_mel("speech16k")


def all_pole(coefficients: list[float], n_samples: int = 25_600) -> torch.Tensor:
    """White noise of level .01 through a fixed filter."""
    taps = torch.tensor(coefficients)[None, :, None]
    n_filters = n_samples // 100
    fixed = Predictor(taps.expand(1, -1, n_filters), torch.full((1, 1, n_filters), 0.01), 100)
    return synthesize(torch.randn(1, 1, n_samples), fixed)[0]


def random_predictor(n_filters: int, batch: int = 1) -> Predictor:
    return Predictor(0.1 * torch.randn(batch, 5, n_filters), 0.5 + torch.rand(batch, 1, n_filters), 10)


@given(order=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_levinson_durbin_solves_the_normal_equations(order, seed):
    spectrum = torch.rand(3, 65, generator=torch.Generator().manual_seed(seed)).double() + 0.01
    lags = torch.fft.irfft(spectrum)[:, : order + 1]
    coefficients, error = levinson_durbin(lags)
    toeplitz = lags[:, (torch.arange(order)[:, None] - torch.arange(order)).abs()]
    assert_close(coefficients, torch.linalg.solve(toeplitz, lags[:, 1:]))
    assert_close(error, lags[:, 0] - (coefficients * lags[:, 1:]).sum(-1))


def test_filter_is_recovered_from_the_mel():
    wave = all_pole([1.2, -0.8])
    found = MelPrediction(PredictionConfig(order=2), MEL)(LogMel(MEL)(wave))
    assert_close(found.coefficients.mean(-1)[0], torch.tensor([1.2, -0.8]), atol=0.05, rtol=0)
    assert_close(found.gain.median(), torch.tensor(0.01), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["speech16k", "hifigan", "melgan", "speech24k"])
def test_excitation_is_white_and_of_unit_level(name):
    mel = named_mel(name)
    wave = all_pole([1.6, -0.9])[..., : 100 * mel.hop]
    residual = excitation(wave, MelPrediction(PredictionConfig(), mel)(LogMel(mel)(wave)))
    level = residual.square().mean().sqrt().item()
    neighbours = (residual[..., 1:] * residual[..., :-1]).mean().item() / level**2
    assert 0.7 < level < 1.5
    assert abs(neighbours) < 0.25  # .9 in the wave; above f_max the mel says nothing


def test_synthesis_inverts_the_excitation():
    wave = 0.3 * torch.randn(2, 1, 8_000) * torch.linspace(0, 1, 8_000)
    found = MelPrediction(PredictionConfig(), MEL)(LogMel(MEL)(wave))
    assert_close(synthesize(excitation(wave, found), found)[0], wave, atol=1e-5, rtol=0)


@given(cut=st.integers(1, 7))
@settings(max_examples=7, deadline=None)
def test_synthesis_in_blocks_equals_the_whole(cut):
    residual, whole = torch.randn(2, 1, 8 * 10), random_predictor(8, batch=2)
    first, second = (
        Predictor(whole.coefficients[..., span], whole.gain[..., span], 10)
        for span in (slice(cut), slice(cut, None))
    )
    begun, past = synthesize(residual[..., : cut * 10], first)
    ended, _ = synthesize(residual[..., cut * 10 :], second, past)
    assert_close(torch.cat([begun, ended], dim=-1), synthesize(residual, whole)[0])
    wave = torch.cat([begun, ended], dim=-1)
    assert_close(predict(ended, second, past), predict(wave, whole)[..., cut * 10 :])


@pytest.mark.parametrize("seed", range(3))
def test_filters_of_random_mels_are_stable(seed):
    mel = (torch.rand(1, 80, 20) * 1.3 - 0.8).mul(14)  # far rougher than a wave's
    found = MelPrediction(PredictionConfig(), MEL)(mel)
    assert torch.isfinite(found.gain).all()
    assert (found.gain > 0).all()
    taps = found.coefficients.shape[1]
    companion = torch.diag(torch.ones(taps - 1), -1).repeat(found.coefficients.shape[-1], 1, 1).double()
    companion[:, 0] = found.coefficients[0].T
    assert torch.linalg.eigvals(companion).abs().max() < 1


def test_silence_has_no_excitation():
    silence = torch.zeros(1, 1, 4_800)
    residual = excitation(silence, MelPrediction(PredictionConfig(), MEL)(LogMel(MEL)(silence)))
    assert not residual.any()


def test_prediction_depends_only_on_past_samples():
    wave, fixed = torch.randn(1, 1, 40, requires_grad=True), random_predictor(4)
    predict(wave, fixed)[..., 17].sum().backward()
    assert wave.grad is not None
    assert not wave.grad[..., 17:].any()
    assert wave.grad[..., 12:17].all()


@pytest.mark.parametrize("invalid", [{"order": 0}, {"white_noise": 0.0}])
def test_invalid_prediction_settings_are_refused(invalid):
    with pytest.raises(UserError, match=next(iter(invalid))):
        PredictionConfig(**invalid)


def test_subframes_must_divide_the_hop():
    with pytest.raises(UserError, match="must divide the hop"):
        MelPrediction(PredictionConfig(subframes=3), MelConfig())
