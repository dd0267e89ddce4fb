"""What is said: a causal encoder of the wave, with a bottleneck too narrow for a voice."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d, StridedCausalConv1d
from engine.user_error import UserError
from w2w.networks.analysis import CausalLogMel, frame_energy
from w2w.networks.blocks import ResidualBlock
from w2w.networks.fast import (
    blocks_of,
    blocks_run_fast,
    convolution,
    packed,
    pointwise,
    run_blocks,
    runs_fast,
    stem,
)
from w2w.networks.running_mean import MeanState, RunningMean
from w2w.networks.trunk import Trunk, TrunkConfig

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class ContentConfig:
    """The content encoder."""

    frontend: Literal["mel", "conv", "pretrained"] = "mel"
    """``mel``: fixed filters; ``conv``: strided convolutions learned on the samples (NVC-Net's kind);
    ``pretrained``: a speech encoder, which hears whole utterances, so that nothing streams."""
    n_channels: int = 176
    """Width."""
    n_blocks: int = 6
    """Residual blocks; their dilations are 1, 2, 4, 1, 2, 4, …"""
    dim: int = 12
    """Channels of the code: the bottleneck."""
    time_constant: float = 200.0
    """Frames over which the mean spectrum is taken away from the mels; 0 leaves it there."""
    trunk: TrunkConfig | None = None
    """Sizes of the speech encoder, where that is the frontend."""
    trunk_layer: int = 0
    """Layer of the speech encoder that is heard, counted from 1; 0: all, in a learned mixture."""

    def __post_init__(self) -> None:
        if (self.frontend == "pretrained") != (self.trunk is not None):
            raise UserError(
                f"content.frontend={self.frontend!r} goes {'without' if self.trunk else 'with'} a "
                "content.trunk: let --pretrained.content FOLDER set both"
            )


class Content(NamedTuple):
    """What the decoder is told of the source."""

    code: Float[Tensor, "batch dim frames"]
    """Of unit length in every frame."""
    energy: Float[Tensor, "batch 1 frames"]
    """Log of the mean mel magnitude."""


class ContentEncoder(nn.Module):
    """Raw wave to one unit-length code per hop; frame ``t`` has seen samples before ``(t + 1) * hop``.

    A ``pretrained`` one sees all of the wave; its frames stand at the samples that the decoder, which lags by
    ``look_ahead``, makes of them.
    """

    def __init__(
        self,
        config: ContentConfig,
        sample_rate: int,
        hop: int,
        window: int,
        n_mels: int,
        *,
        look_ahead: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.hop = config, hop
        self.analysis = CausalLogMel(sample_rate, hop, window, n_mels)
        width = config.n_channels
        self.mean = (
            RunningMean(n_mels, time_constant=config.time_constant, prior_frames=20.0)
            if config.time_constant and config.frontend == "mel"
            else None
        )
        self.samples = nn.ModuleList()
        if config.frontend == "conv":
            channels = [1, 16, 32, 64, width]
            for inner, outer, stride in zip(channels[:-1], channels[1:], factors(hop)):
                self.samples.append(StridedCausalConv1d(inner, outer, 2 * stride, stride=stride))
        self.trunk: Trunk | None = None
        inner = n_mels if config.frontend == "mel" else width
        if config.trunk is not None:
            self.trunk = Trunk(config.trunk, config.trunk_layer, sample_rate, hop, look_ahead)
            inner = config.trunk.hidden
        self.stem = CausalConv1d(inner, width, 5)
        self.blocks = nn.ModuleList(ResidualBlock(width, 5, 2 ** (i % 3)) for i in range(config.n_blocks))
        self.code = nn.Conv1d(width, config.dim, 1)

    @property
    def streams(self) -> bool:
        """Whether ``step`` may be fed a signal in pieces."""
        return self.trunk is None

    def forward(self, wave: Wave, warp: Float[Tensor, " batch"] | None = None) -> Content:
        """Encode a whole wave; ``warp`` perturbs the voice that the encoder hears, in training.

        A speech encoder hears the perturbed wave at another speed, pitch and formants moved, and the whole of
        it at once; only unperturbed waves may be long.
        """
        state = self.begin(wave.shape[0])
        if self.trunk is None:
            return self.step(wave, state, warp)[0]
        whole = slice(0, wave.shape[-1] // self.hop)
        heard = self.trunk.pieces(wave) if warp is None else [(whole, self.trunk(wave, warp))]
        codes, energies = [], []
        for piece, hidden in heard:
            samples = wave[..., piece.start * self.hop : piece.stop * self.hop]
            mels, state["analysis"] = self.analysis.step(samples, state["analysis"])
            energies.append(frame_energy(mels))
            code, state = self._bottleneck(hidden, state)
            codes.append(code)
        return Content(torch.cat(codes, dim=-1), torch.cat(energies, dim=-1))

    def begin(self, batch: int) -> dict[str, Any]:
        """Silence."""
        return {
            "analysis": self.analysis.begin(batch),
            "mean": self.mean.begin(batch) if self.mean is not None else None,
            "samples": [layer.begin(batch) for layer in self.samples],  # type: ignore[operator]
            "stem": self.stem.begin(batch),
            "blocks": [block.begin(batch) for block in self.blocks],  # type: ignore[operator]
        }

    def step(
        self, wave: Wave, state: dict[str, Any], warp: Float[Tensor, " batch"] | None = None
    ) -> tuple[Content, dict[str, Any]]:
        """Encode one chunk, a whole number of hops long."""
        if not self.streams:
            raise UserError("a pretrained content encoder hears whole utterances: it cannot take chunks")
        mels, after_analysis = self.analysis.step(wave, state["analysis"], warp)
        energy = frame_energy(mels)
        after_mean: MeanState | None = None
        samples = []
        if self.config.frontend == "mel":
            hidden = mels
            if self.mean is not None:
                # Speech, not pauses, tells a voice: frames near the floor hardly count.
                mean, after_mean = self.mean.step(mels, torch.sigmoid(2.0 * (energy + 3.0)), state["mean"])
                hidden = mels - mean
            hidden = hidden * 0.5
        else:
            hidden = wave
            for layer, past in zip(self.samples, state["samples"]):
                hidden, after = layer.step(hidden, past)  # type: ignore[operator]
                hidden = F.silu(hidden)
                samples.append(after)
        code, after_all = self._bottleneck(hidden, state)
        return Content(code, energy), after_all | {
            "analysis": after_analysis,
            "mean": after_mean,
            "samples": samples,
        }

    def _bottleneck(
        self, hidden: Float[Tensor, "batch inner frames"], state: dict[str, Any]
    ) -> tuple[Float[Tensor, "batch dim frames"], dict[str, Any]]:
        """From what a frontend hears to codes of unit length."""
        if runs_fast(hidden) and blocks_run_fast(self.blocks):
            first, known, last = packed(
                self, lambda: (convolution(self.stem), blocks_of(self.blocks), convolution(self.code))
            )
            rows, after_stem = stem(first, hidden[0].T, state["stem"])
            pasts = run_blocks(known, rows, state["blocks"])
            code = pointwise(last, rows)
            code = code * torch.rsqrt(code.square().sum(1, keepdim=True) + 1e-4)
            return code.T[None], state | {"stem": after_stem, "blocks": pasts}
        hidden, after_stem = self.stem.step(hidden, state["stem"])
        blocks = []
        for block, past in zip(self.blocks, state["blocks"]):
            hidden, after = block.step(hidden, past)  # type: ignore[operator]
            blocks.append(after)
        code = self.code(hidden)
        # The root keeps silence's code short instead of blowing up its direction.
        code = code * torch.rsqrt(code.square().sum(1, keepdim=True) + 1e-4)
        return code, state | {"stem": after_stem, "blocks": blocks}


def factors(hop: int) -> list[int]:
    """Split a hop of 10 ms into four strides: 160 = 2·4·4·5, 240 = 3·4·4·5."""
    rest, strides = hop, []
    for stride in (5, 4, 4):
        if rest % stride:
            raise ValueError(
                f"hop={hop} is not a multiple of 80 samples: choose sample_rate a multiple of 8 kHz"
            )
        rest //= stride
        strides.append(stride)
    return [rest, *reversed(strides)]
