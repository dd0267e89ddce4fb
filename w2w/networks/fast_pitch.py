"""The pitch track on a CPU, compiled: correlations without transforms, and decisions frame by frame.

All in float64, and every sum in an order that does not depend on the chunk, so that chunks decide as the
whole does. Neighbouring frames share most of their newest stretch: what two hops of it correlate to is summed
once for both.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from w2w.networks.fast_compiling import compiled

LANES, VECTORS = 8, 6
GROUP = LANES * VECTORS
"""Lags whose correlation is summed at once, in registers."""


class Rules(NamedTuple):
    """What the track is decided by: ``pitch``'s constants."""

    octave_bias: np.ndarray
    jump: np.ndarray
    log_f0: np.ndarray
    restart: float
    forget: float
    voiced: float
    hush: float
    decay: float
    quiet: float
    bin_width: float


@compiled
def lowpass(heard, taps):
    """The signal through a short filter, and zeros that sums over groups of lags may read."""
    n = len(heard) - len(taps) + 1
    out = np.zeros(n + GROUP)
    for k in range(len(taps)):
        tap = taps[k]
        for i in range(n):
            out[i] += tap * heard[i + k]
    return out


@intrinsic
def _correlate(_, now, n, earlier, out):
    """Write the sums of now[i] · earlier[i + s] for GROUP shifts s; all are addresses of float64."""

    def generate(context, builder, signature, arguments):
        now, n, earlier, out = arguments
        double, vector = ir.DoubleType(), ir.VectorType(ir.DoubleType(), LANES)

        def at(address, *terms):
            for term in terms:
                address = builder.add(address, term)
            return address

        def pointer(address, kind):
            return builder.inttoptr(address, kind.as_pointer())

        def bytes_of(count):
            return ir.Constant(ir.IntType(64), 8 * count)

        nothing = ir.Constant(vector, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, nothing) for _ in range(VECTORS)]
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f64"
        )
        empty = ir.Constant(vector, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        with cgutils.for_range(builder, n) as i:
            offset = builder.mul(i.index, bytes_of(1))
            value = builder.load(pointer(at(now, offset), double))
            first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
            spread = builder.shuffle_vector(first, empty, zeros)
            for v, slot in enumerate(sums):
                past = builder.load(pointer(at(earlier, offset, bytes_of(LANES * v)), vector), align=8)
                builder.store(builder.call(fma, [spread, past, builder.load(slot)]), slot)
        for v, slot in enumerate(sums):
            builder.store(builder.load(slot), pointer(at(out, bytes_of(LANES * v)), vector), align=8)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@compiled
def _products(wave, start, stop, longest, out):
    """Write the sums of wave[n] · wave[n - lag] over a stretch, for lags from ``longest`` down."""
    for first in range(0, len(out), GROUP):
        earlier = wave.ctypes.data + 8 * (start - longest + first)
        _correlate(wave.ctypes.data + 8 * start, stop - start, earlier, out.ctypes.data + 8 * first)  # type: ignore[call-arg]


@compiled
def salience(wave, width, reach, hop, low_lag, fraction, bins, power):
    """Normalised correlation of each frame's newest ``width`` with as much, a period earlier; its mean power.

    ``wave`` is what ``lowpass`` returns; a window has ``reach`` samples before its newest ones.
    """
    n_bins, longest, shortest = len(low_lag), low_lag[0] + 1, low_lag[-1]
    n_lags = longest - shortest + 1
    n_hops, rest = width // hop, width % hop
    wide = -(-n_lags // GROUP) * GROUP
    # What each hop correlates to: its older part and its newest `rest` samples; a ring of the last hops.
    older, newer = np.zeros((n_hops + 1, wide)), np.zeros((n_hops + 1, wide))
    total, correlation = np.zeros(wide), np.zeros(n_lags)  # from the longest lag down
    sums, energies = np.zeros(longest), np.zeros(longest)
    for hop_number in range(-n_hops, len(power)):
        stop = reach + width + hop_number * hop
        at = hop_number % (n_hops + 1)
        if hop_number > -n_hops:
            _products(wave, stop - hop, stop - rest, longest, older[at])
        _products(wave, stop - rest, stop, longest, newer[at])
        if hop_number < 0:
            continue
        oldest = newer[(hop_number - n_hops) % (n_hops + 1)]
        for i in range(wide):
            total[i] = oldest[i]
        for back in range(n_hops - 1, -1, -1):
            place = (hop_number - back) % (n_hops + 1)
            for i in range(wide):
                total[i] += older[place, i] + newer[place, i]
        window = wave[stop - width - reach : stop]
        _normalise(window, width, total, sums, energies, correlation, power, hop_number)
        for b in range(n_bins):
            low, high = correlation[longest - low_lag[b]], correlation[longest - low_lag[b] - 1]
            bins[hop_number, b] = low + fraction[b] * (high - low)


@compiled
def _normalise(window, width, products, sums, energies, correlation, power, frame):
    """Take the window's mean away, and divide by the energy of both stretches."""
    longest = len(sums)
    newest_samples = window[len(window) - width :]
    whole = newest = loudness = 0.0
    for i in range(len(window)):
        whole += window[i]
    mean = whole / len(window)
    for i in range(width):
        now = newest_samples[i] - mean
        newest += now
        loudness += now * now
    # A lag more takes one sample in, and leaves one out.
    taken, left = window[len(window) - width - longest :], window[len(window) - longest :]
    for i in range(longest):
        entering, leaving = taken[i] - mean, left[i] - mean
        sums[i] = entering - leaving
        energies[i] = entering * entering - leaving * leaving
    stretch, energy = newest, loudness
    for i in range(longest - 1, -1, -1):
        stretch += sums[i]
        energy += energies[i]
        sums[i], energies[i] = stretch, energy
    for i in range(len(correlation)):
        # sum (x - m)(y - m) = sum x y - m sum (x - m) - m sum (y - m) - n m².
        rest = mean * (newest + sums[i]) + width * mean * mean
        size = math.sqrt(loudness * max(energies[i], 0.0)) + 1e-6 * width
        correlation[i] = (products[i] - rest) / size
    power[frame] = loudness / width


@compiled
def decide(salience, power, score, held, loudest, rules, log_f0, voicing):
    """Follow the best path; ``score`` becomes the last frame's. Return the last value held, and the peak."""
    n_frames, n = salience.shape
    reach = len(rules.jump) // 2
    padded, now, fresh = np.full(n + 2 * reach, -10.0), np.zeros(n), 0.0
    for j in range(n):
        padded[reach + j] = score[j]
    for t in range(n_frames):
        loudest = max(power[t], rules.quiet, loudest * rules.decay)
        heard = power[t] / (power[t] + rules.hush * loudest)
        fresh = padded[reach]
        for j in range(n):
            fresh = max(fresh, padded[reach + j])
        fresh -= rules.restart
        for j in range(n):
            now[j] = fresh
        for d in range(2 * reach + 1):
            cost = rules.jump[d]
            for j in range(n):
                arrived = padded[j + d] - cost
                now[j] = arrived if arrived > now[j] else now[j]
        for j in range(n):
            salience[t, j] *= heard
            padded[reach + j] = salience[t, j] + rules.forget * now[j]
        best, most = 0, padded[reach] + rules.octave_bias[0]
        for j in range(1, n):
            reached = padded[reach + j] + rules.octave_bias[j]
            if reached > most:
                best, most = j, reached
        row = salience[t]
        # It or a bin beside it must be a summit; a shade lower still counts, lest rounding decide.
        summit = False
        for j in range(max(best - 1, 1), min(best + 2, n - 1)):
            summit = summit or (row[j] + 1e-9 >= row[j - 1] and row[j] + 1e-9 >= row[j + 1])
        strength = row[best] if summit else 0.0
        voicing[t] = 1.0 / (1.0 + math.exp(-20.0 * (strength - rules.voiced)))
        if voicing[t] > 0.5:
            inner = min(max(best, 1), n - 2)
            bend = row[inner - 1] - 2 * row[inner] + row[inner + 1]
            shift = 0.5 * (row[inner - 1] - row[inner + 1]) / bend if bend < -1e-6 else 0.0
            held = rules.log_f0[inner] + min(max(shift, -0.5), 0.5) * rules.bin_width
        log_f0[t] = held
    for j in range(n):
        score[j] = padded[reach + j]
    return held, loudest
