"""Fitting a voice to its recordings: closer to them, deterministic, cached."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from w2w import Converter, voice_fitting
from w2w.cluit.losses import SpectralDistance
from w2w.networks.network import ConverterNetwork
from w2w.voices import check_fit_steps


@pytest.fixture
def converter(tiny, monkeypatch):
    monkeypatch.setattr(voice_fitting, "SEGMENT_FRAMES", 40)
    torch.manual_seed(5)
    return Converter(ConverterNetwork(tiny()))


@pytest.fixture
def clips(buzz):
    """One voice, twice."""
    return list(buzz(24_000, (140.0, 150.0)).split(1))


def test_fitted_voice_improves_held_out_speech(converter, clips):
    heard, unseen = clips
    voice = converter.embed(heard)
    weights = {name: tensor.clone() for name, tensor in converter.network.state_dict().items()}
    fitted = converter.fit(voice, [heard], steps=80)
    distance = SpectralDistance(converter.sample_rate)
    before, after = (float(distance(converter.convert(unseen, v), unseen)) for v in (voice, fitted))
    assert after < 0.97 * before
    assert fitted[0, -1] == voice[0, -1]  # the mean log-F0
    assert not fitted.requires_grad
    for name, tensor in converter.network.state_dict().items():
        assert_close(tensor, weights[name], rtol=0, atol=0)
    assert all(p.grad is None for p in converter.network.parameters())


def test_fitting_is_deterministic_and_independent_of_level(converter, clips, monkeypatch):
    voice = converter.embed(clips[0])
    first = voice_fitting.fitted(converter.network, voice, clips, steps=3)
    assert_close(voice_fitting.fitted(converter.network, voice, clips, steps=3), first, rtol=0, atol=0)
    quiet = [0.01 * clip for clip in clips]
    assert_close(voice_fitting.fitted(converter.network, voice, quiet, steps=3), first, rtol=0, atol=0.05)


def test_fitted_voice_is_cached(converter, clips, monkeypatch):
    voice = converter.embed(clips[0])
    first = converter.fit(voice, clips, steps=2)
    monkeypatch.setattr(voice_fitting, "fitted", lambda *_, **__: pytest.fail("fitted again"))
    assert_close(converter.fit(voice, clips, steps=2), first, rtol=0, atol=0)
    assert converter.fit(voice, clips, steps=0) is voice
    assert converter.fit(voice, clips) is voice  # tests fit nothing unless they ask


def test_damaged_cache_and_short_clips_are_handled(converter, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMBRE_CACHE", str(tmp_path))
    voice = converter.embed(clips[0])
    first = converter.fit(voice, [clips[0][..., :2_000]], steps=1)
    (kept,) = (tmp_path / "voices").iterdir()
    kept.write_bytes(b"\x93NUMPY")
    assert_close(converter.fit(voice, [clips[0][..., :2_000]], steps=1), first, rtol=0, atol=0)
    assert np.isfinite(first.numpy()).all()


def test_invalid_numbers_of_steps_are_refused():
    with pytest.raises(UserError, match="--fit-steps -1 must be from 0"):
        check_fit_steps(-1)
