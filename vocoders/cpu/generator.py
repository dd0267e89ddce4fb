"""HiFi-GAN's and MelGAN's generation on a CPU, several times faster than layer by layer.

It relies on convolutions by minimal filtering (half the multiplications), channels in vectors and time in
rows (dilation is free), and tiling: each tile of time passes through all of a stage's convolutions before the
next tile, so that signals stay in the cache and the cost per second does not depend on the length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vocoders.cpu.compiling import for_tiles
from vocoders.cpu.convolution import Convolution, Rows, project, scratch, transposed
from vocoders.cpu.product import LANES
from vocoders.hifigan import HiFiGAN, PairedBlock, SingleBlock
from vocoders.melgan import MelGAN, ResidualBlock

TILE = 2**17
"""Floats in a tile of one signal: half a MiB, so that a tile's four signals fit in a 2 MiB cache."""


@dataclass(frozen=True)
class Step:
    """A convolution in a stage: ``out = convolution(source) + residual``, by names of a tile's signals."""

    convolution: Convolution
    source: str
    out: str
    residual: str = ""


@dataclass(frozen=True)
class Stage:
    """A transposed convolution and the residual blocks at its rate."""

    up: Convolution
    """The transposed convolution as a convolution computing ``rate`` rows at once; see ``transposed``."""
    rate: int
    padding: int
    branches: Sequence[Sequence[Step]]
    """Parallel residual blocks: each starts from signal "input"; their last outputs are summed."""
    reflect: bool
    """Whether edges are padded by reflection; otherwise with zeros."""

    @property
    def channels(self) -> int:
        return self.up.width // self.rate

    @property
    def halo(self) -> int:
        """Rows on each side that a row depends on."""
        return max(sum(step.convolution.reach for step in branch) for branch in self.branches)

    @property
    def margin(self) -> int:
        """Rows on each side that convolutions read or write, although no result depends on them."""
        return max([self.rate * self.up.margin, *(s.convolution.margin for b in self.branches for s in b)])

    def __call__(self, source: Rows, edge: int, out: Rows, length: int, start: int, stop: int) -> None:
        """Compute rows ``start`` to ``stop`` of ``out``; ``source`` is padded by ``edge`` rows of zeros."""
        origin = self.margin + self.halo - start  # index of row 0 in a tile
        size = (stop - start + 2 * (self.halo + self.margin)) * self.channels
        names = {"input"} | {step.out for branch in self.branches for step in branch}
        tile = {name: scratch(name, size)[:size].reshape(-1, self.channels) for name in names}

        first, last = max(start - self.halo, 0), min(stop + self.halo, length)
        begin, end = (first + self.padding) // self.rate, (last - 1 + self.padding) // self.rate + 1
        into = tile["input"][origin + begin * self.rate - self.padding :]
        self.up(source[edge + begin - (self.up.kernel - 1) :], None, into, end - begin)
        self._lay_edges(tile["input"], origin, first, last, length)
        for number, branch in enumerate(self.branches):
            extent = sum(step.convolution.reach for step in branch)
            for step in branch:
                extent -= step.convolution.reach
                first, last = max(start - extent, 0), min(stop + extent, length)
                from_, into = tile[step.source][origin + first - step.convolution.reach :], tile[step.out]
                residual = tile[step.residual][origin + first :] if step.residual else None
                step.convolution(from_, residual, into[origin + first :], last - first)
                self._lay_edges(into, origin, first, last, length)
            result = tile[branch[-1].out][origin + start : origin + stop]
            out[start:stop] = result if number == 0 else out[start:stop] + result

    def _lay_edges(self, signal: Rows, origin: int, first: int, last: int, length: int) -> None:
        """Write the padding that the next step reads beyond the rows just written."""
        signal[origin + last : origin + last + self.margin] = 0
        if first == 0:
            signal[origin - self.margin : origin] = 0
        n = max(step.convolution.reach for branch in self.branches for step in branch) if self.reflect else 0
        if n and first == 0:
            signal[origin - n : origin] = signal[origin + n : origin : -1]
        if n and last == length:
            end = origin + length
            signal[end : end + n] = signal[end - 2 : end - 2 - n : -1]


class Generator:
    """A generator: a first convolution, upsampling stages, a last convolution to one channel, and tanh."""

    def __init__(
        self,
        pre: Any,
        stages: Sequence[Stage],
        post: Any,
        *,
        post_slope: float,
        post_scale: float = 1.0,
        reflect: bool,
    ) -> None:
        weight = F.pad(pre.weight.detach(), (0, 0, 0, -pre.in_channels % LANES))
        self.pre, self.stages, self.reflect = Convolution(weight, pre.bias), stages, reflect
        self.post = (post.weight.detach()[0].T * post_scale).float().numpy().ravel()
        self.post_bias, self.post_slope = np.float32(post.bias.item()), np.float32(post_slope)
        self.edge = max(self.pre.margin, *(stage.up.margin for stage in stages)) + 3

    def __call__(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch 1 samples"]:
        return torch.stack([self._one(item) for item in mel])[:, None].tanh_()

    def _one(self, mel: Float[Tensor, "n_mels frames"]) -> Float[Tensor, "samples"]:
        edge, length = self.edge, mel.shape[-1]
        source = self._rows(length, self.pre.depth)
        source[edge : edge + length] = 0
        source[edge : edge + length, : len(mel)] = mel.T.numpy()
        self._reflect(source, length)
        x = self._rows(length, self.pre.width)
        self.pre(source[edge - self.pre.reach :], None, x[edge:], length)
        for stage in self.stages:
            x[edge + length :] = 0
            length *= stage.rate
            out = self._rows(length, stage.channels)
            for_tiles(partial(stage, x, edge, out[edge:], length), length, tile=TILE // stage.channels)
            x = out
        self._reflect(x, length)
        wave = np.empty(length, np.float32)
        reach = (len(self.post) // x.shape[1] - 1) // 2
        project(
            x[edge - reach : edge + length + reach].ravel(), self.post, self.post_bias, self.post_slope, wave
        )
        return torch.from_numpy(wave)

    def _rows(self, length: int, channels: int) -> Rows:
        rows = torch.empty(length + 2 * self.edge, channels).numpy()
        rows[: self.edge] = 0
        rows[-self.edge :] = 0
        return rows

    def _reflect(self, x: Rows, length: int) -> None:
        if self.reflect:
            first, end = self.edge, self.edge + length
            x[first - 3 : first] = x[first + 3 : first : -1]
            x[end : end + 3] = x[end - 2 : end - 5 : -1]


def hifigan_plan(network: HiFiGAN) -> Generator:
    """Plan HiFi-GAN's generation; the mean over blocks is folded into the following weights."""
    n_blocks, stages = len(network.config.resblock_kernels), []
    blocks: list[Any] = list(network.resblocks)
    ups: list[Any] = list(network.ups)
    for n, up in enumerate(ups):
        branches = [_hifigan_steps(block) for block in blocks[n * n_blocks : (n + 1) * n_blocks]]
        upsampling = transposed(up, 0.1, scale=1.0 if n == 0 else 1 / n_blocks)
        stages.append(Stage(upsampling, up.stride[0], up.padding[0], branches, reflect=False))
    pre, post = network.conv_pre, network.conv_post
    return Generator(pre, stages, post, post_slope=0.01, post_scale=1 / n_blocks, reflect=False)


def _hifigan_steps(block: PairedBlock | SingleBlock) -> list[Step]:
    steps, x = [], "input"
    if isinstance(block, SingleBlock):
        for n, conv in enumerate(block.convs):
            out = ("current", "middle")[n % 2]
            steps.append(Step(_leaky(conv, 0.1), x, out, residual=x))
            x = out
        return steps
    for dilated, undilated in zip(block.convs1, block.convs2):
        steps.append(Step(_leaky(dilated, 0.1), x, "middle"))
        steps.append(Step(_leaky(undilated, 0.1), "middle", "current", residual=x))
        x = "current"
    return steps


def melgan_plan(network: MelGAN) -> Generator:
    """Plan MelGAN's generation."""
    layers: list[Any] = list(network.model)
    stages, n_blocks = [], network.config.n_residual_layers
    for n, up in enumerate(layers):
        if isinstance(up, nn.ConvTranspose1d):
            blocks = layers[n + 1 : n + 1 + n_blocks]
            branch = [step for number, block in enumerate(blocks) for step in _melgan_steps(block, number)]
            padding: Any = up.padding[0]
            stages.append(Stage(transposed(up, 0.2), up.stride[0], padding, [branch], reflect=True))
    return Generator(layers[1], stages, layers[-2], post_slope=0.2, reflect=True)


def _melgan_steps(block: ResidualBlock, number: int) -> list[Step]:
    """Steps of the ``number``-th residual block of a stage."""
    out = "even" if number % 2 else "odd"
    source = ("odd" if number % 2 else "even") if number else "input"
    _, _, dilated, _, pointwise = block.block
    return [
        Step(_leaky(dilated, 0.2), source, "middle"),
        Step(_leaky(block.shortcut, 1.0), source, out),
        Step(_leaky(pointwise, 0.2), "middle", out, residual=out),
    ]


def _leaky(conv: Any, slope: float) -> Convolution:
    return Convolution(conv.weight, conv.bias, dilation=conv.dilation[0], slope=slope)
