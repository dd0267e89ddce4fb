"""WaveNet's sampling loop, compiled: the function of ``CachedTorch``, many times faster.

The loop reads weights in panels of columns, with scales and biases folded in. The published residual,
(x + out) √½, becomes a plain sum: layer l operates on 2^(l/2) x, with its gates' weights divided by 2^(l/2)
and its output's multiplied. Likewise, √(1/layers) of the skips is folded into their weights.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vocoders.cpu.compiling import cached
from vocoders.cpu.wavenet_step import (
    BLOCK,
    PANEL,
    choose,
    enter,
    layers,
    look_back,
    outputs,
    predict,
    remember,
)
from vocoders.wavenet.distributions import MuLaw, silence
from vocoders.wavenet.network import WaveNet
from vocoders.wavenet.prediction import Predictor
from vocoders.wavenet.sampling import Conditioning, Encoded

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Folded and packed weights of a network, with the sizes needed to read them."""

    sizes: Ints
    """layers, residual, half of the gates, skip, outputs, kernel, whether inputs are classes."""
    first: Floats
    """(inputs + 1, residual): one row per class, or one row to multiply by the sample; then the bias."""
    current: Floats
    """Layers × panels of (residual, gates): the tap on the present sample, each half padded to panels."""
    past: Floats
    """Layers × (kernel - 1) × panels of (residual, gates), oldest tap first."""
    out_skip: Floats
    """Layers × panels of (half + 1, residual + skip), the bias as the last row."""
    head: Floats
    """Panels of (skip + 1, skip)."""
    last: Floats
    """Panels of (skip + 1, outputs)."""
    lags: Ints
    """(layers, kernel - 1): lag of each tap of ``past``, in samples."""
    strides: Ints
    """(layers, kernel - 1): samples computed at once, a power of two, at most ``BLOCK`` and the lag."""
    rings: Ints
    """(layers, 2): length of each layer's ring buffer in samples, a power of two, and its start in floats."""


def pack(network: WaveNet) -> Packed:
    """Pack a network's weights, with or without weight norm.

    The gates' biases are not packed: they are part of the conditioning, together with speakers and features.
    """
    config, n_layers = network.config, network.config.layers
    residual, half, kernel = config.residual, config.gate // 2, config.kernel
    gates = 2 * padding(half)
    current, past, out_skip = [], [], []
    for number, layer in enumerate(network.layers):
        scale = 2.0 ** (number / 2)
        conv = layer.conv.weight.detach().double().numpy() / scale  # (gates, residual, kernel)
        spread = np.zeros((kernel, residual, gates))
        spread[:, :, :half] = conv[:half].transpose(2, 1, 0)
        spread[:, :, gates // 2 : gates // 2 + half] = conv[half:].transpose(2, 1, 0)
        current.append(panels(spread[-1]))
        past.extend(panels(tap) for tap in spread[:-1])
        out, skip = _with_bias(layer.conv1x1_out) * scale, _with_bias(layer.conv1x1_skip) / np.sqrt(n_layers)
        out_skip.append(panels(np.concatenate([out, skip], axis=1)))

    dilations = np.array(config.dilations, np.int64)
    lags = dilations[:, None] * np.arange(kernel - 1, 0, -1)
    lengths = [1 << ((kernel - 1) * d + BLOCK - 1).bit_length() for d in config.dilations]
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * residual
    classes = isinstance(config.output, MuLaw)
    _, head, _, last = network.last_conv_layers
    sizes = [n_layers, residual, half, config.skip, config.output.n_out, kernel, int(classes)]
    return Packed(
        sizes=np.array(sizes, np.int64),
        first=np.ascontiguousarray(_with_bias(network.first_conv), np.float32),
        current=np.concatenate(current),
        past=np.concatenate(past),
        out_skip=np.concatenate(out_skip),
        head=panels(_with_bias(head)),
        last=panels(_with_bias(last)),
        lags=lags,
        strides=2 ** np.log2(np.minimum(lags, BLOCK)).astype(np.int64),
        rings=np.stack([np.array(lengths, np.int64), begins], axis=1),
    )


def panels(weight: NDArray[np.floating]) -> Floats:
    """Reorder (inputs, outputs) to a flat (panels, inputs, PANEL), with outputs padded by zeros."""
    inputs, outputs = weight.shape
    padded = np.zeros((inputs, padding(outputs)), np.float32)
    padded[:, :outputs] = weight
    return np.ascontiguousarray(padded.reshape(inputs, -1, PANEL).transpose(1, 0, 2)).ravel()


def padding(n: int) -> int:
    """``n`` rounded up to a multiple of the panel width."""
    return -(-n // PANEL) * PANEL


def _with_bias(conv: Any) -> NDArray[np.float64]:
    """A 1×1 convolution's weight as (inputs + 1, outputs), the bias as the last row."""
    weight = conv.weight.detach().double().numpy()[..., 0].T
    return np.concatenate([weight, conv.bias.detach().double().numpy()[None]])


@cached
def loop(version):
    """Generate a block of samples of all utterances, starting at sample ``origin``.

    ``conditioning`` (batch, samples or 1, layers · gates) is added to each layer's gates and includes biases.
    ``noise`` (batch, samples, 2) is a uniform in [0, 1) that selects the class or mixture component, and a
    standard logistic or normal variate for the value within it. ``temperature`` (batch, samples or 1): 0
    takes the likeliest. ``samples`` (batch, samples) is filled with classes, or amplitudes within [-1, 1].
    """

    def run(weights, tables, memory, origin, conditioning, noise, temperature, limits, filters, samples):
        _ = version
        first, current, past, out_skip, head, last = weights
        sizes, lags, strides, rings = tables
        history, pending, previous, recent = memory
        top_p, lowest, hop = limits
        coefficients, gain = filters
        residual, half, skip, n_out = sizes[1], sizes[2], sizes[3], sizes[4]
        batch, n_components = len(history), n_out // 3
        stream = np.zeros((batch, -(-(residual + skip) // PANEL) * PANEL), np.float32)
        z = np.ones((batch, half + 1), np.float32)  # the last column multiplies the bias
        hidden = np.zeros((batch, 2, -(-(skip + 1) // PANEL) * PANEL), np.float32)
        logits = np.zeros((batch, -(-n_out // PANEL) * PANEL), np.float32)
        likely, chosen = np.zeros(n_out, np.float32), np.zeros(n_out, np.float32)
        x_at, c_at = np.zeros(batch * BLOCK, np.int64), np.zeros(batch * BLOCK, np.int64)
        z_at = np.zeros(batch, np.int64)
        for i in range(samples.shape[1]):
            now = min(i, conditioning.shape[1] - 1)
            hot = min(i, temperature.shape[1] - 1)
            for u in range(batch):
                enter(stream[u], previous[u], sizes, first)
            look_back(origin + i, sizes, past, lags, strides, rings, history, pending, x_at, c_at)
            layers(
                origin + i, now, sizes, current, out_skip, rings, history, pending, conditioning,
                stream, z, x_at, c_at, z_at,
            )  # fmt: skip
            outputs(sizes, head, last, stream, hidden, logits, x_at, c_at)
            for u in range(batch):
                if sizes[6] == 1:
                    n, uniform = n_out, noise[u, i, 0]
                    sample = np.float32(
                        choose(logits[u], n, uniform, temperature[u, hot], top_p, likely, chosen)
                    )
                else:
                    mean, log_scale = logits[u, 0], logits[u, 1]
                    if n_out > 2:
                        n, uniform = n_components, noise[u, i, 0]
                        k = choose(logits[u], n, uniform, temperature[u, hot], top_p, likely, chosen)
                        mean, log_scale = logits[u, n + k], logits[u, 2 * n + k]
                    if recent.shape[1] > 0:
                        f = (origin + i) // hop
                        mean = mean * gain[u, f] + predict(recent[u], coefficients[u, f])
                        log_scale += np.log(gain[u, f])
                    scale = np.exp(max(log_scale, np.float32(lowest))) * temperature[u, hot]
                    sample = min(max(mean + scale * noise[u, i, 1], np.float32(-1)), np.float32(1))
                    remember(recent[u], sample)
                previous[u] = sample
                samples[u, i] = sample

    return run


class CompiledLoop:
    """The compiled sampling loop with the network's state; interface as in ``CachedTorch``."""

    def __init__(self, network: WaveNet, batch: int, predictor: Predictor | None = None) -> None:
        output = network.config.output
        self.classes = isinstance(output, MuLaw)
        self.lowest = -float("inf") if isinstance(output, MuLaw) else output.log_scale_min
        packed = pack(network)
        self.weights = packed.first, packed.current, packed.past, packed.out_skip, packed.head, packed.last
        self.tables = packed.sizes, packed.lags, packed.strides, packed.rings
        n_layers, residual, half = (int(size) for size in packed.sizes[:3])
        n_past = int(packed.rings[-1, 0] * residual + packed.rings[-1, 1])
        order = predictor.coefficients.shape[1] if predictor else 0
        self.position = 0
        self.memory = (
            np.zeros((batch, n_past), np.float32),  # ring buffers of every layer's last inputs
            # Contributions of past samples to the gates of this block of samples.
            np.zeros((batch, BLOCK, n_layers, 2 * padding(half)), np.float32),
            np.full(batch, silence(output), np.float32),  # the previous sample, or its class
            np.zeros((batch, order), np.float32),  # input of linear prediction, newest first
        )
        self.filters, self.hop = (np.zeros((batch, 0, 0), np.float32), np.zeros((batch, 0), np.float32)), 1
        if predictor is not None:
            coefficients = predictor.coefficients.transpose(1, 2).contiguous()
            gain = predictor.gain[:, 0].contiguous()
            self.filters, self.hop = (coefficients.numpy(), gain.numpy()), predictor.hop

    def run(
        self,
        conditioning: Conditioning,
        noise: Float[Tensor, "batch samples 2"],
        temperature: Float[Tensor, "batch _"],
        top_p: float,
    ) -> Encoded:
        """Draw as many samples as there is noise for, continuing from the state."""
        samples = np.zeros(noise.shape[:2], np.float32)
        state = self.weights, self.tables, self.memory, self.position
        drawing = _floats(noise), _floats(temperature), (top_p, self.lowest, self.hop)
        loop(*state, _floats(conditioning), *drawing, self.filters, samples)
        self.position += samples.shape[1]
        drawn = torch.from_numpy(samples)
        return drawn.long() if self.classes else drawn


def _floats(x: Tensor) -> np.ndarray:
    return np.require(x.numpy(), np.float32, ["C", "W"])
