"""How the passes of the fast way are compiled: once for a machine, and kept where that can be written."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered for vectors; not-a-number and infinity keep their meaning."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for this machine; later processes find the code in numba's cache, where that can be written."""
    plain = inspect.unwrap(function)  # the tests' type checks wrap it
    try:
        return njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")(plain)
    except RuntimeError:  # no place for a cache
        return njit(nogil=True, fastmath=FAST, error_model="numpy")(plain)
