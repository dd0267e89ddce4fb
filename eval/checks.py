"""Which pairs can be scored: files that exist, can be read, last long enough and are not silent."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.audio import load
from engine.user_error import UserError
from eval.cache import Cache, content_hash
from eval.features import SAMPLE_RATE, SHORTEST_SECONDS, SILENT
from eval.pairs import Pair


def scorable(pairs: Sequence[Pair], cache: Cache) -> tuple[list[Pair], list[str]]:
    """Part pairs into those whose files can be judged, and one sentence on each of the others.

    An output may be silent: that is a result, and leaving it out would flatter its system.
    """
    good, faults = [], []
    for pair in pairs:
        try:
            for column, path in pair.files.items():
                if _peak(path, column, cache) < SILENT and column != "output":
                    raise UserError(f"the {column} {path} is silent")
            good.append(pair)
        except UserError as fault:
            faults.append(f"{pair.where}: {fault}" if pair.where else str(fault))
    return good, faults


def silent_outputs(pairs: Sequence[Pair], cache: Cache) -> list[str]:
    """One sentence on each output in which nothing is to be heard; the files must be good."""
    return [
        f"{pair.where}: {pair.output} is silent: it counts as understood by nobody and like nobody"
        for pair in pairs
        if pair.output and _peak(pair.output, "output", cache) < SILENT
    ]


def _peak(path: Path, column: str, cache: Cache) -> float:
    """Return a file's peak at 16 kHz; a file once found good need not be decoded again."""
    if not path.is_file():
        raise UserError(f"the {column} {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    known = cache.get("peak", content_hash(path))
    if known is None:
        wave = load(path, SAMPLE_RATE)
        seconds = wave.shape[-1] / SAMPLE_RATE
        if seconds < SHORTEST_SECONDS:
            raise UserError(
                f"the {column} {path} lasts {seconds:.3f} s; scoring needs {SHORTEST_SECONDS} s or more"
            )
        known = {"peak": np.array(float(wave.abs().max()))}
        cache.put("peak", content_hash(path), known)
    return float(known["peak"])
