"""Sentences to speak, from a file or built in, some kept for validation."""

from itertools import islice
from pathlib import Path

import numpy as np

from data.synthetic.sentences import sentences
from engine.user_error import UserError

BUILT_IN = 1_000
LETTERS = range(45, 121)
"""Of the built-in sentences: long enough for a melody, short enough to be spoken in one breath."""
MAX_LETTERS = 300
"""Of a file's lines: more would not fit into one call of the synthesiser."""
LINES_ADDRESS = 1_702
HELD_OUT = 0.05
"""Share of sentences that validation alone hears."""


def built_in_lines() -> list[str]:
    """Made-up sentences of everyday English, always the same."""
    return list(islice((text for text in sentences() if len(text) in LETTERS), BUILT_IN))


def read_lines(path: Path) -> list[str]:
    """The different lines of a text file, without empty ones."""
    if not path.is_file():
        raise UserError(f"there is no file of texts {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    lines = [" ".join(line.split()) for line in text.split("\n")]
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LETTERS:
            raise UserError(
                f"{path}, line {number}: {len(line)} letters are more than the {MAX_LETTERS} spoken at once;"
                " break the line at the end of a phrase"
            )
    lines = list(dict.fromkeys(line for line in lines if line))
    if len(lines) < 2:
        raise UserError(f"{path} needs two different lines at least, one to train and one to validate with")
    return lines


def line_of_group(lines: list[str], group: int, seed: int) -> tuple[str, str]:
    """The sentence of a group and its split; all are spoken before one comes again."""
    lap, place = divmod(group, len(lines))
    order = np.random.default_rng([seed, LINES_ADDRESS, 1 + lap]).permutation(len(lines))
    index = int(order[place])
    n_held_out = max(1, round(HELD_OUT * len(lines)))
    held_out = np.random.default_rng([seed, LINES_ADDRESS, 0]).permutation(len(lines))[:n_held_out]
    return lines[index], "validation" if index in held_out else "train"
