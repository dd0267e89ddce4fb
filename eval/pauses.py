"""How loud an output is where its source pauses: a converter must not fill silence with its own noise."""

import numpy as np
from jaxtyping import Bool, Float

from eval.cache import Features
from eval.pitch import align

LOUD_PERCENTILE, PAUSE_DB = 95, 35.0
"""A pause is this far below a recording's loud frames."""
MARGIN = 20
"""Frames of 5 ms between speech and what is measured of a pause, for echoes and for delay."""


def pauses(level: Float[np.ndarray, "frames"]) -> Bool[np.ndarray, "frames"]:
    """Frames that are quiet, and whose neighbours within 100 ms are."""
    quiet = level < np.percentile(level, LOUD_PERCENTILE) - PAUSE_DB
    around = np.pad(quiet, MARGIN, constant_values=True)
    return np.lib.stride_tricks.sliding_window_view(around, 2 * MARGIN + 1).min(-1)


def compare(source: Features, output: Features) -> dict[str, float]:
    """Mean level of the output in the source's pauses, in dBFS, and how far above the source's own it is.

    Both take the features of ``eval.pitch.Pitch``, whose levels end at -100 dBFS; NaN without a pause.
    """
    at, to = align(source["bands"], output["bands"])
    paused = pauses(source["level"])[at]
    if not paused.any():
        return {"pause_level": float("nan"), "pause_above_source": float("nan")}
    of_source, of_output = (_mean_db(level[paused]) for level in (source["level"][at], output["level"][to]))
    return {"pause_level": of_output, "pause_above_source": of_output - of_source}


def _mean_db(level: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(10 ** (level / 10))))
