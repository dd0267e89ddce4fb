"""Compiled functions for one sample of a WaveNet: its layers, and a draw from its output by inversion.

Only a layer's tap on the present sample depends on that sample. The contribution of a tap with lag n is known
n samples ahead; it is computed as one matrix product for up to 16 samples, so that its weights are read once
per 16 samples instead of for each. For a single utterance, memory bandwidth is the limit, not arithmetic.

Numba infers types from the arguments, so there are no annotations. Arrays: ``stream`` (batch, residual and
skip), ``z`` (batch, half of the gates and 1), ``history`` and ``pending`` as in ``CompiledLoop.memory``,
tables as in ``Packed``; ``x_at``, ``c_at``, ``z_at`` are scratch.
"""

import math
from functools import partial

import numpy as np

from vocoders.cpu.compiling import ANY_ORDER, compiled, gate
from vocoders.cpu.product import GATHERED_PANEL as PANEL
from vocoders.cpu.product import GATHERED_ROWS, WIDE, gathered_product

BLOCK = 16
"""Maximum samples for which the past's contribution is computed at once."""
one_row = gathered_product(1, 4 if WIDE else 1)
rows_together = gathered_product(GATHERED_ROWS, 1)


@compiled
def accumulate(c, c_at, x, x_at, n_rows, w, w_at, n, n_panels):
    """Add x[r, :n] @ w to c[r] for every row; w is packed by ``panels`` and starts at ``w_at``."""
    together = n_rows - n_rows % GATHERED_ROWS
    for panel in range(n_panels):
        column, begin = panel * PANEL, w_at + panel * PANEL * n
        for row in range(0, together, GATHERED_ROWS):
            rows_together(c, c_at, x, x_at, row, column, w, begin, n)
        for row in range(together, n_rows):
            one_row(c, c_at, x, x_at, row, column, w, begin, n)


@compiled
def copy(target, at, source, n):
    """Copy n floats; numba would take seconds to compile slice assignments with their error handling."""
    for j in range(n):
        target[at + j] = source[j]


@compiled
def look_back(t, sizes, past, lags, strides, rings, history, pending, x_at, c_at):
    """Add the contributions of past samples to the pending sums of this sample and following ones."""
    n_layers, residual, batch = sizes[0], sizes[1], history.shape[0]
    n_taps = lags.shape[1]
    n_panels = pending.shape[3] // PANEL
    if t % BLOCK == 0:
        for u in range(batch):
            pending[u] = np.float32(0)
    flat, sums = history.reshape(-1), pending.reshape(-1)
    for layer in range(n_layers):
        length, begin = rings[layer, 0], rings[layer, 1]
        for tap in range(n_taps):
            stride = strides[layer, tap]
            if t % stride != 0:
                continue
            n = 0
            for u in range(batch):
                for step in range(t, t + stride):
                    slot = (step - lags[layer, tap]) & (length - 1)
                    x_at[n] = u * history.shape[1] + begin + slot * residual
                    c_at[n] = ((u * BLOCK + step % BLOCK) * n_layers + layer) * pending.shape[3]
                    n += 1
            at = (layer * n_taps + tap) * residual * pending.shape[3]
            accumulate(sums, c_at, flat, x_at, n, past, at, residual, n_panels)


@compiled
def open_gates(z, sums, second, conditioning, half):
    """Write tanh(a) · sigmoid(b) to z, where a and b are the halves of the sums plus the conditioning."""
    for j in range(half):
        z[j] = gate(sums[j] + conditioning[j], sums[second + j] + conditioning[half + j])


@compiled
def layers(
    t, i, sizes, current, out_skip, rings, history, pending, conditioning, stream, z, x_at, c_at, z_at
):
    """Apply all gated layers to the streams (residual and skip channels) of all utterances, in place."""
    n_layers, residual, half = sizes[0], sizes[1], sizes[2]
    gates, width = pending.shape[3], stream.shape[1]
    n = history.shape[0]
    past, sums, flat_stream, flat_z = (
        history.reshape(-1),
        pending.reshape(-1),
        stream.reshape(-1),
        z.reshape(-1),
    )
    for layer in range(n_layers):
        length, begin = rings[layer, 0], rings[layer, 1]
        for u in range(n):
            to = u * history.shape[1] + begin + (t & (length - 1)) * residual
            x_at[u] = u * width
            copy(past, to, stream[u], residual)
            c_at[u] = ((u * BLOCK + t % BLOCK) * n_layers + layer) * gates
            z_at[u] = u * z.shape[1]
        accumulate(
            sums, c_at, flat_stream, x_at, n, current, layer * residual * gates, residual, gates // PANEL
        )
        for u in range(n):
            added = conditioning[u, i, 2 * half * layer : 2 * half * (layer + 1)]
            open_gates(z[u], sums[c_at[u] : c_at[u] + gates], gates // 2, added, half)
        at = layer * (half + 1) * width
        accumulate(flat_stream, x_at, flat_z, z_at, n, out_skip, at, half + 1, width // PANEL)


@compiled
def outputs(sizes, head, last, stream, hidden, logits, x_at, c_at):
    """Compute the network's output from the sums of the skips: ReLU, linear, ReLU, linear."""
    residual, skip = sizes[1], sizes[3]
    n, width = stream.shape[0], hidden.shape[2]
    flat, flat_logits = hidden.reshape(-1), logits.reshape(-1)
    for u in range(n):
        for j in range(skip):
            hidden[u, 0, j] = max(stream[u, residual + j], np.float32(0))
        hidden[u, 0, skip] = np.float32(1)
        hidden[u, 1] = np.float32(0)
        logits[u] = np.float32(0)
    for u in range(n):
        x_at[u], c_at[u] = u * 2 * width, (u * 2 + 1) * width
    accumulate(flat, c_at, flat, x_at, n, head, 0, skip + 1, -(-skip // PANEL))
    for u in range(n):
        for j in range(skip):
            hidden[u, 1, j] = max(hidden[u, 1, j], np.float32(0))
        hidden[u, 1, skip] = np.float32(1)
    for u in range(n):
        x_at[u] = u * logits.shape[1]
    accumulate(flat_logits, x_at, flat, c_at, n, last, 0, skip + 1, logits.shape[1] // PANEL)


@compiled
def enter(stream, previous, sizes, first):
    """Initialise a stream: the first convolution of the previous sample, and skips of 0."""
    residual = sizes[1]
    n_in = first.shape[0] - 1
    stream[:] = np.float32(0)
    row, factor = (int(previous), np.float32(1)) if sizes[6] == 1 else (0, np.float32(previous))
    for j in range(residual):
        stream[j] = first[row, j] * factor + first[n_in, j]


LOG2_E, LN_2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
HALF, ONE = np.float32(0.5), np.float32(1)
C2, C3, C4, C5, C6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))

GROUP = 16
"""Probabilities summed at once in the search for the drawn class."""
FAR = np.float32(-80)
"""Minimum log-probability relative to the likeliest class."""

in_any_order = partial(compiled, freedoms=ANY_ORDER)


@compiled
def exponential(x):
    """Return e^x for |x| < 80, with an error of 2e-7 near 0, without branches, so that loops vectorise."""
    scaled = x * LOG2_E
    whole = np.float32(math.floor(scaled + HALF))
    rest = (scaled - whole) * LN_2
    series = ONE + rest * (ONE + rest * (C2 + rest * (C3 + rest * (C4 + rest * (C5 + rest * C6)))))
    return series * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@in_any_order
def largest(values, n):
    """Return the largest of the first n values."""
    top = values[0]
    for j in range(1, n):
        top = max(top, values[j])
    return top


@in_any_order
def weigh(logits, n, top, sharpness, weights):
    """Write unnormalised probabilities, e^((logit - top) sharpness), and return their sum."""
    total = np.float32(0)
    for j in range(n):
        weights[j] = exponential(max((logits[j] - top) * sharpness, FAR))
        total += weights[j]
    return total


@in_any_order
def group_sum(weights, begin, end):
    """Return the sum of weights from ``begin`` to ``end``."""
    total = np.float32(0)
    for j in range(begin, end):
        total += weights[j]
    return total


@compiled
def keep_likeliest(weights, n, wanted, kept):
    """Set weights to 0 except the largest ones, whose sum just reaches ``wanted``; return that sum."""
    reached = np.float32(0)
    for j in range(n):
        kept[j] = np.float32(0)
    while reached < wanted:
        best = 0
        for j in range(1, n):
            if weights[j] > weights[best]:
                best = j
        if weights[best] <= 0:
            break
        reached += weights[best]
        kept[best] = weights[best]
        weights[best] = np.float32(0)
    for j in range(n):
        weights[j] = kept[j]
    return reached


@compiled
def choose(logits, n, uniform, temperature, top_p, weights, kept):
    """Draw a class by inverting the cumulative distribution; temperature 0 takes the likeliest class.

    With ``top_p`` below 1 only the likeliest classes with this total probability are drawn. ``weights`` and
    ``kept`` are scratch.
    """
    top = largest(logits, n)
    likeliest = 0
    while logits[likeliest] < top:
        likeliest += 1
    if not temperature > 0:
        return likeliest
    total = weigh(logits, n, top, np.float32(1 / temperature), weights)
    if top_p < 1:
        total = keep_likeliest(weights, n, np.float32(top_p) * total, kept)
    wanted = np.float32(uniform) * total
    passed = np.float32(0)
    begin = 0
    while begin + GROUP < n:
        further = passed + group_sum(weights, begin, begin + GROUP)
        if further > wanted:
            break
        passed = further
        begin += GROUP
    chosen = likeliest
    for j in range(begin, n):
        if weights[j] > 0:
            chosen = j
            passed += weights[j]
            if passed > wanted:
                break
    return chosen


@in_any_order
def predict(recent, coefficients):
    """Return the linear prediction from the recent samples, newest first."""
    total = np.float32(0)
    for k in range(len(coefficients)):
        total += coefficients[k] * recent[k]
    return total


@compiled
def remember(recent, sample):
    """Insert the newest sample before the recent ones and drop the oldest."""
    for j in range(len(recent) - 1, 0, -1):
        recent[j] = recent[j - 1]
    if len(recent) > 0:
        recent[0] = sample
