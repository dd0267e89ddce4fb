"""The student's input: all frames, some of them masked, or only the unmasked ones (data2vec 2.0)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.user_error import UserError
from pretrain.speech.encoder import Frames, SpeechEncoder
from pretrain.speech.masking import MaskConfig, equally_many, gather_frames, masked_indices, span_mask


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
