"""Mel converters, each with a vocoder, as systems of an evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engine.user_error import UserError
from w2w import Converter
from w2w.weights import is_mel_converter, weights_folder


def load_two_stage(named: Sequence[str], taken: Iterable[str]) -> dict[str, Any]:
    """Load mel converters, each given as FOLDER or FOLDER+VOCODER, and return them by system name.

    Names are made of the folders' names, with a number appended if already ``taken``.
    """
    converters, taken = {}, set(taken)
    for where in named:
        folder, plus, vocoder = (where, "", "") if Path(where).exists() else _split(where)
        if not is_mel_converter(weights_folder(folder)):
            raise UserError(f"--two-stage {folder} holds no mel converter: use --converter for others")
        called = name = readable(folder) + (f"+{readable(vocoder)}" if plus else "")
        number = 2
        while name in taken:
            name, number = f"{called}_{number}", number + 1
        taken.add(name)
        converters[name] = Converter.from_pretrained(folder, vocoder=vocoder if plus else None)
    return converters


def _split(where: str) -> tuple[str, str, str]:
    folder, plus, vocoder = where.rpartition("+")
    return (folder, plus, vocoder) if plus and folder and vocoder else (where, "", "")


def readable(where: str) -> str:
    """Name of a folder, or of its run if the folder is an ``export``."""
    path = Path(where)
    return path.absolute().parent.name if path.name in ("export", "") else path.name
