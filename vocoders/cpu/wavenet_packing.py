"""WaveNet's weights as the compiled kernel reads them: in panels of 64 columns, scales and biases folded in.

The published residual, (x + out) √½, is kept as a plain sum: layer l works on 2^(l/2) x, its gates' weights
are divided by that and its output's multiplied. Likewise √(1/layers) of the skips goes into their weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
PANEL = 64
BLOCK = 16
"""Most samples for which what comes from the past is computed at once."""


def panels(weight: NDArray[np.floating]) -> Floats:
    """Lay (inputs, outputs) out as (panels, inputs, 64), outputs padded with zeros; flat."""
    inputs, outputs = weight.shape
    padded = np.zeros((inputs, padding(outputs)), np.float32)
    padded[:, :outputs] = weight
    return np.ascontiguousarray(padded.reshape(inputs, -1, PANEL).transpose(1, 0, 2)).ravel()


def padding(n: int) -> int:
    """The least multiple of a panel's width that holds ``n``."""
    return -(-n // PANEL) * PANEL


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


def pack(weight: Callable[[str], NDArray[np.floating]], *, dilations: Sequence[int], classes: bool) -> Packed:
    """Pack the network whose parameters ``weight`` returns by their published names, without weight norm.

    ``dilations``: of each layer. ``classes``: whether inputs are classes. The gates' own biases are not among
    what is packed: they belong to the conditioning, as does all that depends on speakers or features.
    """
    n_layers = len(dilations)
    half, residual = _matrix(weight("conv_layers.0.conv1x1_out.weight")).shape
    skip = len(weight("last_conv_layers.1.weight"))
    outputs, kernel = len(weight("last_conv_layers.3.weight")), weight("conv_layers.0.conv.weight").shape[-1]
    gates = 2 * padding(half)

    current, past, out_skip = [], [], []
    for layer in range(n_layers):
        name, scale = f"conv_layers.{layer}", 2.0 ** (layer / 2)
        conv = weight(f"{name}.conv.weight").astype(np.float64) / scale  # (gates, residual, kernel)
        spread = np.zeros((kernel, residual, gates))
        spread[:, :, :half] = conv[:half].transpose(2, 1, 0)
        spread[:, :, gates // 2 : gates // 2 + half] = conv[half:].transpose(2, 1, 0)
        current.append(panels(spread[-1]))
        past.extend(panels(tap) for tap in spread[:-1])
        out = _with_bias(weight, f"{name}.conv1x1_out") * scale
        to_skip = _with_bias(weight, f"{name}.conv1x1_skip") / np.sqrt(n_layers)
        out_skip.append(panels(np.concatenate([out, to_skip], axis=1)))

    lags = np.array([[(kernel - 1 - tap) * d for tap in range(kernel - 1)] for d in dilations], np.int64)
    lags = lags.reshape(n_layers, kernel - 1)
    kept = [_power_of_two_above((kernel - 1) * d + BLOCK) for d in dilations]
    begins = np.concatenate([[0], np.cumsum(kept)[:-1]]) * residual
    sizes = [n_layers, residual, half, skip, outputs, kernel, int(classes)]
    return Packed(
        sizes=np.array(sizes, np.int64),
        first=np.ascontiguousarray(_with_bias(weight, "first_conv"), np.float32),
        current=np.concatenate(current),
        past=np.concatenate([*past, np.zeros(PANEL, np.float32)]),  # never empty, even if the kernel is 1
        out_skip=np.concatenate(out_skip),
        head=panels(_with_bias(weight, "last_conv_layers.1")),
        last=panels(_with_bias(weight, "last_conv_layers.3")),
        lags=lags,
        strides=np.array(
            [[_power_of_two_within(int(min(lag, BLOCK))) for lag in row] for row in lags], np.int64
        ).reshape(lags.shape),
        rings=np.stack([np.array(kept, np.int64), begins.astype(np.int64)], axis=1),
    )


def _matrix(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """A 1×1 convolution's weight as (inputs, outputs)."""
    return weight.reshape(weight.shape[0], -1).T.astype(np.float64, copy=False)


def _with_bias(weight: Callable[[str], NDArray[np.floating]], name: str) -> NDArray[np.floating]:
    return np.concatenate([_matrix(weight(f"{name}.weight")), weight(f"{name}.bias")[None]])


def _power_of_two_above(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _power_of_two_within(n: int) -> int:
    return 1 << (n.bit_length() - 1)
