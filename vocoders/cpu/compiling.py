"""Compiling for this machine, and sharing work among threads: numba's cache, gates, tiles of time."""

import inspect
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit

# tanh x = x P(x²) / Q(x²) up to |x| = 8, where float32 has it at 1: a fit, wrong by 6e-9 before rounding.
_TOP, _HALF, _ONE = (np.float32(v) for v in (8, 0.5, 1))
_P0, _P1, _P2, _P3, _P4 = (
    np.float32(v) for v in (0.9999999936, 0.1344449987, 3.5716002700e-3, 2.189469924e-5, 1.523047058e-8)
)
_Q1, _Q2, _Q3, _Q4 = (np.float32(v) for v in (0.4677782719, 2.616445147e-2, 3.411295702e-4, 8.522467971e-7))


def _gate(a, b):
    a = min(max(a, -_TOP), _TOP)
    b = min(max(_HALF * b, -_TOP), _TOP)
    aa, bb = a * a, b * b
    p = a * ((((_P4 * aa + _P3) * aa + _P2) * aa + _P1) * aa + _P0)
    q = (((_Q4 * aa + _Q3) * aa + _Q2) * aa + _Q1) * aa + _ONE
    r = b * ((((_P4 * bb + _P3) * bb + _P2) * bb + _P1) * bb + _P0)
    s = (((_Q4 * bb + _Q3) * bb + _Q2) * bb + _Q1) * bb + _ONE
    return _HALF * p * (s + r) / (q * s)


gate = njit(inline="always", error_model="numpy")(inspect.unwrap(_gate))
"""tanh(a) · sigmoid(b), compiled into its callers."""


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


EXACT = frozenset({"contract", "nsz"})
"""Freedoms with floats that keep the order of sums."""
ANY_ORDER = frozenset({"contract", "nsz", "nnan", "reassoc"})
"""Sums and maxima may be taken of vectors; their inputs are finite."""


def compiled(function: Callable[..., Any], freedoms: frozenset[str] = EXACT) -> Any:
    """Compile as part of what calls it. The function is unwrapped from what checks shapes in tests."""
    return njit(nogil=True, fastmath=set(freedoms), error_model="numpy")(inspect.unwrap(function))


def kept(make: Callable[[int], Callable[..., Any]]) -> Any:
    """Compile what ``make`` returns at its first call; later processes find the code in numba's cache.

    The cache notices changes of one file only: of all others in this folder a number tells it, which the
    function must have in it.
    """
    function, options = inspect.unwrap(make(_version())), {"fastmath": set(EXACT), "error_model": "numpy"}
    try:
        return njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # nowhere to write: neither beside the file nor in the user's cache
        return njit(nogil=True, **options)(function)


@cache
def _version() -> int:
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
