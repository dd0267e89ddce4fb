"""The pitch track on a CPU, compiled: correlations without transforms, and decisions frame by frame.

All in float64, and every sum in an order that does not depend on the chunk, so that chunks decide as the
whole does. Neighbouring frames share most of their newest stretch: what two hops of it correlate to is summed
once for both.
"""

import math
from typing import NamedTuple

import numpy as np

from w2w.networks.fast_compiling import compiled

LEAD = 3
"""Samples before the first window, which sums of four lags at once may read."""


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
    """The signal through a short filter, after LEAD zeros."""
    n = len(heard) - len(taps) + 1
    out = np.zeros(LEAD + n)
    for k in range(len(taps)):
        tap = taps[k]
        for i in range(n):
            out[LEAD + i] += tap * heard[i + k]
    return out


@compiled
def _products(wave, start, stop, shortest, out):
    """Write the sums of wave[n] · wave[n - lag] over a stretch, for lags from ``shortest`` on."""
    now = wave[start:stop]
    n = len(now)
    for i in range(0, len(out), 4):
        first = start - shortest - i - 3
        earlier = wave[first : first + n + 3]
        a = b = c = d = 0.0
        for j in range(n):
            a += now[j] * earlier[j + 3]
            b += now[j] * earlier[j + 2]
            c += now[j] * earlier[j + 1]
            d += now[j] * earlier[j]
        out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, d


@compiled
def salience(wave, width, reach, hop, low_lag, fraction, bins, power):
    """Normalised correlation of each frame's newest ``width`` with as much, a period earlier; its mean power.

    ``wave`` is what ``lowpass`` returns; a window has ``reach`` samples before its newest ones.
    """
    n_bins, longest, shortest = len(low_lag), low_lag[0] + 1, low_lag[-1]
    n_lags = longest - shortest + 1
    n_hops, rest = width // hop, width % hop
    wide = -(-n_lags // 4) * 4
    # What each hop correlates to: its older part and its newest `rest` samples; a ring of the last hops.
    older, newer = np.zeros((n_hops + 1, wide)), np.zeros((n_hops + 1, wide))
    total, correlation = np.zeros(wide), np.zeros(n_lags)
    for hop_number in range(-n_hops, len(power)):
        stop = LEAD + reach + width + hop_number * hop
        at = hop_number % (n_hops + 1)
        if hop_number > -n_hops:
            _products(wave, stop - hop, stop - rest, shortest, older[at])
        _products(wave, stop - rest, stop, shortest, newer[at])
        if hop_number < 0:
            continue
        oldest = newer[(hop_number - n_hops) % (n_hops + 1)]
        for i in range(wide):
            total[i] = oldest[i]
        for back in range(n_hops - 1, -1, -1):
            place = (hop_number - back) % (n_hops + 1)
            for i in range(wide):
                total[i] += older[place, i] + newer[place, i]
        _normalise(wave[stop - width - reach : stop], width, shortest, total, correlation, power, hop_number)
        for b in range(n_bins):
            low, high = correlation[low_lag[b] - shortest], correlation[low_lag[b] + 1 - shortest]
            bins[hop_number, b] = low + fraction[b] * (high - low)


@compiled
def _normalise(window, width, shortest, products, correlation, power, frame):
    """Take the window's mean away, and divide by the energy of both stretches."""
    reach = len(window) - width
    whole = newest = energy = 0.0
    for i in range(len(window)):
        whole += window[i]
    mean = whole / len(window)
    for i in range(reach, len(window)):
        newest += window[i] - mean
        energy += (window[i] - mean) * (window[i] - mean)
    loudness, stretch = energy, newest
    for lag in range(1, shortest + len(correlation)):
        entering, leaving = window[reach - lag] - mean, window[len(window) - lag] - mean
        stretch += entering - leaving
        energy += entering * entering - leaving * leaving
        if lag >= shortest:
            # sum (x - m)(y - m) = sum x y - m sum (x - m) - m sum (y - m) - n m².
            covered = products[lag - shortest] - mean * (newest + stretch) - width * mean * mean
            correlation[lag - shortest] = covered / (math.sqrt(loudness * max(energy, 0.0)) + 1e-6 * width)
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
