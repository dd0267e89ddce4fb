"""Log-mels changed as other speakers, rooms and tempos would change them, at the price of a few gathers."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.frontends import MelConfig, hz_to_mel, mel_to_hz
from engine.user_error import UserError

Mel = Float[Tensor, "batch n_mels frames"]
Lengths = Int[Tensor, "batch"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far the recogniser's input is moved while training; 0 leaves out a kind."""

    warp: float = 0.25
    """Frequencies are multiplied by 1 / (1 + warp) … 1 + warp: vocal tracts and pitches of others."""
    speed: float = 0.15
    """Tempo is multiplied by 1 / (1 + speed) … 1 + speed."""
    noise_share: float = 0.6
    """Share of utterances with noise of a random colour."""
    snr_db: tuple[float, float] = (5.0, 40.0)
    """Ratio of speech to noise."""
    equaliser: float = 0.4
    """Standard deviation, in nats, of a smooth change of the mean-free spectrum: short crops' means err."""
    time_masks: int = 6
    """Stretches of an utterance that are hidden."""
    time_mask_frames: int = 24
    """Longest of them, in mel frames."""
    band_masks: int = 2
    """Groups of bands that are hidden."""
    band_mask_bands: int = 20
    """Widest of them."""

    def __post_init__(self) -> None:
        if min(self.warp, self.speed, self.equaliser) < 0 or self.snr_db[0] > self.snr_db[1]:
            raise UserError("warp, speed and equaliser must not be negative, and snr_db must not decrease")


def change_speed(
    mel: Mel, lengths: Lengths, largest: float
) -> tuple[Float[Tensor, "batch n_mels out"], Lengths]:
    """Stretch each utterance in time by a random factor; pitch stays."""
    factor = _factors(len(mel), largest, mel.device)
    new = (lengths / factor).floor().long().clamp(min=1)
    at = torch.arange(int(new.max()), device=mel.device) * factor[:, None]
    return _interpolate(mel, torch.minimum(at, lengths[:, None] - 1.0), dim=2), new


def warp_frequency(mel: Mel, config: MelConfig, largest: float) -> Mel:
    """Scale the frequency axis of each utterance by a random factor."""
    ends = hz_to_mel(np.array([config.f_min, config.f_max]), config.scale)
    corners = np.linspace(ends[0], ends[1], config.n_mels + 2)
    centres = mel_to_hz(corners[1:-1], config.scale)
    factor = _factors(len(mel), largest, torch.device("cpu")).numpy()
    moved = hz_to_mel(factor[:, None] * centres, config.scale)
    at = torch.from_numpy((moved - corners[1]) / (corners[1] - corners[0])).float()
    return _interpolate(mel, at.clamp(0, config.n_mels - 1).to(mel.device), dim=1)


def add_noise(mel: Mel, share: float, snr_db: tuple[float, float]) -> Mel:
    """Add stationary noise of a random colour to a share of the utterances, in the domain of magnitudes."""
    batch, n_mels, _ = mel.shape
    level = mel.amax((1, 2), keepdim=True) - 1.5  # nats: about the mean level of loud frames
    snr = torch.empty(batch, 1, 1, device=mel.device).uniform_(*snr_db) * (np.log(10) / 20)
    colour = level - snr + 1.0 * _smooth_curves(batch, n_mels, mel.device)[..., None]
    noise = colour + 0.4 * torch.randn_like(mel)
    chosen = torch.rand(batch, 1, 1, device=mel.device) < share
    return torch.where(chosen, torch.logaddexp(mel, noise), mel)


def equalise(mel: Mel, deviation: float) -> Mel:
    """Tilt and bend the spectrum of each utterance by a smooth random curve."""
    return mel + deviation * _smooth_curves(len(mel), mel.shape[1], mel.device)[..., None]


def mask(mel: Mel, config: AugmentConfig) -> Mel:
    """Hide stretches of time and groups of bands (SpecAugment); hidden is 0, the mean."""
    _, n_mels, frames = mel.shape
    hidden = _stretches(len(mel), frames, config.time_masks, config.time_mask_frames, mel.device)[:, None]
    bands = _stretches(len(mel), n_mels, config.band_masks, config.band_mask_bands, mel.device)[..., None]
    return mel.masked_fill(hidden | bands, 0.0)


def _factors(batch: int, largest: float, device: torch.device) -> Float[Tensor, "batch"]:
    return torch.exp((2 * torch.rand(batch, device=device) - 1) * np.log1p(largest))


def _interpolate(
    x: Mel, at: Float[Tensor, "batch positions"], dim: int
) -> Float[Tensor, "batch rows columns"]:
    """Read ``x`` between its places along ``dim``, linearly."""
    low = at.floor().long().clamp(0, x.shape[dim] - 1)
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    share = (at - low).to(x.dtype)
    if dim == 1:
        shape = (-1, -1, x.shape[2])
        a, b = (x.gather(1, i[..., None].expand(shape)) for i in (low, high))
        return torch.lerp(a, b, share[..., None])
    shape = (-1, x.shape[1], -1)
    a, b = (x.gather(2, i[:, None].expand(shape)) for i in (low, high))
    return torch.lerp(a, b, share[:, None])


def _smooth_curves(batch: int, n_mels: int, device: torch.device) -> Float[Tensor, "batch n_mels"]:
    """Return random sums of the first cosines over the bands, of about unit variance."""
    place = (torch.arange(n_mels, device=device) + 0.5) / n_mels
    orders = torch.arange(1, 6, device=device)
    cosines = torch.cos(torch.pi * orders[:, None] * place) / orders[:, None]
    return torch.randn(batch, 5, device=device) @ cosines * 1.15


def _stretches(
    batch: int, length: int, count: int, longest: int, device: torch.device
) -> Bool[Tensor, "batch length"]:
    if count == 0 or longest == 0:
        return torch.zeros(batch, length, dtype=torch.bool, device=device)
    begin = torch.rand(batch, count, 1, device=device) * length
    size = torch.rand(batch, count, 1, device=device) * longest
    place = torch.arange(length, device=device)
    return ((place >= begin) & (place < begin + size)).any(1)
