"""The converter of CLUIT on mels: an encoder that takes the voice out, a decoder that puts another in."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from w2w.baselines.cluit_mel.blocks import Block, StyledBlock, advance
from w2w.baselines.cluit_mel.config import CluitMelConfig
from w2w.baselines.cluit_mel.convolutions import initialised, same
from w2w.baselines.cluit_mel.normalisation import Affine, Modulation, leaky

Mel = Float[Tensor, "batch n_mels frames"]
Voice = Float[Tensor, "batch style"]
Modulations = list[tuple[Modulation, Modulation]]


class Generator(nn.Module):
    """Stem, blocks down, bottleneck without and with the voice, blocks up, and 1×1 to the bands.

    Where the recipe is silent: as many blocks up as down, all with AdaIN; at the end InstanceNorm and
    LeakyReLU before the 1×1 (both as in StarGAN v2). The stem repeats the first and last frame instead of
    adding zeros, so that a gain, which adds the same to all log-mels, moves none of the normalised channels:
    the non-causal converter gives the same for any level of the source.
    """

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        widths, norm, causal = config.widths(config.n_down), config.norm, config.causal
        self.stem = stem(config.mel.n_mels, widths[0], causal=causal)
        lowest = [widths[-1]] * config.n_bottleneck
        self.encoder = nn.ModuleList(
            [Block(a, b, halve=True, norm=norm, causal=causal) for a, b in pairwise(widths)]
            + [Block(a, a, halve=False, norm=norm, causal=causal) for a in lowest]
        )
        style, up = config.style_dim, widths[::-1]
        self.decoder = nn.ModuleList(
            [StyledBlock(a, a, style, double=False, norm=norm, causal=causal) for a in lowest]
            + [StyledBlock(a, b, style, double=True, norm=norm, causal=causal) for a, b in pairwise(up)]
        )
        self.norm = Affine(widths[0], norm)
        self.to_mel = initialised(nn.Conv1d(widths[0], config.mel.n_mels, 1), widths[0])

    def modulations(self, voice: Voice) -> Modulations:
        """What a voice does to every AdaIN."""
        return [block.modulations(voice) for block in self.decoder]  # type: ignore[operator]

    def forward(self, mel: Mel, voice: Voice) -> Mel:
        """Convert whole blocks of ``frames_per_step`` standardised frames."""
        n_blocks = len(self.encoder) + len(self.decoder)
        return self.run(mel, self.modulations(voice), [None, *[(None, None)] * n_blocks])[0]

    def begin(self, batch: int) -> list[Any]:
        """Silence."""
        return [layer.begin(batch) for layer in (self.stem, *self.encoder, *self.decoder)]  # type: ignore[operator]

    def run(self, mel: Mel, modulations: Modulations, pasts: list[Any]) -> tuple[Mel, list[Any]]:
        """Process one chunk of whole blocks, or a whole utterance where there is no past."""
        hidden, after = advance(self.stem, mel, pasts[0])
        afters, n_encoder = [after], len(self.encoder)
        for block, past in zip(self.encoder, pasts[1:]):
            hidden, after = block.run(hidden, past)  # type: ignore[operator]
            afters.append(after)
        for block, voice, past in zip(self.decoder, modulations, pasts[1 + n_encoder :]):
            hidden, after = block.run(hidden, voice, past)  # type: ignore[operator]
            afters.append(after)
        return self.to_mel(leaky(self.norm(hidden))), afters


def stem(n_mels: int, n_channels: int, *, causal: bool) -> nn.Module:
    """Bands to channels."""
    layer = same(n_mels, n_channels, causal=causal)
    if causal:
        return layer
    repeated = nn.Conv1d(n_mels, n_channels, 3, padding=1, padding_mode="replicate")
    return initialised(repeated, n_mels * 3)


def whole_blocks(mel: Mel, frames: int) -> Float[Tensor, "batch n_mels whole"]:
    """Repeat the last frame until there are whole blocks of ``frames``."""
    missing = -mel.shape[-1] % frames
    return torch.cat([mel, mel[..., -1:].expand(-1, -1, missing)], dim=-1) if missing else mel
