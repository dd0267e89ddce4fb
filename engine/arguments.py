"""A parser for plain command lines (file names, a few options) with one-sentence error messages."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.files import check_writable
from engine.user_error import UserError, nearest, refuse_empty


class Arguments(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises ``UserError`` instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UserError``, with a suggestion for a misspelt option."""
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split()[0].split("=")[0]
            kind = (
                f"there is no option {word}" if word.startswith("-") else f"{word!r} is one argument too many"
            )
            message = kind + nearest(word, self._option_string_actions)
        raise UserError(f"{message}; --help lists all options")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse the arguments; refuse empty ones, and an ``--out`` or ``--write`` that is not writable."""
        refuse_empty(sys.argv[1:] if args is None else args)
        given = super().parse_args(args, namespace)
        for name in ("out", "write"):
            if isinstance(place := getattr(given, name, None), Path):
                check_writable(place)
        return given

    @classmethod
    def described_by(cls, program: str, docstring: str | None) -> "Arguments":
        """Make a parser for ``python -m program``, or ``timbre …``, with a module's docstring as help."""
        plain = argparse.RawDescriptionHelpFormatter
        about = docstring or ""
        called = sys.argv[0] if sys.argv[0].startswith("timbre ") else f"python -m {program}"
        return cls(prog=called, description=about, formatter_class=plain, allow_abbrev=False)
