"""A cast for a synthesiser: its voices and mixtures of them, no voice heard on both sides of the split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.user_error import UserError

CAST_ADDRESS = 1_701
HELD_OUT = 0.1
"""Share of voices and mixtures that validation alone hears."""
BEYOND, MOST_BEYOND = 0.15, 0.25
"""Share of mixtures that lie outside two voices, and how far at most."""
MIN_VOICES = 4
"""Fewer would leave validation without a mixture."""
Weights = Mapping[str, float]
"""Of voices; they sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who speaks in one split."""

    prosody: tuple[str, ...]
    """Voices that lend rhythm and melody."""
    speakers: Mapping[str, Weights]
    """By name: these voices, others that lend timbre alone, and mixtures."""


def cast(prosody: Sequence[str], timbres: Sequence[str], n_mixtures: int, seed: int) -> dict[str, Cast]:
    """The casts of train and validation: their voices differ, and their mixtures are of their own voices."""
    rng = np.random.default_rng([seed, CAST_ADDRESS])
    leaders, followers = sorted(prosody), sorted(set(timbres) - set(prosody))
    held_out = _drawn(rng, leaders, 2) | _drawn(rng, followers, 0)
    n_held_out = round(HELD_OUT * n_mixtures)
    casts, first = {}, 0
    for split, count in {"train": n_mixtures - n_held_out, "validation": n_held_out}.items():
        own = [name for name in (*leaders, *followers) if (name in held_out) == (split == "validation")]
        mixtures = {f"blend_{first + number:04}": _mixture(rng, own) for number in range(count)}
        casts[split] = Cast(
            prosody=tuple(name for name in own if name in leaders),
            speakers={**{name: {name: 1.0} for name in own}, **mixtures},
        )
        first += count
    return casts


def voices_named(prefixes: Sequence[str], voices: Sequence[str]) -> list[str]:
    """The voices whose names begin with one of the prefixes, each of which must name one."""
    for prefix in prefixes:
        if not any(voice.startswith(prefix) for voice in voices):
            raise UserError(f"no voice's name begins with {prefix!r}; there are {', '.join(voices)}")
    return [voice for voice in voices if voice.startswith(tuple(prefixes))]


def speakers_json(casts: Mapping[str, Cast]) -> str:
    """Who is mixed of whom: name → voice → weight."""
    return json.dumps(
        {name: weights for cast in casts.values() for name, weights in cast.speakers.items()}, indent=1
    )


def _drawn(rng: np.random.Generator, voices: list[str], at_least: int) -> set[str]:
    count = max(at_least, round(HELD_OUT * len(voices)))
    return {voices[place] for place in rng.permutation(len(voices))[:count]}


def _mixture(rng: np.random.Generator, voices: list[str]) -> dict[str, float]:
    beyond = rng.random() < BEYOND
    count = 2 if beyond else min(len(voices), int(rng.integers(2, 4)))
    names = [voices[place] for place in rng.permutation(len(voices))[:count]]
    if beyond:
        excess = rng.uniform(0, MOST_BEYOND)
        weights = np.array([1 + excess, -excess])
    else:
        weights = rng.dirichlet(np.ones(count))
    return {name: round(float(weight), 4) for name, weight in zip(names, weights)}
