"""The compiled WaveNet, sample by sample.

Of a layer's taps only the one on the present sample must wait for it. What the others add is known as many
samples ahead as they look back, so up to 16 samples of it are computed as one matrix product: such a weight
is read once for 16 samples instead of for each. Reading, not arithmetic, limits a single utterance.

Numba infers types from the arguments, so there are no annotations. Arrays: ``stream`` (batch, residual and
skip), ``z`` (batch, half of the gates and 1), ``history``, ``pending`` and tables as in ``kernel.State`` and
``packing.Packed``; ``rows`` are the utterances to advance; ``x_at``, ``c_at``, ``z_at`` are scratch.
"""

import math

import numpy as np

from vocoders.cpu.wavenet_packing import BLOCK
from vocoders.cpu.wavenet_tile import PANEL, accumulate, compiled

LOG2_E, LN_2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
HALF, ONE, TWO = np.float32(0.5), np.float32(1), np.float32(2)
C2, C3, C4, C5, C6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))
TANH_END, SIGMOID_END = np.float32(15), np.float32(30)
"""Where float32 has no more to tell of them; keeps the powers below finite."""


@compiled
def exponential(x):
    """Return e^x, 2e-7 off near 0; for |x| < 80, without branches, so that loops over it become vectors."""
    scaled = x * LOG2_E
    whole = np.float32(math.floor(scaled + HALF))
    rest = (scaled - whole) * LN_2
    series = ONE + rest * (ONE + rest * (C2 + rest * (C3 + rest * (C4 + rest * (C5 + rest * C6)))))
    return series * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def gate(z, sums, second, conditioning, half):
    """Write tanh(a) · sigmoid(b) to z, with a and b the halves of the sums and of what conditions them."""
    for j in range(half):
        a = sums[j] + conditioning[j]
        b = sums[second + j] + conditioning[half + j]
        left = exponential(-TWO * min(max(a, -TANH_END), TANH_END))
        right = exponential(-min(max(b, -SIGMOID_END), SIGMOID_END))
        z[j] = (ONE - left) / ((ONE + left) * (ONE + right))


@compiled
def copy(target, at, source, n):
    """Copy n floats. Numba would compile slices' assignments for seconds, for their errors' words."""
    for j in range(n):
        target[at + j] = source[j]


@compiled
def look_back(t, rows, sizes, past, lags, strides, rings, history, pending, x_at, c_at):
    """Add to the pending sums what the past, known by now, will add to this sample and its followers."""
    n_layers, residual = sizes[0], sizes[1]
    n_taps = lags.shape[1]
    n_panels = pending.shape[3] // PANEL
    if t % BLOCK == 0:
        for u in rows:
            pending[u] = np.float32(0)
    flat, sums = history.reshape(-1), pending.reshape(-1)
    for layer in range(n_layers):
        kept, begin = rings[layer, 0], rings[layer, 1]
        for tap in range(n_taps):
            stride = strides[layer, tap]
            if t % stride != 0:
                continue
            n = 0
            for u in rows:
                for step in range(t, t + stride):
                    slot = (step - lags[layer, tap]) & (kept - 1)
                    x_at[n] = u * history.shape[1] + begin + slot * residual
                    c_at[n] = ((u * BLOCK + step % BLOCK) * n_layers + layer) * pending.shape[3]
                    n += 1
            at = (layer * n_taps + tap) * residual * pending.shape[3]
            accumulate(sums, c_at, flat, x_at, n, past, at, residual, n_panels)


@compiled
def layers(
    t, i, rows, sizes, current, out_skip, rings, history, pending, conditioning, stream, z, x_at, c_at, z_at
):
    """Take the streams (residual beside skip) of all utterances through the gated layers, in place."""
    n_layers, residual, half = sizes[0], sizes[1], sizes[2]
    gates, width = pending.shape[3], stream.shape[1]
    n = len(rows)
    past, sums, flat_stream, flat_z = (
        history.reshape(-1),
        pending.reshape(-1),
        stream.reshape(-1),
        z.reshape(-1),
    )
    for layer in range(n_layers):
        kept, begin = rings[layer, 0], rings[layer, 1]
        for k in range(n):
            u = rows[k]
            to = u * history.shape[1] + begin + (t & (kept - 1)) * residual
            x_at[k] = u * width
            copy(past, to, stream[u], residual)
            c_at[k] = ((u * BLOCK + t % BLOCK) * n_layers + layer) * gates
            z_at[k] = u * z.shape[1]
        accumulate(
            sums, c_at, flat_stream, x_at, n, current, layer * residual * gates, residual, gates // PANEL
        )
        for k in range(n):
            u = rows[k]
            added = conditioning[u, i, 2 * half * layer : 2 * half * (layer + 1)]
            gate(z[u], sums[c_at[k] : c_at[k] + gates], gates // 2, added, half)
        at = layer * (half + 1) * width
        accumulate(flat_stream, x_at, flat_z, z_at, n, out_skip, at, half + 1, width // PANEL)


@compiled
def outputs(rows, sizes, head, last, stream, hidden, logits, x_at, c_at):
    """Make the network's output from the sums of the skips: rectify, mix, rectify, mix."""
    residual, skip = sizes[1], sizes[3]
    n, width = len(rows), hidden.shape[2]
    flat, flat_logits = hidden.reshape(-1), logits.reshape(-1)
    for u in rows:
        for j in range(skip):
            hidden[u, 0, j] = max(stream[u, residual + j], np.float32(0))
        hidden[u, 0, skip] = ONE
        hidden[u, 1] = np.float32(0)
        logits[u] = np.float32(0)
    for k in range(n):
        x_at[k], c_at[k] = rows[k] * 2 * width, (rows[k] * 2 + 1) * width
    accumulate(flat, c_at, flat, x_at, n, head, 0, skip + 1, -(-skip // PANEL))
    for u in rows:
        for j in range(skip):
            hidden[u, 1, j] = max(hidden[u, 1, j], np.float32(0))
        hidden[u, 1, skip] = ONE
    for k in range(n):
        x_at[k] = rows[k] * logits.shape[1]
    accumulate(flat_logits, x_at, flat, c_at, n, last, 0, skip + 1, logits.shape[1] // PANEL)


@compiled
def enter(stream, previous, sizes, first):
    """Begin a stream: the first layer on the last sample, no skips yet."""
    residual = sizes[1]
    n_in = first.shape[0] - 1
    stream[:] = np.float32(0)
    row, factor = (int(previous), ONE) if sizes[6] == 1 else (0, np.float32(previous))
    for j in range(residual):
        stream[j] = first[row, j] * factor + first[n_in, j]
