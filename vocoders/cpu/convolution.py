"""Convolutions by minimal filtering: about half the multiplications, at the speed of a matrix product.

Four outputs at a time are computed from a few products of weighted sums of inputs and taps (Winograd 1980).
For signals with fewer channels than a vector, several rows are treated as one instead ("folded").
"""

import math
import threading
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vocoders.cpu.compiling import ANY_ORDER, cached, compiled
from vocoders.cpu.filters import (
    in_1,
    in_4x3,
    in_4x4,
    in_8,
    in_16,
    minimal_filter,
    out_1,
    out_1_add,
    out_4x3,
    out_4x3_add,
    out_4x4,
    out_4x4_add,
    out_8,
    out_8_add,
    out_16,
    out_16_add,
)
from vocoders.cpu.product import LANES, PANEL, ROWS, strided_product

BLOCK = 96
"""Groups of outputs convolved at once, so that their data fit in the L2 cache."""
Rows = np.ndarray
"""float32, (time, channels)."""


class Convolution:
    """A convolution of leaky-rectified inputs along rows, with weights packed for the shared product."""

    def __init__(
        self,
        weight: Float[Tensor, "outer inner kernel"],
        bias: Float[Tensor, "outer"],
        *,
        dilation: int = 1,
        slope: float = 1.0,
        stride: int = 0,
    ) -> None:
        """``stride``: floats from one source row to the next, if rows are longer than the input."""
        width, depth, kernel = weight.shape
        self.width, self.depth, self.kernel, self.slope = width, depth, kernel, np.float32(slope)
        self.bias = _aligned(bias.detach().float())
        self.reach = dilation * (kernel - 1) // 2
        taps = weight.detach().double().numpy()
        minimal = kernel > 2 and width % LANES == depth % LANES == 0 and width in (depth, 2 * depth)
        # `fold` rows that are too short for a vector are treated as one.
        fold = 1 if minimal else LANES // math.gcd(LANES, width)
        while fold * depth % 4:
            fold *= 2
        packed = _minimal_weights(taps) if minimal else _folded_weights(taps, fold)
        n_points, n_taps, inner, outer = packed.shape
        panel = PANEL if outer % PANEL == 0 else LANES
        panels = packed.reshape(n_points, n_taps, inner, outer // panel, panel).transpose(0, 3, 1, 2, 4)
        self.weight = _aligned(torch.tensor(panels.copy(), dtype=torch.float32))
        plane_rows = BLOCK + ROWS + (n_taps - 1) * dilation
        sizes = fold, minimal, depth, width, n_taps, n_points, dilation, plane_rows, stride or depth
        self.sizes = np.array(sizes)
        self.n_planes, self.n_products = n_points * inner * plane_rows, n_points * outer * (BLOCK + ROWS)
        group = 4 if minimal else fold
        self.margin = dilation * group * (n_taps + 2) + self.reach
        """Rows after the last that may be read or written."""

    def __call__(self, source: Rows, residual: Rows | None, out: Rows, n_out: int) -> None:
        """Write ``n_out`` rows to ``out``; up to ``margin`` rows after them are overwritten too."""
        planes, products = scratch("planes", self.n_planes), scratch("products", self.n_products)
        convolve(
            source.ctypes.data,
            0 if residual is None else residual.ctypes.data,
            out.ctypes.data,
            n_out,
            self.sizes,
            self.weight.ctypes.data,
            self.bias.ctypes.data,
            self.slope,
            planes.ctypes.data,
            products.ctypes.data,
        )


def _minimal_weights(taps: np.ndarray) -> np.ndarray:
    """Return (points, taps, inner, outer), where a long kernel is a sum of kernels of 4, one per tap."""
    outer, inner, kernel = taps.shape
    part = min(kernel, 4)
    _, transform, _ = minimal_filter(4, part)
    padded = np.pad(taps, [(0, 0), (0, 0), (0, -kernel % part)])
    return np.einsum("pr,oigr->pgio", transform, padded.reshape(outer, inner, -1, part), optimize=True)


def _folded_weights(taps: np.ndarray, fold: int) -> np.ndarray:
    """Return (1, taps, fold * inner, fold * outer): weights that compute ``fold`` outputs at once."""
    outer, inner, kernel = taps.shape
    n_taps = -(-(kernel + fold - 1) // fold)
    weights = np.zeros((n_taps, fold, inner, fold, outer))
    for tap in range(n_taps):
        for read in range(fold):
            for write in range(fold):
                if 0 <= (at := fold * tap + read - write) < kernel:
                    weights[tap, read, :, write] = taps[:, :, at].T
    return weights.reshape(1, n_taps, fold * inner, fold * outer)


def transposed(up: nn.ConvTranspose1d, slope: float, *, scale: float = 1.0) -> Convolution:
    """Convert a transposed convolution to a convolution that computes ``stride`` rows at once."""
    (rate,), (inner, outer, kernel) = up.stride, up.weight.shape
    taps = -(-kernel // rate)
    weight = F.pad(up.weight.detach() * scale, (0, taps * rate - kernel)).reshape(inner, outer, taps, rate)
    weight = weight.permute(3, 1, 0, 2).reshape(rate * outer, inner, taps).flip(-1)
    assert up.bias is not None
    return Convolution(weight, up.bias.repeat(rate), slope=slope)


product_wide, product_narrow = strided_product(PANEL // LANES), strided_product(1)


@compiled
def _write(read, product_plane, bias, to, residual, at, width, dilation, n_points):
    step, add = 4 * width * dilation, residual + at
    if width % 16 == 0:
        for c in range(0, 4 * width, 64):
            if n_points == 1 and residual:
                out_16_add(read + c, 0, bias + c, to + c, 0, add + c)
            elif n_points == 1:
                out_16(read + c, 0, bias + c, to + c, 0, 0)
            elif n_points == 6 and residual:
                out_4x3_add(read + c, product_plane, bias + c, to + c, step, add + c)
            elif n_points == 6:
                out_4x3(read + c, product_plane, bias + c, to + c, step, 0)
            elif residual:
                out_4x4_add(read + c, product_plane, bias + c, to + c, step, add + c)
            else:
                out_4x4(read + c, product_plane, bias + c, to + c, step, 0)
    elif width == 8 and residual:
        out_8_add(read, 0, bias, to, 0, add)
    elif width == 8:
        out_8(read, 0, bias, to, 0, 0)
    else:
        for c in range(0, 4 * width, 4):
            if residual:
                out_1_add(read + c, 0, bias + c, to + c, 0, add + c)
            else:
                out_1(read + c, 0, bias + c, to + c, 0, 0)


@compiled
def _read(first, row, to, plane, fold, minimal, depth, n_points, slope):
    """Write the planes' rows of one group of inputs, which starts at ``first``, ``row`` bytes apart."""
    if minimal:
        for c in range(0, 4 * depth, 64):
            if n_points == 6:
                in_4x3(first + c, row, to + c, plane, slope)
            else:
                in_4x4(first + c, row, to + c, plane, slope)
        return
    for i in range(fold):
        from_, into = first + row * i, to + 4 * depth * i
        if depth % 16 == 0:
            for c in range(0, 4 * depth, 64):
                in_16(from_ + c, 0, into + c, 0, slope)
        elif depth == 8:
            in_8(from_, 0, into, 0, slope)
        else:
            for c in range(0, 4 * depth, 4):
                in_1(from_ + c, 0, into + c, 0, slope)


@cached
def convolve(version):
    """Write the sum of bias, convolved leaky-rectified rows, and residual rows (unless their address is 0).

    ``source`` is the row read by the first output's first tap, ``out`` and ``residual`` the first output's
    rows. Rows after the last output are read and written: see ``Convolution.margin``.
    """

    def run(source, residual, out, n_out, sizes, weights, bias, slope, planes, products):
        _ = version
        fold, minimal, depth, width, n_taps, n_points, dilation, plane_rows, stride = sizes
        # Outputs (and inputs) of one group are `dilation` apart; groups interleave.
        group = max(fold, 4 * minimal)
        inner, outer = depth * fold, width * fold
        n_groups = -(-n_out // (group * dilation)) * dilation
        panel = PANEL if outer % PANEL == 0 else LANES
        plane, product_plane = 4 * inner * plane_rows, 4 * outer * (BLOCK + ROWS)
        for first in range(0, n_groups, BLOCK):
            n = min(BLOCK, n_groups - first)
            for q in range(n + (n_taps - 1) * dilation):
                start = group * dilation * ((first + q) // dilation) + (first + q) % dilation
                from_, to = source + 4 * stride * start, planes + 4 * inner * q
                _read(from_, 4 * stride * dilation, to, plane, fold, minimal, depth, n_points, slope)
            weight = weights
            for point in range(n_points):
                for column in range(0, outer, panel):
                    for row in range(0, n, ROWS):
                        read = planes + point * plane + 4 * inner * row
                        write = products + point * product_plane + 4 * (outer * row + column)
                        if panel == PANEL:
                            product_wide(read, weight, write, n_taps, inner, 4 * inner * dilation, 4 * outer)
                        else:
                            product_narrow(
                                read, weight, write, n_taps, inner, 4 * inner * dilation, 4 * outer
                            )
                    weight += 4 * n_taps * inner * panel
            for q in range(n):
                start = 4 * width * (group * dilation * ((first + q) // dilation) + (first + q) % dilation)
                for i in range(1 if minimal else fold):
                    read, at = products + 4 * (outer * q + width * i), start + 4 * width * dilation * i
                    _write(read, product_plane, bias, out + at, residual, at, width, dilation, n_points)

    return run


@partial(compiled, freedoms=ANY_ORDER)
def _project(x, weights, bias, slope, out):
    channels = (len(x) - len(weights)) // (len(out) - 1) if len(out) > 1 else len(x)
    for t in range(len(out)):
        total = bias
        for i in range(len(weights)):
            value = x[t * channels + i]
            total += weights[i] * max(value, slope * value)
        out[t] = total


@cached
def project(version):
    """Convolve leaky-rectified rows to a single channel; ``x`` and ``weights`` are flat, time first."""

    def run(x, weights, bias, slope, out):
        _ = version
        _project(x, weights, bias, slope, out)

    return run


_memory = threading.local()


def scratch(name: str, size: int) -> np.ndarray:
    """Return a buffer of at least ``size`` floats, reused within a thread, because new pages are slow."""
    buffer = _memory.__dict__.get(name)
    if buffer is None or len(buffer) < size:
        buffer = _memory.__dict__[name] = torch.zeros(size).numpy()
    return buffer


def _aligned(x: Tensor) -> np.ndarray:
    """Copy to an array that starts at a cache line, as torch's memory does."""
    return x.clone(memory_format=torch.contiguous_format).numpy()
