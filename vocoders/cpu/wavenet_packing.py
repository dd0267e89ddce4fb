"""WaveNet's weights as the compiled loop reads them: in panels of columns, scales and biases folded in.

The published residual, (x + out) √½, is kept as a plain sum: layer l works on 2^(l/2) x, its gates' weights
are divided by that and its output's multiplied. Likewise √(1/layers) of the skips goes into their weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vocoders.cpu.product import GATHERED_PANEL as PANEL
from vocoders.wavenet.distributions import MuLaw
from vocoders.wavenet.network import WaveNet

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
BLOCK = 16
"""Most samples for which what comes from the past is computed at once."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One network's weights, folded and packed, with the sizes needed to read them."""

    sizes: Ints
    """layers, residual, half of the gates, skip, outputs, kernel, whether inputs are classes."""
    first: Floats
    """(inputs + 1, residual): a row for each class, or one for the sample to multiply; then the bias."""
    current: Floats
    """Layers × panels of (residual, gates): the tap on the present sample; each half padded to panels."""
    past: Floats
    """Layers × (kernel - 1) × panels of (residual, gates), oldest tap first."""
    out_skip: Floats
    """Layers × panels of (half + 1, residual + skip), the bias as the last row."""
    head: Floats
    """Panels of (skip + 1, skip)."""
    last: Floats
    """Panels of (skip + 1, outputs)."""
    lags: Ints
    """(layers, kernel - 1): how far back each tap of ``past`` looks, in samples."""
    strides: Ints
    """(layers, kernel - 1): for how many samples at once; a power of two, at most ``BLOCK`` and the lag."""
    rings: Ints
    """(layers, 2): samples of the past each layer keeps, a power of two, and where they begin (floats)."""


def pack(network: WaveNet) -> Packed:
    """Pack a network, under weight norm or not.

    The gates' own biases are not among what is packed: they belong to the conditioning, as does all that
    depends on speakers or features.
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
    kept = [1 << ((kernel - 1) * d + BLOCK - 1).bit_length() for d in config.dilations]
    begins = np.concatenate([[0], np.cumsum(kept)[:-1]]) * residual
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
        rings=np.stack([np.array(kept, np.int64), begins], axis=1),
    )


def panels(weight: NDArray[np.floating]) -> Floats:
    """Lay (inputs, outputs) out as (panels, inputs, PANEL), outputs padded with zeros; flat."""
    inputs, outputs = weight.shape
    padded = np.zeros((inputs, padding(outputs)), np.float32)
    padded[:, :outputs] = weight
    return np.ascontiguousarray(padded.reshape(inputs, -1, PANEL).transpose(1, 0, 2)).ravel()


def padding(n: int) -> int:
    """The least multiple of a panel's width that holds ``n``."""
    return -(-n // PANEL) * PANEL


def _with_bias(conv: nn.Module) -> NDArray[np.float64]:
    """A 1×1 convolution's weight as (inputs + 1, outputs), the bias as the last row."""
    assert isinstance(conv, nn.Conv1d)
    assert conv.bias is not None
    weight = conv.weight.detach().double().numpy()[..., 0].T
    return np.concatenate([weight, conv.bias.detach().double().numpy()[None]])
