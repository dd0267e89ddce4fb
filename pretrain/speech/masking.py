"""Which frames a student must guess: spans drawn as transformers draws them, as many frames in each row."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from engine.user_error import UserError

Mask = Bool[Tensor, "rows frames"]
Index = Int[Tensor, "rows steps"]


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Spans of hidden frames."""

    share: float = 0.65
    """Length of all spans together over that of the clip; as they overlap, about 49 % of frames are hidden.
    The papers' probability of a span to begin at a frame is this over ``span``."""
    span: int = 10
    """Frames of a span."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.span < 1:
            raise UserError("mask.share must lie between 0 and 1, and mask.span must be at least 1")


def span_mask(rows: int, frames: int, config: MaskConfig, device: torch.device | None = None) -> Mask:
    """Hide as many spans in each row, at distinct frames of uniform probability.

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
    """Uncover frames at random until each row hides as many as the row that hided the fewest."""
    fewest = int(mask.sum(1).min())
    lots = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, -1.0)
    return torch.zeros_like(mask).scatter_(1, lots.topk(fewest, dim=1).indices, True)


def places(mask: Mask) -> Index:
    """Return where each row of a mask with equally many in each is true, in order."""
    return mask.nonzero()[:, 1].view(len(mask), -1)


def at(
    x: Shaped[Tensor, "batch frames dim"], index: Int[Tensor, "rows steps"]
) -> Shaped[Tensor, "rows steps dim"]:
    """Take frames by their place. With more rows than clips, row ``i`` belongs to clip ``i % batch``."""
    batch, frames, dim = x.shape
    clip = torch.arange(len(index), device=index.device) % batch
    flat = (clip[:, None] * frames + index).flatten()
    return x.reshape(-1, dim).index_select(0, flat).view(*index.shape, dim)
