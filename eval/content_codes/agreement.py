"""How much of what a frozen recogniser's encoder hears lies, linearly, in a code."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from eval.content_codes.codes import Code, Heard
from eval.content_codes.phones import moments
from pretrain.probe.results import Interval, mean_interval
from pretrain.teacher import at_times

RIDGE = 1e-3
"""Penalty of the map's weights, per frame, for channels of unit variance."""


def agreement(
    code: Code,
    train: Sequence[Heard],
    test: Sequence[Heard],
    teacher: Code,
    train_truth: Sequence[Heard],
    test_truth: Sequence[Heard],
    speakers: Sequence[str],
) -> Interval:
    """Mean cosine, over audible frames, between the teacher's features and a linear map of the code.

    The map is a ridge regression on some utterances, and is asked about others. ``speakers`` are those of the
    others, over whom the bounds are.
    """
    mean, deviation = moments([heard.frames for heard in train])

    def inputs(heard: Heard, truth: Heard) -> Float[Tensor, "frames inputs"]:
        aligned = at_teachers(code, heard, teacher, len(truth.frames))
        return F.pad((aligned - mean) / deviation, (0, 1), value=1.0).double()

    dim = train[0].frames.shape[1] + 1
    gram = torch.zeros(dim, dim, dtype=torch.float64)
    cross = torch.zeros(dim, train_truth[0].frames.shape[1], dtype=torch.float64)
    count = 0
    for heard, truth in zip(train, train_truth, strict=True):
        x, y = inputs(heard, truth)[truth.audible], truth.frames[truth.audible].double()
        gram, cross, count = gram + x.T @ x, cross + x.T @ y, count + len(x)
    weights = torch.linalg.solve(gram + RIDGE * count * torch.eye(dim, dtype=torch.float64), cross)
    scores = []
    for heard, truth in zip(test, test_truth, strict=True):
        guess = inputs(heard, truth)[truth.audible] @ weights
        cosine = F.cosine_similarity(guess, truth.frames[truth.audible].double(), dim=-1)
        scores.append(float(cosine.mean()))
    return mean_interval(np.array(scores), speakers)


def at_teachers(
    code: Code, heard: Heard, teacher: Code, n_frames: int
) -> Float[Tensor, "teacher_frames channels"]:
    """The code where the teacher's frames stand."""
    seconds = (torch.arange(n_frames) * teacher.hop + teacher.offset) / teacher.sample_rate
    places = (seconds * code.sample_rate - code.offset) / code.hop
    return at_times(heard.frames.T[None].float(), places)[0].T
