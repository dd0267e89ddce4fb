"""Random changes to waves that leave the words alone; each a function of the wave and a generator.

Every item of a batch draws its own. Draws are made on the generator's device: a CPU generator gives the same
changes on every machine. Gradients pass, but not through ``pitch_and_formant_shift``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError

Wave = Float[Tensor, "batch 1 samples"]
PerItem = Float[Tensor, "batch 1 1"]
Range = tuple[float, float]
EQ_TAIL_SECONDS = 0.1
"""Time given to a filter's ringing before it would wrap around."""
PREDELAY_SECONDS = (0.002, 0.02)
"""Between the direct sound and the reverberation."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How often and how far waves are changed; a probability of 0 switches a change off. In order of use."""

    shift: float = 0.0
    """Probability of moving pitch and formants."""
    pitch_semitones: float = 4.0
    """At most, up or down."""
    formant_semitones: float = 2.5
    """At most, up or down; 2.5 are a factor of 1.16."""
    eq: float = 0.0
    """Probability of a random equalizer."""
    eq_gain_db: float = 9.0
    """At most, per filter, up or down."""
    reverberation: float = 0.0
    """Probability of a random room."""
    decay_seconds: Range = (0.1, 0.6)
    """RT60: until the room's sound has fallen by 60 dB."""
    direct_db: Range = (0.0, 15.0)
    """Energy of the direct sound over that of the reverberation."""
    noise: float = 0.0
    """Probability of added noise, white or pink."""
    snr_db: Range = (10.0, 40.0)
    """Signal over noise."""
    hum: float = 0.0
    """Probability of the mains' hum."""
    hum_db: Range = (0.0, 50.0)
    """Signal over hum."""
    knock: float = 0.0
    """Probability of a knock: a burst of noise that dies away."""
    knock_db: Range = (-20.0, 0.0)
    """Signal over the beginning of a knock."""
    gain: float = 1.0
    """Probability of another level."""
    gain_db: Range = (-12.0, 0.0)
    """Lowest and highest gain."""
    sign: float = 1.0
    """Probability of drawing a sign, which turns half of those waves upside down."""

    def __post_init__(self) -> None:
        for name in ("shift", "eq", "reverberation", "noise", "hum", "knock", "gain", "sign"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} is a probability: between 0 and 1")
        for name in ("decay_seconds", "direct_db", "snr_db", "hum_db", "knock_db", "gain_db"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"{name}={low, high} must begin with the lower end")
        if self.decay_seconds[0] <= 0:
            raise UserError(f"decay_seconds={self.decay_seconds} must be above 0")


class Augment:
    """Several changes in turn, each to a random part of the batch."""

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
    """Turn half of the waves upside down, which no ear notices."""
    return wave * torch.where(_uniform(rng, wave, (0.0, 1.0)) < 0.5, -1.0, 1.0)


def pitch_and_formant_shift(
    wave: Wave,
    rng: torch.Generator,
    *,
    sample_rate: int,
    pitch_semitones: float = 4.0,
    formant_semitones: float = 2.5,
) -> Wave:
    """Move pitch and formants, each by its own distance, up to these up or down; the duration stays."""
    from data.pitch_shift import shift_pitch_and_formants  # no trainer asks for it by itself

    pitch = _uniform(rng, wave, (-pitch_semitones, pitch_semitones))[:, 0, 0]
    formant = _uniform(rng, wave, (-formant_semitones, formant_semitones))[:, 0, 0]
    return shift_pitch_and_formants(wave, pitch, formant, sample_rate)


def parametric_eq(
    wave: Wave, rng: torch.Generator, *, sample_rate: int, gain_db: float = 9.0, n_peaks: int = 4
) -> Wave:
    """Filter by a low shelf, a high shelf and peaks between them, all random second-order sections."""
    n_samples, gains = wave.shape[-1], (-gain_db, gain_db)
    n_fft = _fast_length(n_samples + round(EQ_TAIL_SECONDS * sample_rate))
    frequency = torch.fft.rfftfreq(n_fft, 1 / sample_rate, device=wave.device)
    nyquist = sample_rate / 2
    low, high = (
        _log_uniform(rng, wave, (60.0, 300.0)),
        _log_uniform(rng, wave, (0.4 * nyquist, 0.8 * nyquist)),
    )
    response = shelf_response(frequency, low, _uniform(rng, wave, gains), sample_rate, high=False)
    response = response * shelf_response(frequency, high, _uniform(rng, wave, gains), sample_rate, high=True)
    for _ in range(n_peaks):
        centre, q = _log_uniform(rng, wave, (100.0, 0.8 * nyquist)), _log_uniform(rng, wave, (0.5, 4.0))
        response = response * peak_response(frequency, centre, _uniform(rng, wave, gains), q, sample_rate)
    return torch.fft.irfft(torch.fft.rfft(wave, n_fft) * response, n_fft)[..., :n_samples]


def noise(wave: Wave, rng: torch.Generator, *, snr_db: Range = (10.0, 40.0)) -> Wave:
    """Add white or pink noise, exactly so far below the wave's own power."""
    white = torch.randn(wave.shape, generator=rng, device=rng.device).to(wave)
    spectrum = torch.fft.rfft(white)
    bins = torch.arange(spectrum.shape[-1], device=wave.device).clamp_min(1)
    pink = torch.fft.irfft(spectrum / bins.sqrt(), wave.shape[-1])
    added = torch.where(_uniform(rng, wave, (0.0, 1.0)) < 0.5, white, pink)
    return wave + _below(wave, added, _uniform(rng, wave, snr_db))


def hum(
    wave: Wave, rng: torch.Generator, *, sample_rate: int, hum_db: Range = (0.0, 50.0), n_harmonics: int = 6
) -> Wave:
    """Add hum of 50 or 60 Hz with harmonics of random share and phase, so far below the wave's own power."""
    mains = torch.where(_uniform(rng, wave, (0.0, 1.0)) < 0.5, 50.0, 60.0)
    time = torch.arange(wave.shape[-1], device=wave.device) / sample_rate
    added = torch.zeros_like(wave)
    for harmonic in range(1, n_harmonics + 1):
        phase, share = _uniform(rng, wave, (0.0, math.tau)), _log_uniform(rng, wave, (0.01, 1.0))
        added = added + share ** (harmonic > 1) * torch.sin(math.tau * harmonic * mains * time + phase)
    return wave + _below(wave, added, _uniform(rng, wave, hum_db))


def knock(wave: Wave, rng: torch.Generator, *, sample_rate: int, knock_db: Range = (-20.0, 0.0)) -> Wave:
    """Add a burst of noise at a random place; it dies away by 1/e in 10 to 100 ms."""
    time = torch.arange(wave.shape[-1], device=wave.device) / sample_rate
    since = time - _uniform(rng, wave, (0.0, wave.shape[-1] / sample_rate))
    fall = torch.where(
        since < 0, 0.0, torch.exp(-since.clamp_min(0.0) / _log_uniform(rng, wave, (0.01, 0.1)))
    )
    white = torch.randn(wave.shape, generator=rng, device=rng.device).to(wave)
    return wave + fall * _below(wave, white, _uniform(rng, wave, knock_db))


def _below(wave: Wave, added: Wave, ratio_db: PerItem) -> Wave:
    """What is added, at so many decibels below the wave."""
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
    """Put the wave into a room: the direct sound, in place, then noise that dies away exponentially."""
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
    """Frequency response (batch, 1, bins) of a peaking filter (Bristow-Johnson's audio EQ cookbook)."""
    amplitude = 10 ** (gain_db / 40)
    omega, alpha = _bilinear(centre, q, sample_rate)
    up, down, middle = alpha * amplitude, alpha / amplitude, -2 * omega.cos()
    return _biquad(frequency, sample_rate, (1 + up, middle, 1 - up), (1 + down, middle, 1 - down))


def shelf_response(
    frequency: Float[Tensor, "bins"], corner: PerItem, gain_db: PerItem, sample_rate: int, *, high: bool
) -> Tensor:
    """Frequency response (batch, 1, bins) of a shelf of slope 1 below or above a corner (the cookbook's)."""
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
    """The next length that is a small odd number times a power of two, which transforms fast."""
    power = 2 ** max(0, n_samples.bit_length() - 3)
    return -(-n_samples // power) * power
