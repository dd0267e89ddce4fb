"""Pulses, noise and the filters they go through, on a CPU: compiled passes beside the transforms."""

import math

import numpy as np

from w2w.networks.fast_compiling import compiled

_ONE, _HALF = np.float32(1.0), np.float32(0.5)
_LOG2E, _LN2_HIGH, _LN2_LOW = (
    np.float32(1.4426950408889634),
    np.float32(0.693359375),
    np.float32(-2.12194440e-4),
)
_E2, _E3, _E4, _E5, _E6 = (np.float32(1.0 / math.factorial(n)) for n in range(2, 7))
_BIAS, _SHIFT = np.int32(127), np.int32(23)
# Half of pi in three parts, each exact when it is multiplied by a small whole number.
_TURNS, _TURN_HIGH = np.float32(2.0 / math.pi), np.float32(1.5703125)
_TURN_MIDDLE, _TURN_LOW = np.float32(4.837512969970703e-4), np.float32(7.549789948768648e-8)
_S3, _S5, _S7, _S9 = (np.float32((-1) ** (n // 2) / math.factorial(n)) for n in (3, 5, 7, 9))
_C2, _C4, _C6, _C8 = (np.float32((-1) ** (n // 2) / math.factorial(n)) for n in (2, 4, 6, 8))
_PI3, _PI5, _PI7, _PI9, _PI11, _PI13, _PI15 = (
    (-1) ** (n // 2) * math.pi**n / math.factorial(n) for n in range(3, 17, 2)
)


@compiled
def _sine_of_pi(x):
    """sin(pi x) for |x| at most 1/2, to 1e-11."""
    y = x * x
    tail = _PI7 + y * (_PI9 + y * (_PI11 + y * (_PI13 + y * _PI15)))
    return x * (math.pi + y * (_PI3 + y * (_PI5 + y * tail)))


@compiled
def sources(log_f0, phase, last_log_f0, position, sample_rate, rise, out):
    """Write each frame's pulses and noise, entering and leaving; return the phase after them.

    ``out`` is (frames, 4, n_fft), zero beyond a hop: pulses that fade in, that fade out, noise likewise.
    """
    hop = len(rise)
    f0, cycles = np.empty(hop), np.empty(hop)
    for t in range(len(log_f0)):
        now = log_f0[t]
        slide, at = math.exp((now - last_log_f0) / hop), math.exp(last_log_f0)
        for i in range(hop):
            at *= slide
            f0[i] = at
            phase += at / sample_rate
            cycles[i] = phase
        f0[hop - 1] = math.exp(last_log_f0 + (now - last_log_f0))
        pulses, fading, noise, noise_fading = out[t, 0], out[t, 1], out[t, 2], out[t, 3]
        for i in range(hop):
            harmonics = np.floor(0.5 * sample_rate / f0[i])
            # Sum of cosines 1..n in closed form (the Dirichlet kernel), the same around every whole cycle.
            near = cycles[i] - np.floor(cycles[i] + 0.5)
            several = (2.0 * harmonics + 1.0) * near
            several -= 2.0 * np.floor(0.5 * several + 0.5)
            folded = min(abs(several), 1.0 - abs(several))
            above = _sine_of_pi(folded if several >= 0.0 else -folded)
            below = _sine_of_pi(near)
            summit = abs(below) < 1e-9
            ratio = 2.0 * harmonics + 1.0 if summit else above / (1.0 if summit else below)
            size = np.float32(math.sqrt(np.float32(0.5) / np.float32(harmonics)))
            pulse = np.float32(ratio - 1.0) * size
            pulses[i] = pulse * rise[i]
            fading[i] = pulse * (_ONE - rise[i])
        for i in range(hop):
            x = np.uint32(position + i)
            x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
            x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
            x = x ^ (x >> np.uint32(16))
            sound = np.float32(np.float64(x) / 2147483648.0 - 1.0) * np.float32(math.sqrt(3.0))
            noise[i] = sound * rise[i]
            noise_fading[i] = sound * (_ONE - rise[i])
        phase -= np.floor(phase)
        position += hop
        last_log_f0 = now
    return phase


@compiled
def draw(shapes, width, filters):
    """Turn rows of log-gains, and angles from ``width`` on, into filters (rows, real and imaginary, bins)."""
    bins = filters.shape[2]
    for row in range(len(shapes)):
        gain, angle, real, imaginary = shapes[row], shapes[row, width:], filters[row, 0], filters[row, 1]
        for k in range(bins):
            x = gain[k]
            n = np.floor(x * _LOG2E + _HALF)
            r = (x - n * _LN2_HIGH) - n * _LN2_LOW
            e = r * r * (r * (r * (r * (r * _E6 + _E5) + _E4) + _E3) + _E2) + r + _ONE
            size = e * np.int32((np.int32(n) + _BIAS) << _SHIFT).view(np.float32)
            x = angle[k]
            n = np.floor(x * _TURNS + _HALF)
            r = ((x - n * _TURN_HIGH) - n * _TURN_MIDDLE) - n * _TURN_LOW
            y = r * r
            sine = r + r * y * (_S3 + y * (_S5 + y * (_S7 + y * _S9)))
            cosine = _ONE + y * (_C2 + y * (_C4 + y * (_C6 + y * _C8)))
            quarter = np.int32(n)
            swapped = (quarter & 1) == 1
            a, b = (sine, cosine) if swapped else (cosine, sine)
            real[k] = size * (-a if (quarter + 1) & 2 else a)
            imaginary[k] = size * (-b if quarter & 2 else b)


@compiled
def filtered(spectra, earlier, filters, out):
    """Sum the sources through the frame's filters, and through the earlier frame's what fades out.

    Real and imaginary parts are the last axis of ``spectra`` (frames, 4, bins, 2) and of ``out`` (frames,
    bins, 2), and the second one of ``filters`` (two a frame) and of ``earlier`` (two).
    """
    n_frames, bins = out.shape[0], out.shape[1]
    for t in range(n_frames):
        for source in range(2):
            entering, leaving = spectra[t, 2 * source], spectra[t, 2 * source + 1]
            now = filters[2 * t + source]
            before = filters[2 * t - 2 + source] if t else earlier[source]
            for k in range(bins):
                er, ei, lr, li = entering[k, 0], entering[k, 1], leaving[k, 0], leaving[k, 1]
                real = er * now[0, k] - ei * now[1, k] + lr * before[0, k] - li * before[1, k]
                imaginary = er * now[1, k] + ei * now[0, k] + lr * before[1, k] + li * before[0, k]
                if source:
                    out[t, k, 0] += real
                    out[t, k, 1] += imaginary
                else:
                    out[t, k, 0] = real
                    out[t, k, 1] = imaginary


@compiled
def overlapped(blocks, hop, tail, wave):
    """Add blocks ``hop`` apart onto the tail of what came before, which becomes the next one."""
    rest = len(tail)
    for t in range(len(blocks)):
        block = blocks[t]
        for i in range(rest):
            block[i] += tail[i]
        wave[t * hop : (t + 1) * hop] = block[:hop]
        tail[:] = block[hop:]
