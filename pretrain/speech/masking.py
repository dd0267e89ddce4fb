"""Masks of frames: in pretraining what a student must predict, in fine-tuning an augmentation."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from engine.user_error import UserError

Mask = Bool[Tensor, "rows frames"]
Index = Int[Tensor, "rows steps"]


@dataclass(frozen=True, kw_only=True)
class FrameAugmentConfig:
    """How waves and frames are changed while an encoder is fine-tuned; 0 turns a kind of change off."""

    time_share: float = 0.05
    """Share of the frames at which a masked stretch begins."""
    time_frames: int = 10
    """Frames of a stretch, replaced by the vector that masked frames in pretraining."""
    channel_share: float = 0.008
    """Share of the channels at which a masked group of channels begins, for the whole utterance."""
    channel_width: int = 16
    """Channels of such a group, set to 0."""
    speed: float = 0.1
    """Tempo and pitch of a batch are multiplied by 1 / (1 + speed) … 1 + speed."""

    def __post_init__(self) -> None:
        if min(self.time_share, self.channel_share, self.speed) < 0 or self.time_share >= 1:
            raise UserError(
                "augment.time_share, channel_share and speed must be 0 or more, and shares below 1"
            )
        if min(self.time_frames, self.channel_width) < 1:
            raise UserError("augment.time_frames and augment.channel_width must be at least 1")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Spans of masked frames in pretraining."""

    share: float = 0.65
    """Length of all spans together over that of the clip; as they overlap, about 49 % of frames are masked.
    The papers' probability of a span to begin at a frame is this over ``span``."""
    span: int = 10
    """Frames of a span."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.span < 1:
            raise UserError("mask.share must lie between 0 and 1, and mask.span must be at least 1")


def span_mask(rows: int, frames: int, config: MaskConfig, device: torch.device | None = None) -> Mask:
    """Mask as many spans in each row, at distinct frames of uniform probability.

    The number is rounded up or down by chance, once for all rows, as ``_compute_mask_indices`` of
    transformers does.
    """
    span, places = config.span, frames - config.span + 1
    if places < 1:
        raise UserError(f"a clip of {frames} frames is shorter than mask.span={span}: use longer clips")
    wanted = int(config.share * frames / span + torch.rand(()).item())
    count = min(max(wanted, 1), frames // span, places)
    starts = torch.rand(rows, places, device=device).topk(count, dim=1).indices
    hidden = starts[..., None] + torch.arange(span, device=device)
    mask = torch.zeros(rows, frames, dtype=torch.bool, device=device)
    return mask.scatter_(1, hidden.flatten(1), True)


def equally_many(mask: Mask) -> Mask:
    """Unmask frames at random until each row masks as many as the row that masked the fewest."""
    fewest = int(mask.sum(1).min())
    lots = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, -1.0)
    return torch.zeros_like(mask).scatter_(1, lots.topk(fewest, dim=1).indices, True)


def masked_indices(mask: Mask) -> Index:
    """Return the indices at which each row of a mask is true, equally many in each, in order."""
    return mask.nonzero()[:, 1].view(len(mask), -1)


def gather_frames(
    x: Shaped[Tensor, "batch frames dim"], index: Int[Tensor, "rows steps"]
) -> Shaped[Tensor, "rows steps dim"]:
    """Gather frames by index. With more rows than clips, row ``i`` belongs to clip ``i % batch``."""
    batch, frames, dim = x.shape
    clip = torch.arange(len(index), device=index.device) % batch
    flat = (clip[:, None] * frames + index).flatten()
    return x.reshape(-1, dim).index_select(0, flat).view(*index.shape, dim)


def change_speed(
    wave: Float[Tensor, "batch 1 samples"], n_samples: Int[Tensor, "batch"], largest: float
) -> tuple[Float[Tensor, "batch 1 new"], Int[Tensor, "batch"]]:
    """Play a batch faster or slower by one random factor; pitch follows."""
    if not largest:
        return wave, n_samples
    factor = math.exp((2 * float(torch.rand(())) - 1) * math.log1p(largest))
    size = max(1, round(wave.shape[-1] / factor))
    new = F.interpolate(wave, size=size, mode="linear")
    return new, (n_samples * (size / wave.shape[-1])).floor().long().clamp(1, size)


def mask_frames(
    frames: Float[Tensor, "batch frames hidden"],
    mask_vector: Float[Tensor, "hidden"],
    config: FrameAugmentConfig,
) -> Float[Tensor, "batch frames hidden"]:
    """Replace stretches of frames by a vector, and set groups of channels to 0."""
    batch, n_frames, hidden = frames.shape
    if config.time_share:
        masked = _stretches(batch, n_frames, config.time_share, config.time_frames, frames.device)
        frames = torch.where(masked[..., None], mask_vector.to(frames.dtype), frames)
    if config.channel_share:
        masked = _stretches(batch, hidden, config.channel_share, config.channel_width, frames.device)
        frames = frames.masked_fill(masked[:, None], 0.0)
    return frames


def _stretches(
    batch: int, length: int, share: float, width: int, device: torch.device
) -> Bool[Tensor, "batch length"]:
    begins = torch.rand(batch, 1, length, device=device) < share
    return F.max_pool1d(F.pad(begins.float(), (width - 1, 0)), width, 1)[:, 0] > 0
