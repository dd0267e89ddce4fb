"""The compiled WaveNet's loop over samples, and where its machine code is kept."""

import inspect
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from vocoders.cpu.wavenet_packing import BLOCK, PANEL
from vocoders.cpu.wavenet_sampling import choose, predict, remember
from vocoders.cpu.wavenet_step import copy, enter, layers, look_back, outputs


@cache
def loop() -> Any:
    """Return the compiled loop: from the cache of an earlier process, or compiled at its first call."""
    # Numba's cache notices changes of the outermost function's file; of the others a number tells it.
    folder = Path(__file__).parent
    sources = sorted(folder.glob("wavenet*.py"))
    function = _loop(zlib.crc32(b"".join(file.read_bytes() for file in sources)))
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere to write: neither beside this file nor in the user's cache
        return njit(nogil=True, error_model="numpy")(function)


def _loop(version: int) -> Any:
    def run(
        weights, tables, memory, origin, start, stop, rows, conditioning, forced, noise, temperature,
        sharpness, limits, filters, samples, record,
    ):  # fmt: skip
        """Advance the utterances in ``rows`` from sample start to stop of a block that begins at origin."""
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
        likely, kept = np.zeros(n_out, np.float32), np.zeros(n_out, np.float32)
        x_at, c_at = np.zeros(batch * BLOCK, np.int64), np.zeros(batch * BLOCK, np.int64)
        z_at = np.zeros(batch, np.int64)
        for i in range(start, stop):
            now = min(i, conditioning.shape[1] - 1)
            hot, sharp = min(i, temperature.shape[1] - 1), min(i, sharpness.shape[1] - 1)
            for u in rows:
                if forced.shape[1] > 0:
                    previous[u] = forced[u, i]
                enter(stream[u], previous[u], sizes, first)
            look_back(origin + i, rows, sizes, past, lags, strides, rings, history, pending, x_at, c_at)
            layers(
                origin + i, now, rows, sizes, current, out_skip, rings, history, pending, conditioning,
                stream, z, x_at, c_at, z_at,
            )  # fmt: skip
            outputs(rows, sizes, head, last, stream, hidden, logits, x_at, c_at)
            for u in rows:
                if record.shape[1] > 0:
                    copy(record[u, i], 0, logits[u], n_out)
                if forced.shape[1] > 0:
                    continue
                if sizes[6] == 1:
                    n, uniform = n_out, noise[u, i, 0]
                    sample = np.float32(
                        choose(logits[u], n, uniform, temperature[u, hot], top_p, likely, kept)
                    )
                else:
                    mean, log_scale = logits[u, 0], logits[u, 1]
                    if n_out > 2:
                        n, uniform = n_components, noise[u, i, 0]
                        k = choose(logits[u], n, uniform, temperature[u, hot], top_p, likely, kept)
                        mean, log_scale = logits[u, n + k], logits[u, 2 * n + k]
                    if recent.shape[1] > 0:
                        f = (origin + i) // hop
                        mean = mean * gain[u, f] + predict(recent[u], coefficients[u, f])
                        log_scale += np.log(gain[u, f])
                    scale = np.exp(max(log_scale, np.float32(lowest))) * sharpness[u, sharp]
                    sample = min(max(mean + scale * noise[u, i, 1], np.float32(-1)), np.float32(1))
                    remember(recent[u], sample)
                previous[u] = sample
                samples[u, i] = sample

    return inspect.unwrap(run)
