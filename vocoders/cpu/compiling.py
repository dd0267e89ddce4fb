"""Compiling for this machine: what is called from Python is kept in numba's cache, the rest is part of it."""

import inspect
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

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
