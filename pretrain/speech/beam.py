"""Reading CTC's posteriors by prefix beam search, with or without a language model of the units."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from engine.user_error import UserError
from pretrain.units import BLANK

NEVER = -math.inf
LEAST = -12.0
"""Log-probability under which a token is not tried at a frame."""
Prefix = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How posteriors become text."""

    beam: int = 1
    """Readings kept at each frame; 1: the likeliest token of each frame."""
    lm_weight: float = 0.5
    """What a language model of the units counts beside the recogniser, where ``lm_paths`` gives it texts."""
    lm_paths: tuple[str, ...] = ()
    """Manifests whose training texts the language model learns; none: no such model."""
    lm_order: int = 6
    """Longest run of units it counts."""
    lm_bonus: float = 0.8
    """Added for each unit, against the model's liking for short texts."""

    def __post_init__(self) -> None:
        if min(self.beam, self.lm_order) < 1:
            raise UserError("decode.beam and decode.lm_order must be at least 1")
        if self.lm_paths and self.beam < 2:
            raise UserError("a language model needs a beam: add --decode.beam 16")


class UnitLM:
    """An n-gram model of tokens, smoothed by interpolation with shorter contexts (Witten and Bell, 1991)."""

    def __init__(self, texts: Iterable[Sequence[int]], n_units: int, order: int = 6) -> None:
        self.n_units, self.order = n_units, order
        self.counts: dict[Prefix, dict[int, int]] = {}
        """How often each token followed each context of up to ``order`` − 1 tokens; 0 ends a text."""
        for text in texts:
            padded = (*text, BLANK)
            for at, token in enumerate(padded):
                for length in range(min(order - 1, at) + 1):
                    followers = self.counts.setdefault(padded[at - length : at], {})
                    followers[token] = followers.get(token, 0) + 1
        self._known: dict[Prefix, np.ndarray] = {}

    def log_probs(self, prefix: Sequence[int]) -> Float[np.ndarray, "tokens"]:
        """Return the log-probability of each token after a prefix; that of token 0 is of the end."""
        context = tuple(prefix[max(0, len(prefix) - self.order + 1) :])
        if context not in self._known:
            self._known[context] = np.log(self._probabilities(context))
        return self._known[context]

    def _probabilities(self, context: Prefix) -> Float[np.ndarray, "tokens"]:
        shorter = (
            self._probabilities(context[1:]) if context else np.full(self.n_units + 1, 1 / (self.n_units + 1))
        )
        followers = self.counts.get(context)
        if not followers:
            return shorter
        seen = np.zeros(self.n_units + 1)
        seen[list(followers)] = list(followers.values())
        return (seen + len(followers) * shorter) / (seen.sum() + len(followers))


class Hypothesis(NamedTuple):
    """One reading."""

    tokens: Prefix
    log_prob: float
    """Of all paths that read so, found by the beam."""
    score: float
    """With what the language model adds."""


def beam_search(
    log_probs: Float[np.ndarray, "frames tokens"],
    width: int,
    lm: UnitLM | None = None,
    *,
    lm_weight: float = 0.5,
    bonus: float = 0.0,
) -> list[Hypothesis]:
    """Return the likeliest readings, best first (prefix search, Graves 2012; with a model, Hannun 2014).

    A reading's score is its log-probability + ``lm_weight`` × the model's + ``bonus`` × its length.
    """
    beams: dict[Prefix, tuple[float, float]] = {(): (0.0, NEVER)}  # paths that end with a blank, and others
    added: dict[Prefix, float] = {(): 0.0}  # what the model and the bonus add to each
    for frame in log_probs.astype(np.float64):
        tried = [int(t) for t in np.flatnonzero(frame > LEAST) if t != BLANK]
        likely = frame.tolist()
        grown: dict[Prefix, tuple[float, float]] = {}
        for prefix, (blank, other) in beams.items():
            both = _add(blank, other)
            last = prefix[-1] if prefix else BLANK
            was = grown.get(prefix, (NEVER, NEVER))
            repeated = other + likely[last] if prefix else NEVER
            grown[prefix] = (_add(was[0], both + likely[BLANK]), _add(was[1], repeated))
            if lm is not None:
                follows = lm.log_probs(prefix)
            for token in tried:
                before = blank if token == last else both
                if before == NEVER:  # a blank must part a token from its like
                    continue
                longer = (*prefix, token)
                was = grown.get(longer, (NEVER, NEVER))
                grown[longer] = (was[0], _add(was[1], before + likely[token]))
                if longer not in added:
                    said = 0.0 if lm is None else lm_weight * float(follows[token])
                    added[longer] = added[prefix] + said + bonus
        best = nlargest(width, grown, key=lambda p: _add(*grown[p]) + added[p])
        beams = {prefix: grown[prefix] for prefix in best}
        added = {prefix: added[prefix] for prefix in best}
    found = []
    for prefix, parts in beams.items():
        end = 0.0 if lm is None else lm_weight * float(lm.log_probs(prefix)[BLANK])
        total = _add(*parts)
        found.append(Hypothesis(prefix, total, total + added[prefix] + end))
    return sorted(found, key=lambda h: -h.score)


def _add(a: float, b: float) -> float:
    """Add probabilities given by their logarithms."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
