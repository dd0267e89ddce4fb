"""One sample from the compiled network's output, by inversion of the distribution function."""

import math
from functools import partial

import numpy as np

from vocoders.cpu.compiling import ANY_ORDER, compiled

LOG2_E, LN_2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
HALF, ONE = np.float32(0.5), np.float32(1)
C2, C3, C4, C5, C6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))

GROUP = 16
"""Probabilities added at once on the way to the uniform."""
FAR = np.float32(-80)
"""Logarithm of a probability that is none."""

in_any_order = partial(compiled, freedoms=ANY_ORDER)


@compiled
def exponential(x):
    """Return e^x, 2e-7 off near 0; for |x| < 80, without branches, so that loops over it become vectors."""
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
    """Return the sum of a stretch of weights."""
    total = np.float32(0)
    for j in range(begin, end):
        total += weights[j]
    return total


@compiled
def keep_likeliest(weights, n, wanted, kept):
    """Set all but the likeliest classes, which together first reach ``wanted``, to 0; return what is left."""
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
    """Return the class where the distribution function passes ``uniform``; temperature 0 is the likeliest.

    With ``top_p`` below 1 only the likeliest classes that together reach it remain. ``weights`` and ``kept``
    are scratch.
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
    """Return what linear prediction expects after the recent samples, newest first."""
    total = np.float32(0)
    for k in range(len(coefficients)):
        total += coefficients[k] * recent[k]
    return total


@compiled
def remember(recent, sample):
    """Put a sample before the recent ones and forget the oldest."""
    for j in range(len(recent) - 1, 0, -1):
        recent[j] = recent[j - 1]
    if len(recent) > 0:
        recent[0] = sample
