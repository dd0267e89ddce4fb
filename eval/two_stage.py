"""Converters of mels, each with a vocoder, as systems of an evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engine.user_error import UserError
from w2w import Converter
from w2w.weights import is_mel_converter, weights_folder


def load_two_stage(named: Sequence[str], taken: Iterable[str]) -> dict[str, Any]:
    """Load converters of mels, each written FOLDER or FOLDER+VOCODER, by what to call them.

    A name is made of the folders' names, and numbered where it is taken.
    """
    converters, taken = {}, set(taken)
    for where in named:
        folder, plus, vocoder = (where, "", "") if Path(where).exists() else _parted(where)
        if not is_mel_converter(weights_folder(folder)):
            raise UserError(f"--two-stage {folder} holds no converter of mels: give others by --converter")
        called = name = readable(folder) + (f"+{readable(vocoder)}" if plus else "")
        number = 2
        while name in taken:
            name, number = f"{called}_{number}", number + 1
        taken.add(name)
        converters[name] = Converter.from_pretrained(folder, vocoder=vocoder if plus else None)
    return converters


def _parted(where: str) -> tuple[str, str, str]:
    folder, plus, vocoder = where.rpartition("+")
    return (folder, plus, vocoder) if plus and folder and vocoder else (where, "", "")


def readable(where: str) -> str:
    """A folder's name, or that of the run whose export it is."""
    path = Path(where)
    return path.absolute().parent.name if path.name in ("export", "") else path.name
