"""A user's mistake, told in one sentence instead of a traceback."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class UserError(ValueError):
    """A mistake the user can mend: one sentence that names the file or option and the way out."""


def exits_cleanly(main: Callable[P, T]) -> Callable[P, T]:
    """Make an entry point print a ``UserError`` as ``error: …`` and exit with 2, and Ctrl-C exit with 130."""

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return main(*args, **kwargs)
        except UserError as mistake:
            print(f"error: {mistake}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    return guarded
