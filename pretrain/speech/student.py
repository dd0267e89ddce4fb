"""The student's input: all frames, some of them masked, or only the unmasked ones (data2vec 2.0); masks."""

from dataclasses import dataclass, field
from typing import NamedTuple

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
    """Spans of masked frames in pretraining."""

    share: float = 0.65
    """Length of all spans together over that of the clip; as they overlap, about 49 % of frames are masked.
    The papers' probability of a span to begin at a frame is this over ``span``."""
    span: int = 10
    """Frames of a span."""

    def __post_init__(self) -> None:
        within("(0, 1)", self, "share", prefix="mask.")
        at_least(1, self, "span", prefix="mask.")


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


class Prediction(NamedTuple):
    """The student's states at the masked steps, from which targets are predicted."""

    states: Float[Tensor, "rows steps dim"]
    """With several masks a clip, row ``i`` belongs to clip ``i % batch``."""
    index: Int[Tensor, "rows steps"]
    """Which frames of the clip these are."""


@dataclass(frozen=True, kw_only=True)
class MaskTokenConfig:
    """The plain form: the masked frames are replaced by one learned vector, and all are encoded."""

    mask: MaskConfig = field(default_factory=MaskConfig)


class MaskToken(nn.Module):
    """Encodes every clip once, whole."""

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
        return Prediction(gather_frames(encoder.layers(encoder.position(x))[-1], index), index)


@dataclass(frozen=True, kw_only=True)
class MultiMaskConfig:
    """The 2.0 form: several masks a clip, of which only unmasked frames are encoded, and a decoder."""

    masks: int = 8
    """Masks for each clip, which share its convolutions and its targets."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(share=0.65, span=10))
    decoder_dim: int = 384
    """Channels of the decoder."""
    decoder_layers: int = 4
    """Its convolutions."""
    decoder_kernel: int = 7
    """Frames each of them sees; odd."""
    decoder_groups: int = 16
    """Groups of each of them."""

    def __post_init__(self) -> None:
        if self.decoder_kernel % 2 == 0 or self.decoder_dim % self.decoder_groups or self.masks < 1:
            raise UserError(
                "multi-mask needs an odd decoder_kernel, decoder_dim a multiple of decoder_groups, masks >= 1"
            )


class MultiMask(nn.Module):
    """Encodes the unmasked frames of every clip, once for each mask, and decodes the whole from them."""

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
        # Positions are convolved from the frames around each, so that frames must be masked before.
        x = encoder.position(mask_out(projected.repeat(self.config.masks, 1, 1), mask, encoder))
        encoded = encoder.layers(gather_frames(x, unmasked))[-1]
        return Prediction(gather_frames(self.decoder(encoded, unmasked, frames), masked), masked)


class Decoder(nn.Module):
    """A few grouped convolutions over the encoded frames, with a learned vector where none was encoded."""

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
    """Replace masked frames by the learned vector."""
    token = encoder.trunk.masked_spec_embed.to(projected.dtype)
    return torch.where(mask[..., None], token, projected)
