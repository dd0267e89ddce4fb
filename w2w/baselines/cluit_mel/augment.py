"""Augmentation that makes a clip's positive: it changes everything but the voice."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import at_least, within

Mel = Float[Tensor, "batch n_mels frames"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Bounds of the augmentations; each clip's strengths are drawn uniformly. All 0 (False): no change.

    The published recipe is for images (crops, flips, colour changes); none is published for voices.
    """

    tempo: float = 0.15
    """Largest relative change of tempo, either way. Frames are interpolated, so the pitch stays."""
    shift: bool = True
    """Rotate the clip in time by a random number of frames."""
    gain_db: float = 6.0
    """Largest gain, positive or negative."""
    mask_frames: int = 16
    """Most consecutive frames that are replaced by the clip's mean spectrum."""
    mask_bands: int = 8
    """Most adjacent bands that are replaced by the clip's mean level."""

    def __post_init__(self) -> None:
        within("[0, 1)", self, "tempo", prefix="augment.")
        at_least(0, self, "gain_db", "mask_frames", "mask_bands", prefix="augment.")


def augmented(mel: Mel, config: AugmentConfig) -> Mel:
    """Change tempo, start and level at random, and mask a segment of time and one of frequency."""
    changed = _resampled(mel, config)
    batch, n_mels, frames = mel.shape
    means = changed.mean(-1, keepdim=True), changed.mean((1, 2), keepdim=True)
    if config.mask_frames:
        mask = _random_mask(batch, frames, config.mask_frames, mel.device)
        changed = torch.where(mask[:, None], means[0], changed)
    if config.mask_bands:
        mask = _random_mask(batch, n_mels, config.mask_bands, mel.device)
        changed = torch.where(mask[..., None], means[1], changed)
    gain_db = config.gain_db * _uniform(batch, mel.device)[:, None, None]
    return changed + gain_db * (math.log(10.0) / 20.0)


def _resampled(mel: Mel, config: AugmentConfig) -> Mel:
    """Read the clip from a random frame at a random rate, wrapping around at its end."""
    batch, n_mels, frames = mel.shape
    rate = 1.0 + config.tempo * _uniform(batch, mel.device)[:, None]
    start = torch.randint(frames, (batch, 1), device=mel.device) * int(config.shift)
    place = (start + rate * torch.arange(frames, device=mel.device)) % frames
    before = place.floor().long() % frames
    part = (place - place.floor())[:, None]
    left, right = (
        mel.gather(2, at[:, None].expand(-1, n_mels, -1)) for at in (before, (before + 1) % frames)
    )
    return left + part * (right - left)


def _uniform(batch: int, device: torch.device) -> Float[Tensor, " batch"]:
    """Uniform random numbers between −1 and 1."""
    return 2.0 * torch.rand(batch, device=device) - 1.0


def _random_mask(batch: int, size: int, longest: int, device: torch.device) -> Tensor:
    """A mask ``batch size`` with one random segment per row, of up to ``longest`` and up to half the row."""
    longest = min(longest, size // 2)
    length = torch.randint(longest + 1, (batch, 1), device=device)
    start = (torch.rand(batch, 1, device=device) * (size - length + 1)).long()
    place = torch.arange(size, device=device)[None]
    return (place >= start) & (place < start + length)
