"""Masking of the student's input: mask tokens, or encoding only the unmasked frames (data2vec 2.0)."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from engine.user_error import UserError, at_least, within
from pretrain.speech.encoder import Frames, SpeechEncoder

Mask = Bool[Tensor, "rows frames"]
Index = Int[Tensor, "rows steps"]


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Span masking."""

    share: float = 0.65
    """Total length of the spans relative to the clip; as spans overlap, about 49 % of the frames are masked.
    The papers' probability that a span begins at a frame is ``share / span``."""
    span: int = 10
    """Frames per span."""

    def __post_init__(self) -> None:
        within("(0, 1)", self, "share", prefix="mask.")
        at_least(1, self, "span", prefix="mask.")


def span_mask(rows: int, frames: int, config: MaskConfig, device: torch.device | None = None) -> Mask:
    """Mask the same number of spans in each row, with distinct, uniformly drawn first frames.

    The number is rounded up or down at random, once for all rows, as in ``_compute_mask_indices`` of
    transformers.
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
    """Unmask random frames until each row has as many masked frames as the row with the fewest."""
    fewest = int(mask.sum(1).min())
    lots = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, -1.0)
    return torch.zeros_like(mask).scatter_(1, lots.topk(fewest, dim=1).indices, True)


def masked_indices(mask: Mask) -> Index:
    """Return each row's masked indices in order; all rows must have equally many."""
    return mask.nonzero()[:, 1].view(len(mask), -1)


def gather_frames(
    x: Shaped[Tensor, "batch frames dim"], index: Int[Tensor, "rows steps"]
) -> Shaped[Tensor, "rows steps dim"]:
    """Gather frames by index; with several rows per clip, row ``i`` belongs to clip ``i % batch``."""
    batch, frames, dim = x.shape
    clip = torch.arange(len(index), device=index.device) % batch
    flat = (clip[:, None] * frames + index).flatten()
    return x.reshape(-1, dim).index_select(0, flat).view(*index.shape, dim)


Prediction = tuple[Float[Tensor, "rows steps dim"], Index]
"""The student's states at the masked steps, from which targets are predicted, and the steps' frame indices;
with several masks per clip, row ``i`` belongs to clip ``i % batch``."""


@dataclass(frozen=True, kw_only=True)
class MaskTokenConfig:
    """Masking of data2vec 1: masked frames are replaced by a learned vector, and all frames are encoded."""

    mask: MaskConfig = field(default_factory=MaskConfig)


class MaskToken(nn.Module):
    """Student that encodes all frames of every clip, with a learned vector at masked frames."""

    def __init__(self, config: MaskTokenConfig, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.dim = hidden
        """Channels of the states."""

    def forward(self, encoder: SpeechEncoder, projected: Frames) -> Prediction:
        batch, frames, _ = projected.shape
        mask = equally_many(span_mask(batch, frames, self.config.mask, projected.device))
        index = masked_indices(mask)
        x = mask_out(projected, mask, encoder)
        return gather_frames(encoder.layers(encoder.position(x))[-1], index), index


@dataclass(frozen=True, kw_only=True)
class MultiMaskConfig:
    """Masking of data2vec 2.0: several masks per clip, an encoder of unmasked frames only, and a decoder."""

    masks: int = 8
    """Masks per clip; they share the convolutions' output and the targets."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(share=0.65, span=10))
    decoder_dim: int = 384
    """Channels of the decoder."""
    decoder_layers: int = 4
    """Convolutions of the decoder."""
    decoder_kernel: int = 7
    """Kernel size of these convolutions, in frames; odd."""
    decoder_groups: int = 16
    """Groups of these convolutions."""

    def __post_init__(self) -> None:
        if self.decoder_kernel % 2 == 0 or self.decoder_dim % self.decoder_groups or self.masks < 1:
            raise UserError(
                "multi-mask needs an odd decoder_kernel, decoder_dim a multiple of decoder_groups, masks >= 1"
            )


class MultiMask(nn.Module):
    """Student that encodes the unmasked frames once per mask, and decodes all frames from them."""

    def __init__(self, config: MultiMaskConfig, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config, hidden)
        self.dim = config.decoder_dim
        """Channels of the states."""

    def forward(self, encoder: SpeechEncoder, projected: Frames) -> Prediction:
        batch, frames, _ = projected.shape
        rows = self.config.masks * batch
        mask = equally_many(span_mask(rows, frames, self.config.mask, projected.device))
        masked, unmasked = masked_indices(mask), masked_indices(~mask)
        # The position embedding is a convolution over neighbouring frames, so masking must come first.
        x = encoder.position(mask_out(projected.repeat(self.config.masks, 1, 1), mask, encoder))
        encoded = encoder.layers(gather_frames(x, unmasked))[-1]
        return gather_frames(self.decoder(encoded, unmasked, frames), masked), masked


class Decoder(nn.Module):
    """Grouped convolutions over the encoded frames, with a learned vector at masked frames."""

    def __init__(self, config: MultiMaskConfig, hidden: int) -> None:
        super().__init__()
        dim, kernel = config.decoder_dim, config.decoder_kernel
        self.enter = nn.Linear(hidden, dim)
        self.unseen = nn.Parameter(0.02 * torch.randn(dim))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=config.decoder_groups)
            for _ in range(config.decoder_layers)
        )

    def forward(
        self, encoded: Frames, index: Int[Tensor, "batch frames"], n_frames: int
    ) -> Float[Tensor, "batch all_frames dim"]:
        x = self.enter(encoded)
        rows, _, dim = x.shape
        rest = self.unseen.to(x.dtype).expand(rows, n_frames, dim)
        x = rest.scatter(1, index[..., None].expand(-1, -1, dim), x)
        for convolution in self.convolutions:
            y = convolution(x.transpose(1, 2)).transpose(1, 2)
            x = x + F.gelu(F.layer_norm(y, y.shape[-1:]))
        return x


def mask_out(projected: Frames, mask: torch.Tensor, encoder: SpeechEncoder) -> Frames:
    token = encoder.trunk.masked_spec_embed.to(projected.dtype)
    return torch.where(mask[..., None], token, projected)
