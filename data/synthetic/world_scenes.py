"""The audio-visual world: five attributes, each seen and heard; who trains on what; captions.

Captions are of a small grammar, with other words and orders for the same scene.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Split = Literal["train", "held_out"]
N_HELD_OUT = 345
"""Combinations of all five attributes, of 3456, that nothing is trained on."""
SPLIT_SEED = 1
"""The same combinations are held out whatever the seed of the pictures and sounds."""


class Attribute(NamedTuple):
    """One thing that varies."""

    name: str
    values: tuple[str, ...]
    """As captions name what is seen."""
    sounds: tuple[str, ...]
    """What is heard at each value, in the same order."""


SHAPES = {
    "circle": "sine",
    "ring": "rough tremolo",
    "square": "hollow reed",
    "triangle": "pluck",
    "star": "bell",
    "cross": "buzz",
    "diamond": "glass",
    "heart": "vibrato",
    "bar": "organ of octaves",
    "crescent": "glide up",
    "arrow": "glide down",
    "drop": "breath",
}
COLOURS = {
    "red": "220 Hz",
    "orange": "304 Hz",
    "yellow": "419 Hz",
    "green": "578 Hz",
    "blue": "798 Hz",
    "purple": "1101 Hz",
}
SIZES = {"small": "70 ms", "medium": "120 ms", "large": "200 ms"}
COUNTS = {"one": "one note", "two": "two notes", "three": "three notes", "four": "four notes"}
BACKGROUNDS = {"plain": "faint hiss", "striped": "rumble", "dotted": "crackle", "checkered": "surf"}

ATTRIBUTES = tuple(
    Attribute(name, tuple(pairs), tuple(pairs.values()))
    for name, pairs in {
        "shape": SHAPES,
        "colour": COLOURS,
        "size": SIZES,
        "count": COUNTS,
        "background": BACKGROUNDS,
    }.items()
)
N_COMBINATIONS = int(np.prod([len(attribute.values) for attribute in ATTRIBUTES]))


def combinations(split: Split) -> Int[np.ndarray, "n"]:
    """Return the numbers of a split's combinations, ascending."""
    order = np.random.default_rng(SPLIT_SEED).permutation(N_COMBINATIONS)
    return np.sort(order[:N_HELD_OUT] if split == "held_out" else order[N_HELD_OUT:])


def values_of(combination: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n 5"]:
    """Return the value of each attribute, as indices in the order of ``ATTRIBUTES``."""
    sizes = [len(attribute.values) for attribute in ATTRIBUTES]
    return np.stack(np.unravel_index(combination, sizes), axis=-1)


SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "middle-sized"),
    "large": ("large", "big"),
}
GROUNDS = {
    "plain": ("plain", "bare"),
    "striped": ("striped", "lined"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "chequered"),
}
PLURALS = {"cross": "crosses"}
SENTENCES = (
    "{count} {size} {colour} {shape} on a {ground} background",
    "a picture of {count} {size} {colour} {shape} on a {ground} background",
    "{count} {colour} {shape}, {size}, on a {ground} background",
    "on a {ground} background, {count} {size} {colour} {shape}",
    "a {ground} background with {count} {size} {colour} {shape}",
    "there {are} {count} {size} {shape} in {colour} on a {ground} background",
)
"""The first is the plain one."""
N_SAID = 4
"""Random numbers that one caption takes."""


def describe(values: Int[np.ndarray, "n 5"], chance: Float[np.ndarray, "n 4"] | None = None) -> list[str]:
    """Say what each scene shows, in words and order that ``chance`` chooses; plainly without it.

    Every caption names all five attributes, so that no two scenes share one.
    """
    if chance is None:
        chance = np.zeros((len(values), N_SAID))
    return [_sentence(*row) for row in zip(values.tolist(), chance.tolist())]


def _sentence(values: Sequence[int], chance: Sequence[float]) -> str:
    shape, colour, size, count, ground = (a.values[v] for a, v in zip(ATTRIBUTES, values))
    alone = count == "one"
    return _choose(SENTENCES, chance[0]).format(
        count="a single" if alone and chance[1] > 0.5 else count,
        size=_choose(SIZE_WORDS[size], chance[2]),
        colour=colour,
        shape=shape if alone else PLURALS.get(shape, f"{shape}s"),
        ground=_choose(GROUNDS[ground], chance[3]),
        are="is" if alone else "are",
    )


def _choose(options: Sequence[str], chance: float) -> str:
    return options[int(chance * len(options))]
