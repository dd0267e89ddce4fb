"""How much of the speaker a content code still tells.

A probe is taught to name the speaker from the code's mean and deviation over an utterance's audible frames,
another from single frames; both are asked about other utterances of the same speakers. Lower is better for a
code, as long as the words survive; a random code leaks, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.manifest import Row, rows_from
from engine.user_error import UserError
from eval.content_codes.codes import CodeFrames
from pretrain.probe.results import Interval, mean_interval

FRAMES_EACH = 50
"""Frames of an utterance that the frame probe learns from, or is asked about, at most."""
PENALTY = 1e-3
"""Of the probe's squared weights."""

Vectors = Float[Tensor, "examples dim"]
Labels = Int[Tensor, " examples"]


class Leak(NamedTuple):
    """How well linear probes tell speakers from one code."""

    pooled: Interval
    """Share of the held-out utterances named rightly."""
    single: Interval
    """Share of their frames."""


class Utterances(NamedTuple):
    """What a probe learns from and is asked about."""

    train: list[Row]
    held_out: list[Row]
    speakers: list[str]

    @property
    def chance(self) -> float:
        """Of naming the speaker."""
        return 1 / len(self.speakers)


def utterances(data: Path | str, *, per_speaker: int = 0) -> Utterances:
    """Speakers with two utterances or more in the train split and one or more in the validation split.

    ``per_speaker`` is the most utterances of a speaker that a probe learns from; 0: all.
    """
    by_split: dict[str, dict[str, list[Row]]] = {"train": {}, "validation": {}}
    for row in sorted(rows_from(data), key=lambda row: row.path.as_posix()):
        if row.speaker and row.split in by_split:
            by_split[row.split].setdefault(row.speaker, []).append(row)
    train, held_out = by_split["train"], by_split["validation"]
    speakers = sorted(name for name in held_out if len(train.get(name, ())) >= 2)
    if len(speakers) < 2:
        raise UserError(
            f"{data}: the probe needs two speakers with two utterances in split train and one in validation, "
            f"and there are {len(speakers)}: add speaker and split columns to its manifest"
        )
    drawn = []
    for number, name in enumerate(speakers):
        order = np.random.default_rng([0, number]).permutation(len(train[name]))
        drawn += [train[name][i] for i in order[: per_speaker or None]]
    return Utterances(drawn, [row for name in speakers for row in held_out[name]], speakers)


def speaker_leakage(rows: Utterances, train: Sequence[CodeFrames], held_out: Sequence[CodeFrames]) -> Leak:
    """Probe one code, given what it makes of the utterances."""
    number = {name: label for label, name in enumerate(rows.speakers)}
    labels, truth = (
        torch.tensor([number[row.speaker or ""] for row in part]) for part in (rows.train, rows.held_out)
    )
    places = [row.path.as_posix() for row in rows.held_out]
    pooled = probe(
        torch.stack([summary(encoded) for encoded in train]),
        labels,
        torch.stack([summary(encoded) for encoded in held_out]),
        truth,
    )
    train_frames, held_out_frames = (
        [some_frames(encoded, i) for i, encoded in enumerate(of)] for of in (train, held_out)
    )
    counts = [len(frames) for frames in held_out_frames]
    single = probe(
        torch.cat(train_frames),
        labels.repeat_interleave(torch.tensor([len(frames) for frames in train_frames])),
        torch.cat(held_out_frames),
        truth.repeat_interleave(torch.tensor(counts)),
    )
    shares = torch.stack([right.double().mean() for right in single.split(counts)])
    return Leak(mean_interval(pooled.double().numpy(), places), mean_interval(shares.numpy(), places))


def summary(encoded: CodeFrames) -> Float[Tensor, " two_channels"]:
    """Mean and deviation over the audible frames, one after the other."""
    frames = encoded.frames[encoded.audible].float()
    return torch.cat([frames.mean(0), frames.std(0, correction=0)])


def some_frames(encoded: CodeFrames, seed: int) -> Float[Tensor, "chosen channels"]:
    """Some of the audible frames, always the same ones."""
    frames = encoded.frames[encoded.audible].float()
    chosen = np.random.default_rng(seed).permutation(len(frames))[:FRAMES_EACH]
    return frames[torch.from_numpy(chosen)]


def probe(
    train: Vectors, labels: Labels, held_out: Float[Tensor, "held_out dim"], truth: Int[Tensor, " held_out"]
) -> Bool[Tensor, " held_out"]:
    """Teach a linear probe (logistic regression); return where it is right about what it never saw."""
    mean, deviation = train.mean(0), train.std(0).clamp_min(1e-5)
    train, held_out = (train - mean) / deviation, (held_out - mean) / deviation
    n_speakers = int(labels.max()) + 1
    # From zero, since what the speakers do not differ in would keep its random weights.
    weight = torch.zeros(n_speakers, train.shape[1], requires_grad=True)
    bias = torch.zeros(n_speakers, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(train, weight, bias), labels) + PENALTY * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        return F.linear(held_out, weight, bias).argmax(-1) == truth
