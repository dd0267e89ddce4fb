"""The compiled WaveNet's loop over samples: the network's step, and what is drawn from its output."""

import numpy as np

from vocoders.cpu.compiling import kept
from vocoders.cpu.wavenet_packing import BLOCK, PANEL
from vocoders.cpu.wavenet_sampling import choose, predict, remember
from vocoders.cpu.wavenet_step import copy, enter, layers, look_back, outputs


@kept
def loop(version):
    """Advance all utterances by the samples of a block that begins at ``origin``.

    ``conditioning`` (batch, samples or 1, layers · gates) is added to each layer's gates, biases included.
    ``forced`` (batch, samples) are the network's inputs; empty: it is fed what it draws. ``noise`` (batch,
    samples, 2) is a uniform in [0, 1) that picks the class or the mixture component, and a standard logistic
    or normal variate for the place within it. ``temperature`` (batch, samples or 1): 0 takes the likeliest.
    ``samples`` (batch, samples) is filled with classes, or amplitudes within [-1, 1]; ``record`` (batch,
    samples, outputs), unless it is empty, with what the network puts out.
    """

    def run(
        weights, tables, memory, origin, conditioning, forced, noise, temperature, limits, filters, samples,
        record,
    ):  # fmt: skip
        _ = version
        first, current, past, out_skip, head, last = weights
        sizes, lags, strides, rings = tables
        history, pending, previous, recent = memory
        top_p, lowest, hop = limits
        coefficients, gain = filters
        residual, half, skip, n_out = sizes[1], sizes[2], sizes[3], sizes[4]
        batch, n_components = len(history), n_out // 3
        stream = np.zeros((batch, -(-(residual + skip) // PANEL) * PANEL), np.float32)
        z = np.ones((batch, half + 1), np.float32)  # the last one takes the bias
        hidden = np.zeros((batch, 2, -(-(skip + 1) // PANEL) * PANEL), np.float32)
        logits = np.zeros((batch, -(-n_out // PANEL) * PANEL), np.float32)
        likely, chosen = np.zeros(n_out, np.float32), np.zeros(n_out, np.float32)
        x_at, c_at = np.zeros(batch * BLOCK, np.int64), np.zeros(batch * BLOCK, np.int64)
        z_at = np.zeros(batch, np.int64)
        for i in range(samples.shape[1]):
            now = min(i, conditioning.shape[1] - 1)
            hot = min(i, temperature.shape[1] - 1)
            for u in range(batch):
                if forced.shape[1] > 0:
                    previous[u] = forced[u, i]
                enter(stream[u], previous[u], sizes, first)
            look_back(origin + i, sizes, past, lags, strides, rings, history, pending, x_at, c_at)
            layers(
                origin + i, now, sizes, current, out_skip, rings, history, pending, conditioning,
                stream, z, x_at, c_at, z_at,
            )  # fmt: skip
            outputs(sizes, head, last, stream, hidden, logits, x_at, c_at)
            for u in range(batch):
                if record.shape[1] > 0:
                    copy(record[u, i], 0, logits[u], n_out)
                if forced.shape[1] > 0:
                    continue
                if sizes[6] == 1:
                    n, uniform = n_out, noise[u, i, 0]
                    sample = np.float32(
                        choose(logits[u], n, uniform, temperature[u, hot], top_p, likely, chosen)
                    )
                else:
                    mean, log_scale = logits[u, 0], logits[u, 1]
                    if n_out > 2:
                        n, uniform = n_components, noise[u, i, 0]
                        k = choose(logits[u], n, uniform, temperature[u, hot], top_p, likely, chosen)
                        mean, log_scale = logits[u, n + k], logits[u, 2 * n + k]
                    if recent.shape[1] > 0:
                        f = (origin + i) // hop
                        mean = mean * gain[u, f] + predict(recent[u], coefficients[u, f])
                        log_scale += np.log(gain[u, f])
                    scale = np.exp(max(log_scale, np.float32(lowest))) * temperature[u, hot]
                    sample = min(max(mean + scale * noise[u, i, 1], np.float32(-1)), np.float32(1))
                    remember(recent[u], sample)
                previous[u] = sample
                samples[u, i] = sample

    return run
