"""Augmentation: seeded, per item, with the stated level, F0, envelope, filter responses and decay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.augment import (
    Augment,
    AugmentConfig,
    gain,
    hum,
    knock,
    noise,
    parametric_eq,
    peak_response,
    pitch_and_formant_shift,
    reverberation,
    shelf_response,
    sign,
)
from data.pitch_shift import shift_pitch_and_formants, stretch
from engine.user_error import UserError

RATE = 16_000
CHANGES = {
    "gain": gain,
    "sign": sign,
    "noise": noise,
    "hum": lambda wave, rng: hum(wave, rng, sample_rate=RATE),
    "knock": lambda wave, rng: knock(wave, rng, sample_rate=RATE),
    "shift": lambda wave, rng: pitch_and_formant_shift(wave, rng, sample_rate=RATE),
    "eq": lambda wave, rng: parametric_eq(wave, rng, sample_rate=RATE),
    "reverberation": lambda wave, rng: reverberation(wave, rng, sample_rate=RATE),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vowel(
    f0: float, formants: tuple[float, ...] = (700.0, 1200.0, 2600.0), samples: int = 16_000
) -> torch.Tensor:
    """Harmonics of a slightly gliding pitch under resonances, shaped (1, 1, samples)."""
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.03 * np.sin(2 * np.pi * 3 * time))) / RATE
    wave = np.zeros(samples)
    for k in range(1, int(RATE / 2 / f0)):
        level = sum(1 / (1 + ((k * f0 - f) / 130) ** 2) for f in formants) + 0.002
        wave += level * np.cos(k * phase + k * k)
    return torch.tensor(wave / np.abs(wave).max() * 0.5, dtype=torch.float32)[None, None]


def f0_of(wave: torch.Tensor, near: float) -> float:
    """Mean pitch by interpolated autocorrelation, searched within a quarter of the expected one."""
    window, n_fft = torch.hann_window(800), 2**15
    spectrum = torch.fft.rfft(wave[0, 0].unfold(0, 800, 400) * window, 2048).abs().square()
    # A longer inverse interpolates: 16 lags a sample.
    correlation = torch.fft.irfft(spectrum, n_fft) / torch.fft.irfft(
        torch.fft.rfft(window, 2048).abs().square(), n_fft
    )
    first, last = int(16 * RATE / near / 1.25), int(16 * RATE / near * 1.25)
    return 16 * RATE / (correlation[:, first:last].argmax(1) + first).float().median().item()


def only_formant(wave: torch.Tensor) -> float:
    """The centre frequency of a vowel with a single formant."""
    power = torch.fft.rfft(wave[0, 0] * torch.hann_window(wave.shape[-1])).abs().square()
    frequency = torch.fft.rfftfreq(wave.shape[-1], 1 / RATE)
    return ((power * frequency).sum() / power.sum()).item()


@pytest.fixture
def waves() -> torch.Tensor:
    return torch.cat([vowel(f0, samples=4000) for f0 in (110.0, 150.0, 220.0)])


@pytest.mark.parametrize("name", CHANGES)
def test_augmentation_is_a_function_of_wave_and_generator(name, waves):
    before = waves.clone()
    one, two = CHANGES[name](waves, seeded()), CHANGES[name](waves, seeded())
    assert_close(one, two, rtol=0, atol=0)
    assert_close(waves, before, rtol=0, atol=0)
    assert one.shape == waves.shape
    assert one.dtype == waves.dtype
    assert one.isfinite().all()
    rng = seeded()
    drawn = [CHANGES[name](waves, rng) for _ in range(6)]
    assert any(not torch.equal(one, other) for other in drawn[1:])


@pytest.mark.parametrize("name", CHANGES)
def test_silence_stays_finite(name):
    assert CHANGES[name](torch.zeros(2, 1, 3000), seeded()).isfinite().all()


@pytest.mark.parametrize("name", CHANGES)
def test_any_length_is_kept(name):
    for samples in (1, 700, 4001):
        wave = torch.randn(2, 1, samples, generator=seeded())
        assert CHANGES[name](wave, seeded()).shape == wave.shape


def test_items_have_independent_parameters(waves):
    same = waves[:1].expand(8, -1, -1)
    for name in ("gain", "noise", "eq", "reverberation", "shift"):
        changed = CHANGES[name](same, seeded())
        assert len(torch.unique(changed[:, 0, 1000])) == 8, name


def test_gain_stays_in_its_range():
    wave = torch.ones(500, 1, 1)
    db = 20 * gain(wave, seeded(), gain_db=(-9.0, 3.0)).log10()
    assert -9 <= db.min() < -8.5
    assert 2.5 < db.max() <= 3


def test_sign_inverts_half_of_the_items():
    turned = sign(torch.ones(1000, 1, 1), seeded())
    assert set(turned.flatten().tolist()) == {-1.0, 1.0}
    assert 400 < (turned < 0).sum() < 600


@pytest.mark.parametrize("snr", [0.0, 12.0, 30.0])
def test_noise_has_the_requested_snr(snr, waves):
    added = noise(waves, seeded(), snr_db=(snr, snr)) - waves
    measured = 10 * (waves.square().mean(-1) / added.square().mean(-1)).log10()
    assert_close(measured, torch.full((3, 1), snr), atol=0.01, rtol=0)


def test_noise_is_white_or_pink():
    wave = torch.ones(40, 1, 8192)
    spectrum = torch.fft.rfft(noise(wave, seeded(), snr_db=(0.0, 0.0)) - wave)[:, 0].abs().square()
    slopes = 10 * (spectrum[:, 1024:2048].mean(1) / spectrum[:, 128:256].mean(1)).log10()
    pink = slopes < -4.5
    assert 10 < pink.sum() < 30
    assert_close(slopes[pink].mean(), torch.tensor(-9.0), atol=0.6, rtol=0)  # 3 dB in each of three octaves
    assert_close(slopes[~pink].mean(), torch.tensor(0.0), atol=0.6, rtol=0)


def test_hum_has_mains_frequency_and_knocks_decay():
    wave = torch.ones(20, 1, RATE)
    added = hum(wave, seeded(), sample_rate=RATE, hum_db=(20.0, 20.0)) - wave
    assert_close(added.square().mean(-1), torch.full((20, 1), 0.01), atol=1e-4, rtol=0)
    lines = torch.fft.rfft(added)[:, 0].abs().square()
    at_mains = lines[:, 50::50].sum(1).maximum(lines[:, 60::60].sum(1))
    assert (at_mains > 0.999 * lines.sum(1)).all()
    burst = (knock(wave, seeded(), sample_rate=RATE) - wave).abs()[:, 0]
    first = (burst > 0).int().argmax(1)
    assert len(set(first.tolist())) > 10
    for row, start in zip(burst, first):
        assert row[start : start + 160].mean() > 2 * row[start + 8_000 : start + 8_160].sum() / 160


@pytest.mark.parametrize("semitones", [-5.0, -2.0, 3.0, 6.0])
@pytest.mark.parametrize("f0", [100.0, 200.0])
def test_pitch_shift_preserves_formants(semitones, f0):
    wave = vowel(f0, formants=(900.0,))
    moved = shift_pitch_and_formants(wave, torch.tensor([semitones]), torch.zeros(1), RATE)
    should = f0 * 2 ** (semitones / 12)
    assert 12 * np.log2(f0_of(moved, should) / f0_of(wave, f0)) == pytest.approx(semitones, abs=0.25)
    assert only_formant(moved) == pytest.approx(only_formant(wave), rel=0.08)


@pytest.mark.parametrize("semitones", [-4.0, 4.0])
def test_formant_shift_preserves_pitch(semitones):
    wave = vowel(110.0, formants=(1000.0,))
    moved = shift_pitch_and_formants(wave, torch.zeros(1), torch.tensor([semitones]), RATE)
    assert f0_of(moved, 110.0) == pytest.approx(f0_of(wave, 110.0), rel=0.005)
    assert only_formant(moved) / only_formant(wave) == pytest.approx(2 ** (semitones / 12), rel=0.05)


def test_shift_by_zero_is_the_identity(waves):
    assert_close(
        shift_pitch_and_formants(waves, torch.zeros(3), torch.zeros(3), RATE), waves, atol=1e-4, rtol=0
    )


def test_shift_preserves_level_and_timing(waves):
    burst = torch.zeros(1, 1, 16_000)
    burst[..., 6000:10_000] = vowel(130.0, samples=4000)
    moved = shift_pitch_and_formants(burst, torch.tensor([4.0]), torch.tensor([-2.0]), RATE)
    assert_close(moved.square().mean(), burst.square().mean(), rtol=1e-3, atol=0)
    centre = (moved.square()[0, 0] * torch.arange(16_000)).sum() / moved.square().sum()
    was = (burst.square()[0, 0] * torch.arange(16_000)).sum() / burst.square().sum()
    assert abs(centre - was) < 160


def test_shift_of_an_item_does_not_depend_on_its_batch(waves):
    pitch, formant = torch.tensor([3.0, -4.0, 1.0]), torch.tensor([-1.0, 2.0, 0.0])
    together = shift_pitch_and_formants(waves, pitch, formant, RATE)
    for i in range(3):
        alone = shift_pitch_and_formants(waves[i : i + 1], pitch[i : i + 1], formant[i : i + 1], RATE)
        assert_close(together[i : i + 1], alone, atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor", [0.7, 1.5])
def test_stretching_preserves_pitch(factor):
    wave = vowel(140.0)
    slow = stretch(wave[:, 0], torch.tensor([factor], dtype=torch.float64), RATE)
    assert slow.shape[-1] == pytest.approx(factor * 16_000, abs=1)
    assert f0_of(slow[:, None], 140.0) == pytest.approx(f0_of(wave, 140.0), rel=0.01)


def test_equaliser_responses_match_their_definitions():
    frequency = torch.tensor([0.0, 1000.0, 8000.0])
    item = lambda value: torch.full((1, 1, 1), value)  # noqa: E731
    peak = peak_response(frequency, item(1000.0), item(6.0), item(2.0), RATE).abs()
    low = shelf_response(frequency, item(1000.0), item(6.0), RATE, high=False).abs()
    high = shelf_response(frequency, item(1000.0), item(-6.0), RATE, high=True).abs()
    decibels = [20 * response.flatten().log10() for response in (peak, low, high)]
    assert_close(decibels[0], torch.tensor([0.0, 6.0, 0.0]), atol=1e-3, rtol=0)
    assert_close(decibels[1], torch.tensor([6.0, 3.0, 0.0]), atol=1e-3, rtol=0)
    assert_close(decibels[2], torch.tensor([0.0, -3.0, -6.0]), atol=1e-3, rtol=0)


@pytest.mark.reference
def test_equaliser_filters_match_torchaudio():
    functional = pytest.importorskip("torchaudio.functional")
    impulse = torch.zeros(1, 4096)
    impulse[0, 0] = 0.1  # torchaudio clips
    item = lambda value: torch.full((1, 1, 1), value)  # noqa: E731
    frequency = torch.fft.rfftfreq(4096, 1 / RATE)
    theirs = torch.fft.rfft(functional.equalizer_biquad(impulse, RATE, 900.0, -7.0, 1.5))
    ours = peak_response(frequency, item(900.0), item(-7.0), item(1.5), RATE)[0]
    assert_close(ours, theirs * 10, atol=1e-3, rtol=0)
    theirs = torch.fft.rfft(functional.treble_biquad(impulse, RATE, 5.0, 3000.0, 0.5**0.5))
    ours = shelf_response(frequency, item(3000.0), item(5.0), RATE, high=True)[0]
    assert_close(ours, theirs * 10, atol=1e-3, rtol=0)


def test_equaliser_gain_stays_in_its_range(waves):
    flat = torch.zeros(50, 1, 4000)
    flat[..., 0] = 1
    gains = 20 * torch.fft.rfft(parametric_eq(flat, seeded(), sample_rate=RATE, gain_db=3.0)).abs().log10()
    assert gains.abs().max() < 6 * 3 + 0.5
    assert 0.5 < gains.std() < 4
    assert_close(parametric_eq(waves, seeded(), sample_rate=RATE, gain_db=0.0), waves, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [0.15, 0.5])
def test_reverberation_has_the_requested_decay_time(seconds):
    impulse = torch.zeros(8, 1, 16_000)
    impulse[..., 0] = 1
    room = reverberation(
        impulse, seeded(), sample_rate=RATE, decay_seconds=(seconds, seconds), direct_db=(5.0, 5.0)
    )
    assert_close(room[..., 0], torch.ones(8, 1), atol=1e-4, rtol=0)
    late = room[..., 1:].square()
    assert_close(-10 * late.sum(-1).log10(), torch.full((8, 1), 5.0), atol=0.01, rtol=0)
    left = 10 * (late.flip(-1).cumsum(-1).flip(-1) / late.sum(-1, keepdim=True)).clamp_min(1e-12).log10()
    # Between -5 and -25 dB a third of the decay passes.
    third = ((left > -25).sum(-1) - (left > -5).sum(-1)).float() / RATE
    assert_close(third.mean().item(), seconds / 3, rtol=0.1, atol=0)


def test_gradients_pass_except_through_the_shift(waves):
    for name in ("gain", "sign", "noise", "eq", "reverberation"):
        wave = waves.clone().requires_grad_()
        CHANGES[name](wave, seeded()).square().sum().backward()
        assert wave.grad is not None, name
        assert wave.grad.isfinite().all()
        assert wave.grad.any()


def test_probabilities_select_items():
    off = AugmentConfig(gain=0.0, sign=0.0)
    wave = torch.randn(300, 1, 100, generator=seeded())
    assert_close(Augment(off, RATE)(wave, seeded()), wave, rtol=0, atol=0)
    some = Augment(replace(off, noise=0.3), RATE)(wave, seeded())
    assert 60 < (some != wave).any(-1).sum() < 120
    assert (Augment(replace(off, noise=1.0), RATE)(wave, seeded()) != wave).any(-1).all()


def test_all_augmentations_together_are_seeded(waves):
    config = AugmentConfig(shift=0.7, eq=0.7, reverberation=0.7, noise=0.7)
    augment, before = Augment(config, RATE), waves.clone()
    assert_close(augment(waves, seeded(4)), augment(waves, seeded(4)), rtol=0, atol=0)
    assert not torch.equal(augment(waves, seeded(4)), augment(waves, seeded(5)))
    assert_close(waves, before, rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [{"shift": 1.5}, {"snr_db": (20.0, 10.0)}, {"decay_seconds": (0.0, 1.0)}])
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        AugmentConfig(**wrong)
