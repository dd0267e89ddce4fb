"""How it is said: content in frames, a voice, and out come samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d
from w2w.networks.blocks import Norm, ResidualBlock
from w2w.networks.content import Content
from w2w.networks.fast import (
    Steering,
    blocks_of,
    blocks_run_fast,
    convolution,
    packed,
    pointwise,
    run_blocks,
    runs_fast,
    shares_of,
    stem,
    token_table,
)
from w2w.networks.heads import HeadName, build_head
from w2w.networks.pitch import Pitch
from w2w.networks.style import StyleConfig

Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch voice"]
MEAN_LOG_F0 = 5.0
"""About 150 Hz: log-F0 is fed to the network as its distance from here."""
KNOWN_VOICES = 16
"""Voices whose styles are kept, where frames are mixtures of them."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder."""

    head: HeadName = "harmonic"
    """``harmonic`` plus noise, ``istft`` or ``transposed`` convolutions."""
    norm: Norm = "film"
    """``film`` streams; ``adain`` (instance normalisation over the utterance) is for offline ablations."""
    n_channels: int = 224
    """Width."""
    n_blocks: int = 8
    """Residual blocks; their dilations are 1, 2, 4, 1, 2, 4, …"""


class Decoder(nn.Module):
    """Codes, energy, F0 and a voice to samples, without look-ahead.

    Each frame asks for the timbre tokens that suit its sound, so a voice steers every phone in its own way;
    the mixture and the whole voice steer every block.
    """

    def __init__(
        self, config: DecoderConfig, style: StyleConfig, content_dim: int, sample_rate: int, hop: int
    ) -> None:
        super().__init__()
        self.config, self.style = config, style
        width = config.n_channels
        self.head = build_head(config.head, width, sample_rate, hop)
        self.needs_pitch: bool = self.head.needs_pitch  # type: ignore[assignment]
        said = content_dim + 1 + (2 if self.needs_pitch else 0)
        self.stem = CausalConv1d(said, width, 5)
        self.ask = nn.Conv1d(width, style.n_tokens, 1)
        self.whole = nn.Linear(style.voice_dim - 1, 2 * style.token_dim)
        steer = 3 * style.token_dim
        self.blocks = nn.ModuleList(
            ResidualBlock(width, 5, 2 ** (i % 3), style_dim=steer, norm=config.norm)
            for i in range(config.n_blocks)
        )
        self.tint = nn.Conv1d(steer, width, 1)

    @property
    def streams(self) -> bool:
        """Whether ``step`` may be fed a signal in pieces."""
        return self.config.norm == "film"

    def begin(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """Silence; ``random`` starts pulses and noise anywhere (for training)."""
        return {
            "stem": self.stem.begin(batch),
            "blocks": [block.begin(batch) for block in self.blocks],  # type: ignore[operator]
            "head": self.head.begin(batch, random=random),  # type: ignore[operator]
        }

    def step(
        self, content: Content, pitch: Pitch, voice: Voice, state: dict[str, Any]
    ) -> tuple[Wave, dict[str, Any]]:
        """Speak one chunk."""
        said = [content.code, 0.3 * content.energy]
        if self.needs_pitch:
            said += [(pitch.log_f0 - MEAN_LOG_F0).float(), pitch.voicing.float()]
        heard = torch.cat(said, dim=1)
        if runs_fast(heard) and blocks_run_fast(self.blocks):
            hidden, after = self._fast_step(heard, voice, state)
            wave, head = self.head.step(hidden, pitch.log_f0, state["head"])  # type: ignore[operator]
            return wave, after | {"head": head}
        hidden, after_stem = self.stem.step(heard, state["stem"])
        steer = self.steer(hidden, voice)
        blocks = []
        for block, past in zip(self.blocks, state["blocks"]):
            hidden, after = block.step(hidden, past, steer)  # type: ignore[operator]
            blocks.append(after)
        hidden = hidden + self.tint(steer)
        wave, head = self.head.step(hidden, pitch.log_f0, state["head"])  # type: ignore[operator]
        return wave, {"stem": after_stem, "blocks": blocks, "head": head}

    def _fast_step(
        self, heard: Float[Tensor, "1 said frames"], voice: Voice, state: dict[str, Any]
    ) -> tuple[Float[Tensor, "1 channels frames"], dict[str, Any]]:
        """The same frames as the plain way, sooner: a frame's style is a mixture of the tokens' styles."""
        first, ask, blocks, voices = packed(
            self, lambda: (convolution(self.stem), convolution(self.ask), blocks_of(self.blocks), {})
        )
        rows, after_stem = stem(first, heard[0].T, state["stem"])
        shares = shares_of(ask, rows)
        tables, tint = self._styles(voice, voices)
        pasts = run_blocks(blocks, rows, state["blocks"], Steering(tables, shares, len(tint)))
        rows.addmm_(shares[:, : len(tint)], tint)
        return rows.T[None], {"stem": after_stem, "blocks": pasts}

    def _styles(
        self, voice: Voice, held: dict[bytes, Any]
    ) -> tuple[np.ndarray, Float[Tensor, "tokens channels"]]:
        """What every block's style, and the tint, would be where a frame asked for one token alone."""
        key = voice.numpy(force=True).tobytes()
        if key not in held:
            if len(held) >= KNOWN_VOICES:
                held.clear()
            timbre = voice[0, :-1]
            tokens = timbre.unflatten(0, (self.style.n_tokens, self.style.token_dim))
            steer = torch.cat([tokens, self.whole(timbre).expand(len(tokens), -1)], dim=1)
            tables = [token_table(block, steer) for block in self.blocks]  # type: ignore[arg-type]
            held[key] = np.stack(tables), pointwise(convolution(self.tint), steer).contiguous()
        return held[key]

    def steer(
        self, hidden: Float[Tensor, "batch channels frames"], voice: Voice
    ) -> Float[Tensor, "batch steer frames"]:
        """The voice as each frame needs it: its mixture of timbre tokens beside a digest of them all."""
        timbre = voice[:, :-1]
        tokens = timbre.unflatten(1, (self.style.n_tokens, self.style.token_dim))
        mixture = torch.einsum("bkt,bkd->bdt", self.ask(hidden).softmax(1), tokens)
        whole = self.whole(timbre)[..., None].expand(-1, -1, hidden.shape[-1])
        return torch.cat([mixture, whole], dim=1)
