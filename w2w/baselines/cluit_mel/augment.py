"""How a clip becomes its own positive: changed in all that is not the voice."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import at_least, within

Mel = Float[Tensor, "batch n_mels frames"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Strengths; each is drawn anew for every clip, evenly up to its bound. All 0: the clip as it is.

    The image recipe crops, flips and recolours; what corresponds to it in a voice is not published.
    """

    tempo: float = 0.15
    """Share by which speech is faster or slower. Frames are interpolated, so the pitch stays."""
    shift: bool = True
    """Begin at another frame, going round."""
    gain_db: float = 6.0
    """Louder or softer by up to this."""
    mask_frames: int = 16
    """Frames in a row that are replaced by the clip's mean spectrum."""
    mask_bands: int = 8
    """Neighbouring bands that are replaced by the clip's mean level."""

    def __post_init__(self) -> None:
        within("[0, 1)", self, "tempo", prefix="augment.")
        at_least(0, self, "gain_db", "mask_frames", "mask_bands", prefix="augment.")


def augmented(mel: Mel, config: AugmentConfig) -> Mel:
    """Change tempo, beginning and level, and hide a stretch of time and of frequency."""
    changed = _other_time(mel, config)
    batch, n_mels, frames = mel.shape
    means = changed.mean(-1, keepdim=True), changed.mean((1, 2), keepdim=True)
    if config.mask_frames:
        hidden = _stretch(batch, frames, config.mask_frames, mel.device)
        changed = torch.where(hidden[:, None], means[0], changed)
    if config.mask_bands:
        hidden = _stretch(batch, n_mels, config.mask_bands, mel.device)
        changed = torch.where(hidden[..., None], means[1], changed)
    gain_db = config.gain_db * _even(batch, mel.device)[:, None, None]
    return changed + gain_db * (math.log(10.0) / 20.0)


def _other_time(mel: Mel, config: AugmentConfig) -> Mel:
    """Read the clip from another frame on, at another rate, going round at its end."""
    batch, n_mels, frames = mel.shape
    rate = 1.0 + config.tempo * _even(batch, mel.device)[:, None]
    start = torch.randint(frames, (batch, 1), device=mel.device) * int(config.shift)
    place = (start + rate * torch.arange(frames, device=mel.device)) % frames
    before = place.floor().long() % frames
    part = (place - place.floor())[:, None]
    left, right = (
        mel.gather(2, at[:, None].expand(-1, n_mels, -1)) for at in (before, (before + 1) % frames)
    )
    return left + part * (right - left)


def _even(batch: int, device: torch.device) -> Float[Tensor, " batch"]:
    """Numbers between −1 and 1."""
    return 2.0 * torch.rand(batch, device=device) - 1.0


def _stretch(batch: int, size: int, longest: int, device: torch.device) -> Tensor:
    """A mask with a stretch of up to ``longest`` in each row, at most half of it."""
    longest = min(longest, size // 2)
    length = torch.randint(longest + 1, (batch, 1), device=device)
    start = (torch.rand(batch, 1, device=device) * (size - length + 1)).long()
    place = torch.arange(size, device=device)[None]
    return (place >= start) & (place < start + length)
