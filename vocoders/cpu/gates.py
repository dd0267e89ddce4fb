"""The elementwise half of WaveGlow's generation, compiled: Winograd transforms, gates that sum inputs.

A kernel-3 convolution of dilation d is computed as F(4, 3): tile ``block · d + phase`` makes the four outputs
at ``4 d · block + phase + d · (0, 1, 2, 3)`` from six inputs, with 6 instead of 12 multiplications per weight
(Lavin & Gray 2016). The conditioning comes as Strassen's seven products: rows are pairs of steps.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
"""Of the six inputs; ``transform_inputs`` spells it out, and this is what it is tested against."""
WEIGHT = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
"""Of the three taps."""

# tanh x = x P(x²) / Q(x²) up to |x| = 8, where float32 has it at 1: a fit, wrong by 6e-9 before rounding.
_TOP, _HALF, _ONE, _TWO, _FOUR, _FIVE, _EIGHT = (np.float32(v) for v in (8, 0.5, 1, 2, 4, 5, 8))
_P0, _P1, _P2, _P3, _P4 = (
    np.float32(v) for v in (0.9999999936, 0.1344449987, 3.5716002700e-3, 2.189469924e-5, 1.523047058e-8)
)
_Q1, _Q2, _Q3, _Q4 = (np.float32(v) for v in (0.4677782719, 2.616445147e-2, 3.411295702e-4, 8.522467971e-7))

_OPTIONS = {"cache": True, "fastmath": True, "error_model": "numpy"}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; what tests wrap around functions to check shapes is taken off."""
    return njit(nogil=True, **_OPTIONS)(inspect.unwrap(function))


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into the callers."""
    return njit(inline="always", **_OPTIONS)(inspect.unwrap(function))


@_inlined
def _gate(a, b):
    """tanh(a) · sigmoid(b), with one division for both."""
    a = min(max(a, -_TOP), _TOP)
    b = min(max(_HALF * b, -_TOP), _TOP)
    aa, bb = a * a, b * b
    p = a * ((((_P4 * aa + _P3) * aa + _P2) * aa + _P1) * aa + _P0)
    q = (((_Q4 * aa + _Q3) * aa + _Q2) * aa + _Q1) * aa + _ONE
    r = b * ((((_P4 * bb + _P3) * bb + _P2) * bb + _P1) * bb + _P0)
    s = (((_Q4 * bb + _Q3) * bb + _Q2) * bb + _Q1) * bb + _ONE
    return _HALF * p * (s + r) / (q * s)


@_compiled
def transform_inputs(x, dilation, first_tile, out):
    """Fill ``out`` (6, tiles, channels) from ``x`` (steps, channels or more); beyond its ends are zeros."""
    n_steps, (_, n_tiles, n) = x.shape[0], out.shape
    edge = np.zeros((6, n), np.float32)
    for i in range(n_tiles):
        block, phase = divmod(first_tile + i, dilation)
        t = (4 * block - 1) * dilation + phase
        if t >= 0 and t + 5 * dilation < n_steps:
            for c in range(n):
                x0, x1, x2 = x[t, c], x[t + dilation, c], x[t + 2 * dilation, c]
                x3, x4, x5 = x[t + 3 * dilation, c], x[t + 4 * dilation, c], x[t + 5 * dilation, c]
                out[0, i, c] = _FOUR * x0 - _FIVE * x2 + x4
                near, far = x4 - _FOUR * x2, x3 - _FOUR * x1
                out[1, i, c] = near + far
                out[2, i, c] = near - far
                near, far = x4 - x2, _TWO * (x3 - x1)
                out[3, i, c] = near + far
                out[4, i, c] = near - far
                out[5, i, c] = _FOUR * x1 - _FIVE * x3 + x5
            continue
        for k in range(6):
            at = t + k * dilation
            for c in range(n):
                edge[k, c] = x[at, c] if 0 <= at < n_steps else np.float32(0)
        for c in range(n):
            x0, x1, x2 = edge[0, c], edge[1, c], edge[2, c]
            x3, x4, x5 = edge[3, c], edge[4, c], edge[5, c]
            out[0, i, c] = _FOUR * x0 - _FIVE * x2 + x4
            near, far = x4 - _FOUR * x2, x3 - _FOUR * x1
            out[1, i, c] = near + far
            out[2, i, c] = near - far
            near, far = x4 - x2, _TWO * (x3 - x1)
            out[3, i, c] = near + far
            out[4, i, c] = near - far
            out[5, i, c] = _FOUR * x1 - _FIVE * x3 + x5


@_inlined
def _gate_row(pre, row, local, t, bias, out):
    """``out[t]`` from the pre-activations in ``pre[row]`` and the conditioning of step ``t`` of the block."""
    n, pair = out.shape[1], t // 2
    m1, m2, m3, m4, m5, m6, m7 = local
    if t % 2 == 0:
        for c in range(n):
            a = pre[row, c] + bias[c] + ((m1[pair, c] + m4[pair, c]) + (m7[pair, c] - m5[pair, c]))
            b = pre[row, n + c] + bias[n + c] + (m3[pair, c] + m5[pair, c])
            out[t, c] = _gate(a, b)
    else:
        for c in range(n):
            a = pre[row, c] + bias[c] + (m2[pair, c] + m4[pair, c])
            b = pre[row, n + c] + bias[n + c] + ((m1[pair, c] - m2[pair, c]) + (m3[pair, c] + m6[pair, c]))
            out[t, c] = _gate(a, b)


@_compiled
def gate(pre, local, bias, out):
    """Fill ``out`` (steps, channels) from pre-activations (steps, 2 channels) and conditioning."""
    for t in range(out.shape[0]):
        _gate_row(pre, t, local, t, bias, out)


@_compiled
def gate_tiles(products, dilation, local, bias, out):
    """Fill ``out`` (steps, channels), a block that begins with a tile, from products in Winograd's domain."""
    p0, p1, p2, p3, p4, p5 = products
    n_steps, (n_tiles, n) = out.shape[0], p0.shape
    pre = np.empty((4, n), np.float32)
    for i in range(n_tiles):
        block, phase = divmod(i, dilation)
        t = 4 * block * dilation + phase
        for c in range(n):
            odd, even = p1[i, c] - p2[i, c], p1[i, c] + p2[i, c]
            odd2, even2 = p3[i, c] - p4[i, c], p3[i, c] + p4[i, c]
            pre[0, c] = p0[i, c] + even + even2
            pre[1, c] = odd + _TWO * odd2
            pre[2, c] = even + _FOUR * even2
            pre[3, c] = odd + _EIGHT * odd2 + p5[i, c]
        for j in range(4):
            if t + j * dilation < n_steps:
                _gate_row(pre, j, local, t + j * dilation, bias, out)
