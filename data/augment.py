"""Random augmentations of waves that preserve the linguistic content, as functions of wave and generator.

Every item of a batch has its own random parameters, drawn on the generator's device: a CPU generator gives
the same augmentations on every machine. Gradients pass, except through ``pitch_and_formant_shift``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError, within

Wave = Float[Tensor, "batch 1 samples"]
PerItem = Float[Tensor, "batch 1 1"]
Range = tuple[float, float]
EQ_TAIL_SECONDS = 0.1
"""Zero padding for the ringing of a filter, against circular convolution."""
PREDELAY_SECONDS = (0.002, 0.02)
"""Time between the direct sound and the reverberation."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities and ranges of the augmentations, in order of application."""

    shift: float = 0.0
    """Probability of a pitch and formant shift."""
    pitch_semitones: float = 4.0
    """Maximum pitch shift in semitones, up or down."""
    formant_semitones: float = 2.5
    """Maximum formant shift in semitones, up or down; 2.5 semitones are a factor of 1.16."""
    eq: float = 0.0
    """Probability of a random equaliser."""
    eq_gain_db: float = 9.0
    """Maximum gain of each filter of the equaliser in dB, up or down."""
    reverberation: float = 0.0
    """Probability of random reverberation."""
    decay_seconds: Range = (0.1, 0.6)
    """Range of the reverberation time RT60 (decay by 60 dB) in seconds."""
    direct_db: Range = (0.0, 15.0)
    """Range of the direct-to-reverberant energy ratio in dB."""
    noise: float = 0.0
    """Probability of added noise, white or pink."""
    snr_db: Range = (10.0, 40.0)
    """Range of the signal-to-noise ratio in dB."""
    hum: float = 0.0
    """Probability of added mains hum."""
    hum_db: Range = (0.0, 50.0)
    """Range of the signal-to-hum ratio in dB."""
    knock: float = 0.0
    """Probability of an added knock, a decaying burst of noise."""
    knock_db: Range = (-20.0, 0.0)
    """Range of the ratio of the signal to the beginning of the knock in dB."""
    gain: float = 1.0
    """Probability of a random gain."""
    gain_db: Range = (-12.0, 0.0)
    """Range of the gain in dB."""
    sign: float = 1.0
    """Probability of a random sign, which inverts half of those waves."""

    def __post_init__(self) -> None:
        within("[0, 1]", self, "shift", "eq", "reverberation", "noise", "hum", "knock", "gain", "sign")
        for name in ("decay_seconds", "direct_db", "snr_db", "hum_db", "knock_db", "gain_db"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"{name}={low, high} must begin with the lower limit")
        if self.decay_seconds[0] <= 0:
            raise UserError(f"decay_seconds={self.decay_seconds} must be above 0")


class Augment:
    """A chain of augmentations, each applied to a random subset of the batch."""

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        c, here = config, {"sample_rate": sample_rate}
        semitones = {"pitch_semitones": c.pitch_semitones, "formant_semitones": c.formant_semitones}
        room: dict[str, Any] = {"decay_seconds": c.decay_seconds, "direct_db": c.direct_db}
        self.steps: list[tuple[float, Callable[[Wave, torch.Generator], Wave]]] = [
            (c.shift, partial(pitch_and_formant_shift, **here, **semitones)),
            (c.eq, partial(parametric_eq, **here, gain_db=c.eq_gain_db)),
            (c.reverberation, partial(reverberation, **here, **room)),
            (c.noise, partial(noise, snr_db=c.snr_db)),
            (c.hum, partial(hum, **here, hum_db=c.hum_db)),
            (c.knock, partial(knock, **here, knock_db=c.knock_db)),
            (c.gain, partial(gain, gain_db=c.gain_db)),
            (c.sign, sign),
        ]

    def __call__(self, wave: Wave, rng: torch.Generator) -> Wave:
        for probability, change in self.steps:
            chosen = _uniform(rng, wave, (0.0, 1.0))[:, 0, 0] < probability
            if chosen.all():
                wave = change(wave, rng)
            elif chosen.any():
                wave = wave.clone()
                wave[chosen] = change(wave[chosen], rng)
        return wave


def gain(wave: Wave, rng: torch.Generator, *, gain_db: Range = (-12.0, 0.0)) -> Wave:
    return wave * 10 ** (_uniform(rng, wave, gain_db) / 20)


def sign(wave: Wave, rng: torch.Generator) -> Wave:
    """Invert half of the waves, which is inaudible."""
    return wave * torch.where(_uniform(rng, wave, (0.0, 1.0)) < 0.5, -1.0, 1.0)


def pitch_and_formant_shift(
    wave: Wave,
    rng: torch.Generator,
    *,
    sample_rate: int,
    pitch_semitones: float = 4.0,
    formant_semitones: float = 2.5,
) -> Wave:
    """Shift pitch and formants independently by up to these distances; the duration is preserved."""
    from data.pitch_shift import shift_pitch_and_formants  # rarely used

    pitch = _uniform(rng, wave, (-pitch_semitones, pitch_semitones))[:, 0, 0]
    formant = _uniform(rng, wave, (-formant_semitones, formant_semitones))[:, 0, 0]
    return shift_pitch_and_formants(wave, pitch, formant, sample_rate)


def parametric_eq(
    wave: Wave, rng: torch.Generator, *, sample_rate: int, gain_db: float = 9.0, n_peaks: int = 4
) -> Wave:
    """Filter by a random low shelf, high shelf and peaks between them (second-order sections)."""
    n_samples, gains = wave.shape[-1], (-gain_db, gain_db)
    n_fft = _fast_length(n_samples + round(EQ_TAIL_SECONDS * sample_rate))
    frequency = torch.fft.rfftfreq(n_fft, 1 / sample_rate, device=wave.device)
    nyquist = sample_rate / 2
    low = _log_uniform(rng, wave, (60.0, 300.0))
    high = _log_uniform(rng, wave, (0.4 * nyquist, 0.8 * nyquist))
    response = shelf_response(frequency, low, _uniform(rng, wave, gains), sample_rate, high=False)
    response = response * shelf_response(frequency, high, _uniform(rng, wave, gains), sample_rate, high=True)
    for _ in range(n_peaks):
        centre, q = _log_uniform(rng, wave, (100.0, 0.8 * nyquist)), _log_uniform(rng, wave, (0.5, 4.0))
        response = response * peak_response(frequency, centre, _uniform(rng, wave, gains), q, sample_rate)
    return torch.fft.irfft(torch.fft.rfft(wave, n_fft) * response, n_fft)[..., :n_samples]


def noise(wave: Wave, rng: torch.Generator, *, snr_db: Range = (10.0, 40.0)) -> Wave:
    """Add white or pink noise at a random signal-to-noise ratio."""
    white = torch.randn(wave.shape, generator=rng, device=rng.device).to(wave)
    spectrum = torch.fft.rfft(white)
    bins = torch.arange(spectrum.shape[-1], device=wave.device).clamp_min(1)
    pink = torch.fft.irfft(spectrum / bins.sqrt(), wave.shape[-1])
    added = torch.where(_uniform(rng, wave, (0.0, 1.0)) < 0.5, white, pink)
    return wave + _below(wave, added, _uniform(rng, wave, snr_db))


def hum(
    wave: Wave, rng: torch.Generator, *, sample_rate: int, hum_db: Range = (0.0, 50.0), n_harmonics: int = 6
) -> Wave:
    """Add hum of 50 or 60 Hz with random harmonics (amplitude, phase) at a random signal-to-hum ratio."""
    mains = torch.where(_uniform(rng, wave, (0.0, 1.0)) < 0.5, 50.0, 60.0)
    time = torch.arange(wave.shape[-1], device=wave.device) / sample_rate
    added = torch.zeros_like(wave)
    for harmonic in range(1, n_harmonics + 1):
        phase, share = _uniform(rng, wave, (0.0, math.tau)), _log_uniform(rng, wave, (0.01, 1.0))
        added = added + share ** (harmonic > 1) * torch.sin(math.tau * harmonic * mains * time + phase)
    return wave + _below(wave, added, _uniform(rng, wave, hum_db))


def knock(wave: Wave, rng: torch.Generator, *, sample_rate: int, knock_db: Range = (-20.0, 0.0)) -> Wave:
    """Add a burst of noise at a random position, with a decay time (1/e) of 10 to 100 ms."""
    time = torch.arange(wave.shape[-1], device=wave.device) / sample_rate
    since = time - _uniform(rng, wave, (0.0, wave.shape[-1] / sample_rate))
    decay = torch.exp(-since.clamp_min(0.0) / _log_uniform(rng, wave, (0.01, 0.1)))
    fall = torch.where(since < 0, 0.0, decay)
    white = torch.randn(wave.shape, generator=rng, device=rng.device).to(wave)
    return wave + fall * _below(wave, white, _uniform(rng, wave, knock_db))


def _below(wave: Wave, added: Wave, ratio_db: PerItem) -> Wave:
    """Scale ``added`` to a power of ``ratio_db`` below that of the wave."""
    ratio = wave.square().mean(-1, keepdim=True) / added.square().mean(-1, keepdim=True).clamp_min(1e-20)
    return added * (ratio * 10 ** (-ratio_db / 10)).sqrt()


def reverberation(
    wave: Wave,
    rng: torch.Generator,
    *,
    sample_rate: int,
    decay_seconds: Range = (0.1, 0.6),
    direct_db: Range = (0.0, 15.0),
) -> Wave:
    """Add reverberation: a convolution with exponentially decaying noise; the direct sound is not delayed."""
    n_samples = wave.shape[-1]
    n_tail = min(n_samples, round(decay_seconds[1] * sample_rate))
    time = torch.arange(n_tail, device=wave.device) / sample_rate
    decay = 10 ** (-3 * time / _uniform(rng, wave, decay_seconds))
    late = torch.randn(len(wave), 1, n_tail, generator=rng, device=rng.device).to(wave) * decay
    late = late * (time >= _uniform(rng, wave, PREDELAY_SECONDS))
    level = 10 ** (-_uniform(rng, wave, direct_db) / 20)
    late = late * level / late.square().sum(-1, keepdim=True).clamp_min(1e-20).sqrt()
    n_fft = _fast_length(n_samples + n_tail)
    echo = torch.fft.irfft(torch.fft.rfft(wave, n_fft) * torch.fft.rfft(late, n_fft), n_fft)
    return wave + echo[..., :n_samples]


def peak_response(
    frequency: Float[Tensor, "bins"], centre: PerItem, gain_db: PerItem, q: PerItem, sample_rate: int
) -> Tensor:
    """Return the response (batch, 1, bins) of a peaking filter (Bristow-Johnson's audio EQ cookbook)."""
    amplitude = 10 ** (gain_db / 40)
    omega, alpha = _bilinear(centre, q, sample_rate)
    up, down, middle = alpha * amplitude, alpha / amplitude, -2 * omega.cos()
    return _biquad(frequency, sample_rate, (1 + up, middle, 1 - up), (1 + down, middle, 1 - down))


def shelf_response(
    frequency: Float[Tensor, "bins"], corner: PerItem, gain_db: PerItem, sample_rate: int, *, high: bool
) -> Tensor:
    """Return the response (batch, 1, bins) of a low or high shelf of slope 1 (the same cookbook)."""
    a = 10 ** (gain_db / 40)
    omega, alpha = _bilinear(corner, torch.full_like(corner, 0.5**0.5), sample_rate)
    # The high shelf is the low one mirrored in frequency.
    turn = -1 if high else 1
    cosine, root = turn * omega.cos(), 2 * a.sqrt() * alpha
    numerator, denominator = a + 1 - (a - 1) * cosine, a + 1 + (a - 1) * cosine
    b_middle, a_middle = 2 * a * (a - 1 - (a + 1) * cosine), -2 * (a - 1 + (a + 1) * cosine)
    return _biquad(
        frequency,
        sample_rate,
        (a * (numerator + root), turn * b_middle, a * (numerator - root)),
        (denominator + root, turn * a_middle, denominator - root),
    )


def _bilinear(frequency: PerItem, q: PerItem, sample_rate: int) -> tuple[Tensor, Tensor]:
    omega = 2 * math.pi * frequency / sample_rate
    return omega, omega.sin() / (2 * q)


def _biquad(frequency: Tensor, sample_rate: int, b: tuple, a: tuple) -> Tensor:
    z = torch.exp(-2j * math.pi * frequency / sample_rate)
    return (b[0] + z * (b[1] + z * b[2])) / (a[0] + z * (a[1] + z * a[2]))


def _uniform(rng: torch.Generator, wave: Tensor, limits: Range) -> PerItem:
    low, high = limits
    draws = torch.rand(len(wave), 1, 1, generator=rng, device=rng.device).to(wave.device)
    return low + (high - low) * draws


def _log_uniform(rng: torch.Generator, wave: Tensor, limits: Range) -> PerItem:
    return _uniform(rng, wave, (math.log(limits[0]), math.log(limits[1]))).exp()


def _fast_length(n_samples: int) -> int:
    """Return the next length that is a small number times a power of two, which is fast for the FFT."""
    power = 2 ** max(0, n_samples.bit_length() - 3)
    return -(-n_samples // power) * power
