"""A converter's residual blocks on a CPU, compiled: frames go in tiles through all of them.

Signals lie time first here, ``(frames, channels)``; what a tile needs stays in the cache.
"""

import numpy as np

from w2w.networks.fast_compiling import compiled
from w2w.networks.fast_products import LANES, five_taps, multiply, steered

TILE = 96
"""Frames that go through all blocks before the next ones."""
TAPS = 5
"""Length of the kernels that are compiled."""
_LOG2E, _LN2, _HALF, _ONE = (np.float32(v) for v in (1.4426950408889634, 0.6931471805599453, 0.5, 1.0))
_C2, _C3, _C4, _C5, _C6 = (np.float32(1.0 / v) for v in (2, 6, 24, 120, 720))
_LEAST, _MOST = np.float32(-80.0), np.float32(80.0)
_BIAS, _SHIFT = np.int32(127), np.int32(23)


@compiled
def project(x, row_step, n_rows, weights, depth, first, out):
    """Write ``first`` (one row for all) plus rows times weights; ``x`` is flat, rows may overlap."""
    width = out.shape[1]
    multiply(
        x.ctypes.data, 4 * row_step, n_rows, depth, weights.ctypes.data, width,
        first.ctypes.data, 0, out.ctypes.data, 4 * width,
    )  # fmt: skip


@compiled
def softmax(rows, n):
    """Turn the first ``n`` numbers of every row into shares, and the rest into zeros."""
    for t in range(len(rows)):
        row, most, total = rows[t], rows[t, 0], np.float32(0.0)
        for k in range(n):
            most = max(most, row[k])
        for k in range(n):
            row[k] = np.exp(row[k] - most)
            total += row[k]
        for k in range(n):
            row[k] /= total
        row[n:] = 0.0


@compiled
def through_blocks(x, past, after, blocks, shares, n_tokens, tables, window, hidden, wide):
    """Take frames through all blocks, in place.

    ``past`` and ``after`` (channels, context) hold what each block's convolution still needs, block beside
    block. ``shares`` (frames, tokens and zeros) mix the rows of ``tables``, one for each block, into its
    scales and shifts; without tokens, ``blocks.first`` alone is what they are.
    """
    n_frames, n = x.shape
    pasts = np.empty((past.shape[1], n), np.float32)
    for c in range(n):
        for t in range(past.shape[1]):
            pasts[t, c] = past[c, t]
    for start in range(0, n_frames, TILE):
        count, begin = min(TILE, n_frames - start), 0
        tile = x[start : start + count]
        for b in range(len(blocks.dilations)):
            dilation = blocks.dilations[b]
            context, every = (TAPS - 1) * dilation, 0
            style = blocks.first[b].ctypes.data
            if n_tokens:
                multiply(
                    shares[start:].ctypes.data, 4 * shares.shape[1], count, n_tokens,
                    tables[b].ctypes.data, 2 * n, style, 0, wide.ctypes.data, 8 * n,
                )  # fmt: skip
                every = 1
            else:
                wide[0] = blocks.first[b]
            _enter(
                tile, pasts[begin : begin + context], wide, every, blocks.taps[b], blocks.bias[b], dilation,
                blocks.out_bias[b], window, hidden,
            )  # fmt: skip
            multiply(
                hidden.ctypes.data, 4 * n, count, n, blocks.widen[b].ctypes.data, 2 * n,
                blocks.widen_bias[b].ctypes.data, 0, wide.ctypes.data, 8 * n,
            )  # fmt: skip
            _gate(wide, hidden, count)
            multiply(
                hidden.ctypes.data, 4 * n, count, n, blocks.out[b].ctypes.data, n,
                tile.ctypes.data, 4 * n, tile.ctypes.data, 4 * n,
            )  # fmt: skip
            begin += context
    for c in range(n):
        for t in range(past.shape[1]):
            after[c, t] = pasts[t, c]


@compiled
def _enter(x, past, style, every, taps, bias, dilation, out_bias, window, hidden):
    """Normalise frames, steer them, and convolve every channel in time; ``x`` gets the block's last bias."""
    n_frames, n = x.shape
    context = len(past)
    window[:context] = past
    for t in range(n_frames):
        power = np.float32(0.0)
        for c in range(n):
            power += x[t, c] * x[t, c]
        level = np.float32(1.0 / np.sqrt(power / np.float32(n) + np.float32(1e-4)))
        row, to = x.ctypes.data + 4 * n * t, window.ctypes.data + 4 * n * (context + t)
        scale = style.ctypes.data + 8 * n * t * every
        earliest, out = window.ctypes.data + 4 * n * t, hidden.ctypes.data + 4 * n * t
        for c in range(0, 4 * n, 4 * LANES):
            steered(row + c, level, scale + c, scale + 4 * n + c, out_bias.ctypes.data + c, to + c)  # type: ignore[call-arg]
            five_taps(
                earliest + c, 4 * n * dilation, taps.ctypes.data + c, 4 * n, bias.ctypes.data + c, out + c
            )
    past[:] = window[n_frames : n_frames + context]


@compiled
def _gate(wide, out, n_frames):
    """silu(second half) · first half, for every frame."""
    n = out.shape[1]
    for t in range(n_frames):
        signal, opening, to = wide[t, :n], wide[t, n:], out[t]
        for c in range(n):
            x = opening[c]
            # exp(-x) as 2^k · e^r, |r| < ln(2) / 2.
            y = min(max(-x, _LEAST), _MOST)
            k = np.floor(y * _LOG2E + _HALF)
            r = y - k * _LN2
            e = r * (r * (r * (r * (r * _C6 + _C5) + _C4) + _C3) + _C2)
            e = r * (e + _ONE) + _ONE
            power = np.int32((np.int32(k) + _BIAS) << _SHIFT).view(np.float32)
            to[c] = x * signal[c] / (_ONE + e * power)
