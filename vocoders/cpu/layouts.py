"""HiFi-GAN and MelGAN laid out for ``Generator``: each block's equation as steps on named signals."""

from typing import Any

from torch import nn

from vocoders.cpu.convolution import Convolution, transposed
from vocoders.cpu.generator import Generator, Stage, Step
from vocoders.hifigan import HiFiGAN, PairedBlock, SingleBlock
from vocoders.melgan import MelGAN, ResidualBlock


def generator_of(network: HiFiGAN | MelGAN) -> Generator:
    """Lay a network's weights out."""
    return _hifigan(network) if isinstance(network, HiFiGAN) else _melgan(network)


def _hifigan(network: HiFiGAN) -> Generator:
    """The mean over blocks goes into the weights that follow."""
    n_blocks, stages = len(network.config.resblock_kernels), []
    blocks: list[Any] = list(network.resblocks)
    ups: list[Any] = list(network.ups)
    for n, up in enumerate(ups):
        branches = [_hifigan_steps(block) for block in blocks[n * n_blocks : (n + 1) * n_blocks]]
        laid_out = transposed(up, 0.1, scale=1.0 if n == 0 else 1 / n_blocks)
        stages.append(Stage(laid_out, up.stride[0], up.padding[0], branches, reflect=False))
    return Generator(
        network.conv_pre,
        stages,
        network.conv_post,
        post_slope=0.01,
        post_scale=1 / n_blocks,
        halo=network.halo,
        reflect=False,
    )


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


def _melgan(network: MelGAN) -> Generator:
    layers: list[Any] = list(network.model)
    stages, n_blocks = [], network.config.n_residual_layers
    for n, up in enumerate(layers):
        if isinstance(up, nn.ConvTranspose1d):
            blocks = layers[n + 1 : n + 1 + n_blocks]
            branch = [step for number, block in enumerate(blocks) for step in _melgan_steps(block, number)]
            padding: Any = up.padding[0]
            stages.append(Stage(transposed(up, 0.2), up.stride[0], padding, [branch], reflect=True))
    return Generator(layers[1], stages, layers[-2], post_slope=0.2, halo=network.halo, reflect=True)


def _melgan_steps(block: ResidualBlock, number: int) -> list[Step]:
    """Of the ``number``-th block in a row."""
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
