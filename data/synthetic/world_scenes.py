"""What there is in the audio-visual world: five attributes, each seen and heard, and who trains on what."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

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
