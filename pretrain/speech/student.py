"""What the student sees of a clip: all frames, some covered, or only the uncovered ones (data2vec 2.0)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.user_error import UserError
from pretrain.speech.encoder import Frames, SpeechEncoder
from pretrain.speech.masking import MaskConfig, at, equally_many, places, span_mask


class Guessing(NamedTuple):
    """The student's states where it has to guess."""

    states: Float[Tensor, "rows steps dim"]
    """At the masked steps; with several masks a clip, row ``i`` belongs to clip ``i % batch``."""
    index: Int[Tensor, "rows steps"]
    """Which frames of the clip these are."""


@dataclass(frozen=True, kw_only=True)
class CoveredConfig:
    """The plain form: the masked frames are replaced by one learned vector, and all are encoded."""

    mask: MaskConfig = field(default_factory=MaskConfig)


class Covered(nn.Module):
    """Encodes every clip once, whole."""

    def __init__(self, config: CoveredConfig, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.dim = hidden
        """Channels of the states."""

    def forward(self, encoder: SpeechEncoder, projected: Frames) -> Guessing:
        batch, frames, _ = projected.shape
        mask = equally_many(span_mask(batch, frames, self.config.mask, projected.device))
        index = places(mask)
        x = cover(projected, mask, encoder)
        return Guessing(at(encoder.layers(encoder.position(x))[-1], index), index)


@dataclass(frozen=True, kw_only=True)
class MultiMaskConfig:
    """The 2.0 form: several masks a clip, of which only uncovered frames are encoded; a decoder guesses."""

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
    """Encodes what is left of every clip, once for each mask, and decodes the whole from it."""

    def __init__(self, config: MultiMaskConfig, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config, hidden)
        self.dim = config.decoder_dim
        """Channels of the states."""

    def forward(self, encoder: SpeechEncoder, projected: Frames) -> Guessing:
        batch, frames, _ = projected.shape
        rows = self.config.masks * batch
        mask = equally_many(span_mask(rows, frames, self.config.mask, projected.device))
        hidden_places, seen_places = places(mask), places(~mask)
        # Places are told from what surrounds a frame, so the covered ones must be covered before.
        x = encoder.position(cover(projected.repeat(self.config.masks, 1, 1), mask, encoder))
        seen = encoder.layers(at(x, seen_places))[-1]
        return Guessing(at(self.decoder(seen, seen_places, frames), hidden_places), hidden_places)


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
        self, seen: Frames, where: Int[Tensor, "batch frames"], n_frames: int
    ) -> Float[Tensor, "batch all_frames dim"]:
        seen = self.enter(seen)
        rows, _, dim = seen.shape
        x = self.unseen.to(seen.dtype).expand(rows, n_frames, dim)
        x = x.scatter(1, where[..., None].expand(-1, -1, dim), seen)
        for convolution in self.convolutions:
            y = convolution(x.transpose(1, 2)).transpose(1, 2)
            x = x + F.gelu(F.layer_norm(y, y.shape[-1:]))
        return x


def cover(projected: Frames, mask: torch.Tensor, encoder: SpeechEncoder) -> Frames:
    """Put the learned vector in the place of masked frames."""
    token = encoder.trunk.masked_spec_embed.to(projected.dtype)
    return torch.where(mask[..., None], token, projected)
