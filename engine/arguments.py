"""Plain command lines (names of files, a few options) whose mistakes are told in one sentence."""

import argparse
import difflib
from typing import NoReturn

from engine.user_error import UserError


class Arguments(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises ``UserError`` instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and, where an option is misspelt, which one comes near."""
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split()[0].split("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            kind = (
                f"there is no option {word}" if word.startswith("-") else f"{word!r} is one argument too many"
            )
            message = kind + (f", did you mean {near[0]}?" if near else "")
        raise UserError(f"{message}; --help lists all options")

    @classmethod
    def described_by(cls, program: str, docstring: str | None) -> "Arguments":
        """Make a parser for ``python -m program`` whose help is a module's docstring."""
        plain = argparse.RawDescriptionHelpFormatter
        about = docstring or ""
        return cls(prog=f"python -m {program}", description=about, formatter_class=plain, allow_abbrev=False)
