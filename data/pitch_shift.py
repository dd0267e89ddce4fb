"""Independent pitch and formant shift of speech that preserves the duration exactly.

First the wave is time-stretched at constant pitch by waveform similarity (WSOLA: Verhelst and Roelands,
1993). Resampling to the original length then shifts pitch and formants together. Finally each frame's
spectral envelope is replaced by that of the original, warped by the formant shift.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

Waves = Float[Tensor, "batch samples"]
PerItem = Float[Tensor, "batch"]
Spectrum = Complex[Tensor, "batch bins frames"]
Envelope = Float[Tensor, "batch bins frames"]

HOP_SECONDS = 0.016
SEARCH_SECONDS = 0.0075
"""Search range of WSOLA in either direction; covers a whole period down to 67 Hz."""
MARGIN = 1024
"""Samples of reflect padding, which keeps the resampler's ringing out of the crop."""
FRAME_SECONDS = 0.064
LIFTER = (0.4, 0.7)
"""Band edges of the lifter in pitch periods: lower quefrencies are kept, higher ones removed."""
PITCH_RANGE = (60.0, 500.0)
"""Range of F0 in Hz."""
PEAK_SHARE = 0.85
"""Fraction of the highest autocorrelation from which the first peak is the period, not a multiple of it."""
LOG_FLOOR = 1e-6
LENGTH_STEP = 16
"""Stretched lengths are multiples of this, because FFTs of prime lengths are slow."""


@torch.no_grad()
def shift_pitch_and_formants(
    wave: Float[Tensor, "batch 1 samples"],
    pitch_semitones: PerItem,
    formant_semitones: PerItem,
    sample_rate: int,
) -> Float[Tensor, "batch 1 samples"]:
    """Shift pitch and formants of each item by its own distances, at constant level; no gradient passes.

    Lowering the pitch leaves the highest band empty, which gets the original's spectral fine structure.
    """
    n_samples = wave.shape[-1]
    formant = 2 ** (formant_semitones.to(wave.device).double() / 12)
    mirrored = n_samples > MARGIN
    padded = F.pad(wave.float(), (MARGIN, MARGIN), mode="reflect" if mirrored else "constant")[:, 0]
    pitch = 2 ** (pitch_semitones.to(wave.device).double() / 12)
    lengths = (padded.shape[-1] * pitch / LENGTH_STEP).round() * LENGTH_STEP
    pitch = lengths / padded.shape[-1]
    shifted = _resampled(stretch(padded, pitch, sample_rate), lengths.long().tolist(), padded.shape[-1])

    n_fft = 2 ** round(math.log2(FRAME_SECONDS * sample_rate))
    window = torch.hann_window(n_fft, device=wave.device)
    original = torch.stft(padded, n_fft, n_fft // 4, window=window, return_complex=True)
    spectrum = torch.stft(shifted, n_fft, n_fft // 4, window=window, return_complex=True)
    period = typical_period(original, sample_rate)
    envelope = log_envelope(original, period, sample_rate)
    bins = torch.arange(envelope.shape[1], device=wave.device)
    kept = bins[None, :, None] < (pitch * (len(bins) - 1) * 0.98)[:, None, None]
    fine = torch.where(
        kept | (pitch >= 1)[:, None, None],
        spectrum * (-log_envelope(spectrum, period / pitch.float(), sample_rate)).exp(),
        original * (-envelope).exp(),
    )
    result = fine * _warped(envelope, formant.float()).exp()
    restored = torch.istft(result, n_fft, n_fft // 4, window=window, length=padded.shape[-1])
    restored = restored[:, None, MARGIN : MARGIN + n_samples]
    level = wave.square().mean(-1, keepdim=True) / restored.square().mean(-1, keepdim=True).clamp_min(1e-20)
    return (restored * level.sqrt()).to(wave.dtype)


def stretch(wave: Waves, factors: PerItem, sample_rate: int) -> Float[Tensor, "batch stretched"]:
    """Lengthen each item by its factor at constant pitch (WSOLA); padded to the longest.

    Frames overlap by half. Each is taken near its nominal position, where it is most similar to the
    continuation of the previous frame.
    """
    n_samples, device = wave.shape[-1], wave.device
    hop, search = round(HOP_SECONDS * sample_rate), round(SEARCH_SECONDS * sample_rate)
    win, origin = 2 * hop, hop + search
    n_out = math.ceil(n_samples * factors.max().item())
    n_frames = -(-n_out // hop) + 1
    padded = F.pad(wave, (origin, win + 2 * search + hop))
    energy = F.pad(padded.double().square().cumsum(-1), (1, 0))
    # Nominal positions (batch, frames); the first frame lies in the padding before the wave.
    steps = torch.arange(-1, n_frames - 1, device=device) * hop
    nominal = (steps / factors[:, None]).round().long() + origin
    nominal = nominal.clamp(search, padded.shape[-1] - win - search - hop - 1)
    nominal[:, 0] = search
    region, lags = torch.arange(win + 2 * search, device=device), torch.arange(2 * search + 1, device=device)
    n_fft = 2 ** math.ceil(math.log2(win + 2 * search))
    places = [nominal[:, 0]]
    for frame in range(1, n_frames):
        first = (nominal[:, frame] - search)[:, None]
        expected = padded.gather(1, (places[-1] + hop)[:, None] + region[:win])
        candidates = torch.fft.rfft(padded.gather(1, first + region), n_fft)
        likeness = torch.fft.irfft(candidates * torch.fft.rfft(expected, n_fft).conj(), n_fft)
        power = energy.gather(1, first + lags + win) - energy.gather(1, first + lags)
        score = likeness[:, : 2 * search + 1] / power.float().clamp_min(1e-8).sqrt()
        places.append(first[:, 0] + score.argmax(1))
    items = torch.arange(len(wave), device=device)[:, None, None]
    frames = padded[items, torch.stack(places, 1)[..., None] + region[:win]]
    frames = frames * torch.hann_window(win, device=device)
    return (frames[:, 1:, :hop] + frames[:, :-1, hop:]).flatten(1)[:, :n_out]


def _resampled(wave: Float[Tensor, "batch stretched"], lengths: list[int], n_samples: int) -> Waves:
    """Resample the first ``length`` samples of each item to ``n_samples`` by FFT, without aliasing."""
    rows = []
    for row, length in zip(wave, lengths):
        spectrum = torch.fft.rfft(row[:length])[: n_samples // 2 + 1]
        rows.append(torch.fft.irfft(spectrum, n_samples) * (n_samples / length))
    return torch.stack(rows)


def typical_period(spectrum: Spectrum, sample_rate: int) -> PerItem:
    """Return the median pitch period of each item's louder frames in seconds, by autocorrelation."""
    power = spectrum.abs().square()
    n_fft = 2 * (power.shape[1] - 1)
    shortest, longest = (round(sample_rate / hz) for hz in PITCH_RANGE[::-1])
    correlation = torch.fft.irfft(power, n_fft, dim=1)[:, shortest - 1 : longest + 2]
    middle = correlation[:, 1:-1]
    peaks = (middle >= correlation[:, :-2]) & (middle >= correlation[:, 2:])
    high = middle >= PEAK_SHARE * middle.amax(1, keepdim=True)
    lags = (peaks & high).byte().argmax(1) + shortest
    energy = power.sum(1)
    louder = energy >= energy.mean(1, keepdim=True)
    return (lags / sample_rate).masked_fill(~louder, torch.nan).nanmedian(1).values


def log_envelope(spectrum: Spectrum, period: PerItem, sample_rate: int) -> Envelope:
    """Return the spectral envelope (log magnitude) of each frame by cepstral liftering."""
    log_magnitude = spectrum.abs().clamp_min(LOG_FLOOR).log()
    n_fft = 2 * (log_magnitude.shape[1] - 1)
    cepstrum = torch.fft.irfft(log_magnitude, n_fft, dim=1)
    quefrency = torch.arange(n_fft, device=spectrum.device)
    quefrency = torch.minimum(quefrency, n_fft - quefrency) / sample_rate
    place = (quefrency / period[:, None] - LIFTER[0]) / (LIFTER[1] - LIFTER[0])
    lifter = 0.5 + 0.5 * torch.cos(math.pi * place.clamp(0, 1))
    return torch.fft.rfft(cepstrum * lifter[..., None], dim=1).real


def _warped(envelope: Envelope, ratio: PerItem) -> Envelope:
    """Stretch each envelope along frequency by ``ratio``; beyond the last bin its value is repeated."""
    n_bins = envelope.shape[1]
    source = (torch.arange(n_bins, device=envelope.device) / ratio[:, None]).clamp_max(n_bins - 1)
    below = source.floor().long().clamp_max(n_bins - 2)
    fraction = (source - below)[..., None]
    index = below[..., None].expand_as(envelope)
    return envelope.gather(1, index) * (1 - fraction) + envelope.gather(1, index + 1) * fraction
