"""Tiles of time, worked on by as many threads as torch uses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch

SHORTEST = 512
"""Rows of a tile from which a thread of its own pays."""


def for_tiles(work: Callable[[int, int], None], length: int, *, tile: int, multiple: int = 1) -> None:
    """Call ``work(start, stop)`` for all of the length, in tiles of about ``tile`` rows.

    Tiles begin at whole multiples of ``multiple`` rows.
    """
    n_threads, n_units = torch.get_num_threads(), -(-length // multiple)
    n = max(1, round(length / tile), min(n_threads, length // SHORTEST))
    cuts = [min(length, multiple * (n_units * i // n)) for i in range(n + 1)]
    spans = [(start, stop) for start, stop in pairwise(cuts) if stop > start]
    if n_threads == 1 or len(spans) < 2:
        for start, stop in spans:
            work(start, stop)
    else:
        list(_pool(n_threads).map(work, *zip(*spans)))


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, "vocoder")
