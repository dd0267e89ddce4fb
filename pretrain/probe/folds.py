"""A corpus' official folds in rotation: each once the test, the one before it the validation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from pretrain.probe.classification import label_scores
from pretrain.probe.clips import Clip, folds_of
from pretrain.probe.scores import Interval


class Rotation(NamedTuple):
    """Who trains, stops and is tested while one fold is the test."""

    fold: int
    train: list[Clip]
    validation: list[Clip]
    test: list[Clip]


Answers = Callable[[Rotation], list[Float[Tensor, "clips n_classes"]]]
"""A method: logits of a rotation's test clips, once a training."""


def rotations(clips: Sequence[Clip], path: str = "the data", only: Sequence[int] = ()) -> list[Rotation]:
    """All rotations, or those whose test is one of the folds ``only``.

    In the last one the last fold is the test and the one before it the validation, which is the fixed split
    of corpora that have one.
    """
    folds = folds_of(clips, path)
    unknown = [fold for fold in only if fold not in folds]
    if unknown:
        raise UserError(f"{path} has no fold {unknown[0]} (it has {', '.join(map(str, folds))})")
    rounds = []
    for place, fold in enumerate(folds):
        if only and fold not in only:
            continue
        held = folds[place - 1]
        parts = ([], [], [])
        for clip in clips:
            parts[2 if clip.fold == fold else 1 if clip.fold == held else 0].append(clip)
        rounds.append(Rotation(fold, *parts))
    return rounds


def fold_scores(answers: Answers, rounds: Sequence[Rotation], names: Sequence[str]) -> dict[str, Interval]:
    """Scores over all clips, each answered while its fold was the test, and over the last fold alone."""
    answered = [answers(one) for one in rounds]
    logits = [torch.cat(parts) for parts in zip(*answered, strict=True)]
    clips = [clip for one in rounds for clip in one.test]
    last = label_scores(answered[-1], rounds[-1].test, names, multi_label=False)
    scores = {f"fold {rounds[-1].fold} {metric}": value for metric, value in last.items()}
    if len(rounds) == 1:
        return scores
    whole = label_scores(logits, clips, names, multi_label=False)
    return {f"{len(rounds)} folds {metric}": value for metric, value in whole.items()} | scores
