"""Augmentation of recognisers' input (log-mels, waves and a speech encoder's frames), with SpecAugment."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchaudio.functional import mask_along_axis_iid

from data.frontends import MelConfig, hz_to_mel, mel_to_hz
from engine.user_error import UserError, at_least, within

Wave = Float[Tensor, "batch 1 samples"]
Mel = Float[Tensor, "batch n_mels frames"]
Frames = Float[Tensor, "batch frames hidden"]
Lengths = Int[Tensor, "batch"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of log-mels; 0 disables a kind."""

    warp: float = 0.25
    """Frequencies are multiplied by 1 / (1 + warp) … 1 + warp, as by other vocal tracts and pitches."""
    speed: float = 0.15
    """Tempo is multiplied by 1 / (1 + speed) … 1 + speed."""
    noise_share: float = 0.6
    """Probability of adding noise with a random spectrum to an utterance."""
    snr_db: tuple[float, float] = (5.0, 40.0)
    """Range of the signal-to-noise ratio in dB."""
    equaliser: float = 0.4
    """Standard deviation, in nats, of a smooth curve added after mean subtraction; short crops' means are
    inaccurate."""
    time_masks: int = 6
    """Time masks per utterance."""
    time_mask_frames: int = 24
    """Maximum length of a time mask, in mel frames."""
    band_masks: int = 2
    """Frequency masks per utterance."""
    band_mask_bands: int = 20
    """Maximum width of a frequency mask, in mel bands."""

    def __post_init__(self) -> None:
        if min(self.warp, self.speed, self.equaliser) < 0 or self.snr_db[0] > self.snr_db[1]:
            raise UserError("warp, speed and equaliser must not be negative, and snr_db must not decrease")


def change_speed(
    mel: Mel, lengths: Lengths, largest: float
) -> tuple[Float[Tensor, "batch n_mels out"], Lengths]:
    """Stretch each utterance in time by a random factor, without changing pitch."""
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
    """Add stationary noise of a random spectrum to random utterances, in the magnitude domain."""
    batch, n_mels, _ = mel.shape
    level = mel.amax((1, 2), keepdim=True) - 1.5  # nats: about the mean level of loud frames
    snr = torch.empty(batch, 1, 1, device=mel.device).uniform_(*snr_db) * (np.log(10) / 20)
    colour = level - snr + 1.0 * _smooth_curves(batch, n_mels, mel.device)[..., None]
    noise = colour + 0.4 * torch.randn_like(mel)
    chosen = torch.rand(batch, 1, 1, device=mel.device) < share
    return torch.where(chosen, torch.logaddexp(mel, noise), mel)


def equalise(mel: Mel, deviation: float) -> Mel:
    """Add a smooth random curve to the log spectrum of each utterance."""
    return mel + deviation * _smooth_curves(len(mel), mel.shape[1], mel.device)[..., None]


def mask(mel: Mel, config: AugmentConfig) -> Mel:
    """Set random spans of frames and bands to 0, the mean (SpecAugment, Park et al. 2019)."""
    for _ in range(config.time_masks):
        mel = mask_along_axis_iid(mel, config.time_mask_frames, 0.0, axis=2)
    for _ in range(config.band_masks):
        mel = mask_along_axis_iid(mel, config.band_mask_bands, 0.0, axis=1)
    return mel


def _factors(batch: int, largest: float, device: torch.device) -> Float[Tensor, "batch"]:
    return torch.exp((2 * torch.rand(batch, device=device) - 1) * np.log1p(largest))


def _interpolate(
    x: Mel, at: Float[Tensor, "batch positions"], dim: int
) -> Float[Tensor, "batch rows columns"]:
    """Interpolate ``x`` linearly at fractional positions along ``dim``."""
    low = at.floor().long().clamp(0, x.shape[dim] - 1)
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    pattern = "batch at -> batch at 1" if dim == 1 else "batch at -> batch 1 at"
    a, b = (torch.take_along_dim(x, rearrange(place, pattern), dim) for place in (low, high))
    return torch.lerp(a, b, rearrange((at - low).to(x.dtype), pattern))


def _smooth_curves(batch: int, n_mels: int, device: torch.device) -> Float[Tensor, "batch n_mels"]:
    """Return random sums of the first cosines over the bands, of about unit variance."""
    place = (torch.arange(n_mels, device=device) + 0.5) / n_mels
    orders = torch.arange(1, 6, device=device)
    cosines = torch.cos(torch.pi * orders[:, None] * place) / orders[:, None]
    return torch.randn(batch, 5, device=device) @ cosines * 1.15


@dataclass(frozen=True, kw_only=True)
class FrameAugmentConfig:
    """Augmentation of waves and frames for fine-tuning a speech encoder; 0 disables a kind."""

    time_share: float = 0.05
    """Probability that a masked span begins at a frame."""
    time_frames: int = 10
    """Length of a span in frames; masked frames are replaced by the mask vector of pretraining."""
    channel_share: float = 0.008
    """Probability that a masked group begins at a channel; channels are masked for the whole utterance."""
    channel_width: int = 16
    """Channels per group; masked channels are set to 0."""
    speed: float = 0.1
    """Tempo and pitch of a batch are multiplied by 1 / (1 + speed) … 1 + speed."""

    def __post_init__(self) -> None:
        within("[0, 1)", self, "time_share", "channel_share", prefix="augment.")
        at_least(0, self, "speed", prefix="augment.")
        at_least(1, self, "time_frames", "channel_width", prefix="augment.")


def change_wave_speed(
    wave: Wave, n_samples: Lengths, largest: float
) -> tuple[Float[Tensor, "batch 1 new"], Lengths]:
    """Resample a batch by one random factor, which changes tempo and pitch."""
    if not largest:
        return wave, n_samples
    factor = math.exp((2 * float(torch.rand(())) - 1) * math.log1p(largest))
    size = max(1, round(wave.shape[-1] / factor))
    new = F.interpolate(wave, size=size, mode="linear")
    return new, (n_samples * (size / wave.shape[-1])).floor().long().clamp(1, size)


def mask_frames(frames: Frames, mask_vector: Float[Tensor, "hidden"], config: FrameAugmentConfig) -> Frames:
    """Replace random spans of frames by a vector, and set random groups of channels to 0."""
    batch, n_frames, hidden = frames.shape
    if config.time_share:
        masked = _spans(batch, n_frames, config.time_share, config.time_frames, frames.device)
        frames = torch.where(masked[..., None], mask_vector.to(frames.dtype), frames)
    if config.channel_share:
        masked = _spans(batch, hidden, config.channel_share, config.channel_width, frames.device)
        frames = frames.masked_fill(masked[:, None], 0.0)
    return frames


def _spans(
    batch: int, length: int, share: float, width: int, device: torch.device
) -> Bool[Tensor, "batch length"]:
    begins = torch.rand(batch, 1, length, device=device) < share
    return F.max_pool1d(F.pad(begins.float(), (width - 1, 0)), width, 1)[:, 0] > 0
