"""Numba compilation with caching, a fast gated unit, and distribution of work over threads."""

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

# Approximation tanh x = x P(x²) / Q(x²) for |x| ≤ 8 (beyond, it is 1 in float32); error 6e-9 before rounding.
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
"""The gated unit tanh(a) · sigmoid(b), inlined into its callers."""


SHORTEST = 512
"""Minimum rows of a tile for which a separate thread is worthwhile."""


def for_tiles(work: Callable[[int, int], None], length: int, *, tile: int, multiple: int = 1) -> None:
    """Call ``work(start, stop)`` on tiles of about ``tile`` rows that cover the length, in parallel.

    Tiles begin at multiples of ``multiple`` rows.
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
"""Floating-point optimisations that keep the order of sums."""
ANY_ORDER = frozenset({"contract", "nsz", "nnan", "reassoc"})
"""Floating-point optimisations that also vectorise sums and maxima; inputs must be finite."""


def compiled(function: Callable[..., Any], freedoms: frozenset[str] = EXACT) -> Any:
    """Compile a function together with its callers, without the shape checks that tests wrap around it."""
    return njit(nogil=True, fastmath=set(freedoms), error_model="numpy")(inspect.unwrap(function))


def cached(make: Callable[[int], Callable[..., Any]]) -> Any:
    """Compile the function returned by ``make`` at its first call, with numba's on-disk cache.

    Numba invalidates the cache when the function's own file changes. For changes of the other files in this
    folder, the function must contain ``make``'s argument, a checksum of them all.
    """
    function, options = inspect.unwrap(make(_version())), {"fastmath": set(EXACT), "error_model": "numpy"}
    try:
        return njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # neither the file's folder nor the user's cache is writable
        return njit(nogil=True, **options)(function)


@cache
def _version() -> int:
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
