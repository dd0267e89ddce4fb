"""What lies between a converter's matrix products on a CPU, compiled: one pass in place of ten.

Signals lie time first here, ``(frames, channels)``. Compiled at the first use, and kept in numba's cache.
"""

import numpy as np

from w2w.networks.fast_compiling import compiled

_LOG2E, _LN2, _HALF, _ONE = (np.float32(v) for v in (1.4426950408889634, 0.6931471805599453, 0.5, 1.0))
_C2, _C3, _C4, _C5, _C6 = (np.float32(1.0 / v) for v in (2, 6, 24, 120, 720))
_LEAST, _MOST = np.float32(-80.0), np.float32(80.0)
_BIAS, _SHIFT = np.int32(127), np.int32(23)


@compiled
def enter_block(x, past, scale_in, style, taps, bias, dilation, out_bias, window, hidden):
    """Normalise frames, steer them, and convolve every channel in time; ``x`` gets the block's last bias.

    ``style`` (frames or 1, 2 · channels) holds scales and shifts; ``window`` begins with the past, and what
    it ends with is the next one. Five ``taps``.
    """
    n_frames, n = x.shape
    context, every = past.shape[0], 0 if style.shape[0] == 1 else 1
    for t in range(context):
        for c in range(n):
            window[t, c] = past[t, c]
    for t in range(n_frames):
        power = np.float32(0.0)
        for c in range(n):
            power += x[t, c] * x[t, c]
        level = np.float32(1.0 / np.sqrt(power / np.float32(n) + np.float32(1e-4)))
        steer = style[t * every]
        now = window[context + t]
        for c in range(n):
            now[c] = x[t, c] * level * scale_in[c] * (_ONE + steer[c]) + steer[n + c]
            x[t, c] += out_bias[c]
        w0, w1, w2 = window[t], window[t + dilation], window[t + 2 * dilation]
        w3 = window[t + 3 * dilation]
        out = hidden[t]
        for c in range(n):
            total = bias[c] + taps[0, c] * w0[c] + taps[1, c] * w1[c] + taps[2, c] * w2[c]
            out[c] = total + taps[3, c] * w3[c] + taps[4, c] * now[c]


@compiled
def gate(wide, out):
    """silu(second half) · first half, for every frame."""
    n_frames, n = out.shape
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
