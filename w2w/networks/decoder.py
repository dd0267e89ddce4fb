"""The decoder: content, F0 and a voice to samples."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d, ResidualBlock, blocks_step
from engine.user_error import within
from pretrain.pitch.tracker import Pitch
from w2w.networks.heads import HarmonicNoiseHead
from w2w.networks.refiner import Refiner, RefinerConfig
from w2w.networks.style import StyleConfig

Voice = Float[Tensor, "batch voice"]
MEAN_LOG_F0 = 5.0
"""About 150 Hz: networks get log-F0 relative to this."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and settings of the decoder."""

    n_channels: int = 256
    """Channels of the residual blocks."""
    n_blocks: int = 8
    """Residual blocks; their dilations are 1, 2, 4, 1, 2, 4, …"""
    sharpness: float = 0.0
    """Formant sharpening of converted speech: relative increase of the formants' cepstrum; 0: none."""
    refiner: RefinerConfig | None = RefinerConfig()  # noqa: RUF009 - frozen
    """Learned correction of the source-filter wave; none leaves it out."""

    def __post_init__(self) -> None:
        within("[0, 1]", self, "sharpness")


class Decoder(nn.Module):
    """Codes, energy, F0 and a voice to samples, without look-ahead.

    Each frame attends to the timbre tokens, so that the conditioning on the voice depends on the phone; the
    attended mixture and a summary of the whole voice modulate every block.
    """

    def __init__(
        self, config: DecoderConfig, style: StyleConfig, content_dim: int, sample_rate: int, hop: int
    ) -> None:
        super().__init__()
        self.config, self.style = config, style
        width, conditioning = config.n_channels, 3 * style.token_dim
        self.stem = CausalConv1d(content_dim + 3, width, 5)
        self.token_query = nn.Conv1d(width, style.n_tokens, 1)
        self.voice_summary = nn.Linear(style.voice_dim - 1, 2 * style.token_dim)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, 5, 2 ** (i % 3), style_dim=conditioning) for i in range(config.n_blocks)
        )
        self.style_bias = nn.Conv1d(conditioning, width, 1)
        self.head = HarmonicNoiseHead(width, sample_rate, hop, sharpness=config.sharpness)
        self.refiner = Refiner(config.refiner, width, hop) if config.refiner else None

    def begin(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """State before the first frame; ``random`` draws the phases of pulses and noise (for training)."""
        return {
            "stem": self.stem.begin(batch),
            "blocks": [block.begin(batch) for block in self.blocks],  # type: ignore[operator]
            "head": self.head.begin(batch, random=random),
            "refiner": self.refiner.begin(batch) if self.refiner else None,
        }

    def step(
        self,
        code: Float[Tensor, "batch dim frames"],
        energy: Float[Tensor, "batch 1 frames"],
        pitch: Pitch,
        voice: Voice,
        state: dict[str, Any],
        *,
        sharpen: bool = False,
    ) -> tuple[Float[Tensor, "batch 1 samples"], dict[str, Any]]:
        """Synthesise one chunk; ``sharpen`` applies the formant sharpening."""
        log_f0 = (pitch.log_f0 - MEAN_LOG_F0).float()
        inputs = torch.cat([code, 0.3 * energy, log_f0, pitch.voicing.float()], dim=1)
        hidden, stem = self.stem.step(inputs, state["stem"])
        conditioning = self.conditioning(hidden, voice)
        hidden, blocks = blocks_step(self.blocks, hidden, state["blocks"], conditioning)
        hidden = hidden + self.style_bias(conditioning)
        wave, head = self.head.step(hidden, pitch.log_f0, state["head"], sharpen=sharpen)
        refined = None
        if self.refiner is not None:
            wave, refined = self.refiner.step(wave, hidden, state["refiner"])
        return wave, {"stem": stem, "blocks": blocks, "head": head, "refiner": refined}

    def conditioning(
        self, hidden: Float[Tensor, "batch channels frames"], voice: Voice
    ) -> Float[Tensor, "batch conditioning frames"]:
        """Conditioning of each frame: its attended mixture of timbre tokens, and a summary of all tokens."""
        timbre = voice[:, :-1].to(hidden.dtype)
        tokens = timbre.unflatten(1, (self.style.n_tokens, self.style.token_dim))
        mixture = torch.einsum("bkt,bkd->bdt", self.token_query(hidden).softmax(1).to(tokens.dtype), tokens)
        summary = self.voice_summary(timbre)[..., None].expand(-1, -1, hidden.shape[-1])
        return torch.cat([mixture, summary.to(mixture.dtype)], dim=1)
