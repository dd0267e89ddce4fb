"""Captions of the audio-visual world: a small grammar with other words and orders for the same scene."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from data.synthetic.world_scenes import ATTRIBUTES

SIZES = {
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
        size=_choose(SIZES[size], chance[2]),
        colour=colour,
        shape=shape if alone else PLURALS.get(shape, f"{shape}s"),
        ground=_choose(GROUNDS[ground], chance[3]),
        are="is" if alone else "are",
    )


def _choose(options: Sequence[str], chance: float) -> str:
    return options[int(chance * len(options))]
