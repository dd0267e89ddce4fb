"""English sentences for synthesis, generated from patterns or read from a file, split for validation."""

import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from engine.files import read_text
from engine.user_error import UserError


def _parts() -> dict[str, list[str]]:
    parts, phrases = dict[str, list[str]](), list[str]()
    for line in Path(__file__).with_name("sentences.txt").read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("["):
            phrases = parts.setdefault(line.strip("[]"), [])
        else:
            phrases.append(line)
    return parts


SLOTS = _parts()
"""Phrases by the slot (a word in capitals) that they may replace in a pattern."""
PATTERNS = SLOTS.pop("PATTERNS")
_SLOT = re.compile("|".join(sorted(SLOTS, key=len, reverse=True)))


def sentences(seed: int = 0) -> Iterator[str]:
    """Yield distinct sentences of 4 to 20 words without end, in an order that depends only on ``seed``."""
    rng, seen = random.Random(seed), set()
    patterns = list(PATTERNS)
    while True:
        rng.shuffle(patterns)
        for pattern in patterns:
            sentence = _filled(pattern, rng)
            if sentence not in seen:
                seen.add(sentence)
                yield sentence


def _filled(pattern: str, rng: random.Random) -> str:
    used: list[str] = []

    def unused(slot: re.Match[str]) -> str:
        used.append(rng.choice([phrase for phrase in SLOTS[slot[0]] if phrase not in used]))
        return used[-1]

    sentence = re.sub(r"\b(a) (?=[aeiou])", r"\1n ", _SLOT.sub(unused, pattern))
    return sentence[0].upper() + sentence[1:]


BUILT_IN = 1_000
LETTERS = range(45, 121)
"""Lengths of the built-in sentences: long enough for a melody, short enough for one breath."""
MAX_LETTERS = 300
"""Maximum length of a file's lines, which must fit into one call of the synthesiser."""
LINES_ADDRESS = 1_702
HELD_OUT = 0.05
"""Fraction of sentences reserved for validation."""


def built_in_lines() -> list[str]:
    """Return a fixed list of generated sentences of everyday English."""
    return list(islice((text for text in sentences() if len(text) in LETTERS), BUILT_IN))


def read_lines(path: Path) -> list[str]:
    """Read the distinct non-empty lines of a text file."""
    if not path.is_file():
        raise UserError(f"there is no file of texts {path}")
    lines = [" ".join(line.split()) for line in read_text(path).split("\n")]
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LETTERS:
            long = f"{len(line)} letters are more than the maximum of {MAX_LETTERS}"
            raise UserError(f"{path}, line {number}: {long}; break the line at the end of a phrase")
    lines = list(dict.fromkeys(line for line in lines if line))
    if len(lines) < 2:
        raise UserError(f"{path} needs at least two different lines, one for training and one for validation")
    return lines


def line_of_group(lines: list[str], group: int, seed: int) -> tuple[str, str]:
    """Return the sentence of a group and its split; all sentences are used before one is repeated."""
    lap, place = divmod(group, len(lines))
    order = np.random.default_rng([seed, LINES_ADDRESS, 1 + lap]).permutation(len(lines))
    index = int(order[place])
    n_held_out = max(1, round(HELD_OUT * len(lines)))
    held_out = np.random.default_rng([seed, LINES_ADDRESS, 0]).permutation(len(lines))[:n_held_out]
    return lines[index], "validation" if index in held_out else "train"
