"""Shape checks in every package while tests run, of a function's first calls in each test.

Only annotations with shapes are checked, since pyright checks the rest. A function is wrapped at its first
call, which keeps imports fast.
"""

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import jaxtyping
import torch

CALLS = 12
"""Checked calls of a function per test."""
PACKAGES = ["engine", "data", "pretrain", "vocoders", "w2w", "eval", "app", "experiments", "benchmarks"]
_checked, _test = jaxtyping.jaxtyped, [0]


def check_shapes() -> None:
    """Check every package of this project that is imported from now on."""
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook(PACKAGES, "beartype.beartype")


def new_test() -> None:
    """Count calls from the start again."""
    _test[0] += 1


def carries_shape(annotation: Any) -> bool:
    """Whether an annotation contains an array shape."""
    if isinstance(annotation, list):  # of a Callable's arguments
        return any(map(carries_shape, annotation))
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(carries_shape, get_args(annotation)))


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Replace the decorator that jaxtyping's import hook applies to each function and class."""

    def decorated(made: Any) -> Any:
        if isinstance(made, type):
            shaped = is_dataclass(made) and any(carries_shape(field.type) for field in fields(made))
            return _checked(made, typechecker=typechecker) if shaped else made
        shaped = any(map(carries_shape, getattr(made, "__annotations__", {}).values()))
        return _first_calls(made, typechecker) if shaped else made

    return decorated


def _first_calls(function: Any, typechecker: Any) -> Any:
    checked, test, calls = None, -1, 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked, test, calls
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if test != _test[0]:
            test, calls = _test[0], 0
        if calls >= CALLS:
            return function(*args, **kwargs)
        calls += 1
        if checked is None:
            checked = _checked(function, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call
