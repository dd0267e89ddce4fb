"""Log-mels and running means on a CPU, in compiled passes beside the transforms."""

import numpy as np

from w2w.networks.fast_compiling import compiled


@compiled
def windowed(wave, hop, taper, out):
    """Write the tapered windows of a wave; what lies beyond a window stays zero."""
    for t in range(len(out)):
        window, to = wave[t * hop : t * hop + len(taper)], out[t]
        for i in range(len(taper)):
            to[i] = window[i] * taper[i]


@compiled
def magnitudes(spectra, floor, out):
    """Write the magnitudes of spectra (frames, bins, 2), zeros beyond their bins."""
    bins = spectra.shape[1]
    for t in range(len(spectra)):
        spectrum, to = spectra[t], out[t]
        for k in range(bins):
            power = spectrum[k, 0] * spectrum[k, 0] + spectrum[k, 1] * spectrum[k, 1]
            to[k] = np.sqrt(power + np.float32(floor * floor))
        to[bins:] = np.float32(0.0)


@compiled
def raise_to(floor, mels, out):
    """Write mels, none below the floor; ``mels`` may be wider."""
    for t in range(len(out)):
        for c in range(out.shape[1]):
            out[t, c] = max(mels[t, c], np.float32(floor))


@compiled
def running_mean(x, weight, keep, total, seen, out):
    """Write the discounted mean of the frames so far; the sums become those after the last frame."""
    for t in range(x.shape[1]):
        share = weight[t]
        seen[0] = seen[0] * keep + share
        for c in range(x.shape[0]):
            total[c] = total[c] * keep + x[c, t] * share
            out[c, t] = total[c] / seen[0]
