"""Linear probes of a frozen code: phones, a recogniser's encoder features, and the speaker.

One speaker probe is trained on the code's mean and standard deviation over an utterance's audible frames,
another on single frames; both are tested on held-out utterances of the same speakers. Lower accuracy is
better for a code, provided it keeps the linguistic content; even a random code leaks the speaker.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from data.manifest import Row, rows_from
from engine.user_error import UserError
from eval.content_codes.codes import Code, CodeFrames
from pretrain.ctc_score import edit_distance
from pretrain.probe.fitting import fit_linear
from pretrain.probe.results import Interval, interval, mean_interval
from pretrain.teacher import at_times
from pretrain.units import PHONES, RecogniserOutput, greedy

BATCH = 16
"""Utterances per optimisation step of the phone probe (the batch size)."""
EPOCHS = 12


def phone_error(
    train: Sequence[tuple[CodeFrames, list[int]]],
    test: Sequence[tuple[CodeFrames, list[int]]],
    speakers: Sequence[str],
    *,
    epochs: int = EPOCHS,
) -> Interval:
    """Train a linear layer with CTC; return the phone error rate on the test utterances.

    Labels are phone tokens. The interval is over ``speakers``, those of the test utterances.
    """
    mean, deviation = moments([encoded.frames for encoded, _ in train])

    def inputs(encoded: CodeFrames) -> Float[Tensor, "frames channels"]:
        return (encoded.frames.float() - mean) / deviation

    net = train_ctc([inputs(encoded) for encoded, _ in train], [label for _, label in train], epochs)
    with torch.no_grad():
        outputs = [RecogniserOutput([], net(inputs(e)[None]).log_softmax(-1)) for e, _ in test]
    edits = np.array([edit_distance(label, greedy(out)[0]) for (_, label), out in zip(test, outputs)])
    phones = np.array([len(label) for _, label in test])
    return interval(lambda index: float(edits[index].sum() / phones[index].sum()), speakers)


def train_ctc(
    frames: Sequence[Float[Tensor, "_ channels"]], labels: Sequence[list[int]], epochs: int
) -> nn.Linear:
    """Train a linear layer with CTC; batches group utterances of similar length."""
    order = sorted(range(len(frames)), key=lambda i: len(frames[i]))
    groups = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = nn.Linear(frames[0].shape[1], len(PHONES) + 1)
        nn.init.zeros_(net.weight)
        optimiser = torch.optim.AdamW(net.parameters(), lr=2e-2, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(groups))
        for _ in range(epochs):
            for place in torch.randperm(len(groups)).tolist():
                chosen = groups[place]
                log_probs = net(pad_sequence([frames[i] for i in chosen])).log_softmax(-1)
                lengths = torch.tensor([len(frames[i]) for i in chosen])
                tokens = torch.tensor([token for i in chosen for token in labels[i]])
                counts = torch.tensor([len(labels[i]) for i in chosen])
                loss = F.ctc_loss(log_probs, tokens, lengths, counts, reduction="sum", zero_infinity=True)
                optimiser.zero_grad()
                (loss / counts.sum()).backward()
                optimiser.step()
                schedule.step()
    return net.requires_grad_(False)


def moments(
    frames: Sequence[Float[Tensor, "_ channels"]],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    count = sum(len(one) for one in frames)
    mean = torch.stack([one.double().sum(0) for one in frames]).sum(0) / count
    square = torch.stack([one.double().square().sum(0) for one in frames]).sum(0) / count
    return mean.float(), (square - mean.square()).clamp_min(1e-10).sqrt().float()


RIDGE = 1e-3
"""Ridge penalty per frame on the map's weights, for channels of unit variance."""


def agreement(
    code: Code,
    teacher: Code,
    train: Sequence[tuple[CodeFrames, CodeFrames]],
    test: Sequence[tuple[CodeFrames, CodeFrames]],
    speakers: Sequence[str],
) -> Interval:
    """Mean cosine, over audible frames, between the teacher's features and a linear map of the code.

    Utterances are given as encoded by the code and by the teacher. The map is a ridge regression fitted on
    the training utterances. The interval is over ``speakers``, those of the test utterances.
    """
    mean, deviation = moments([encoded.frames for encoded, _ in train])

    def inputs(encoded: CodeFrames, truth: CodeFrames) -> Float[Tensor, "frames inputs"]:
        aligned = at_teachers(code, encoded, teacher, len(truth.frames))
        return F.pad((aligned - mean) / deviation, (0, 1), value=1.0).double()

    dim = len(mean) + 1
    gram = torch.zeros(dim, dim, dtype=torch.float64)
    cross = torch.zeros(dim, train[0][1].frames.shape[1], dtype=torch.float64)
    count = 0
    for encoded, truth in train:
        x, y = inputs(encoded, truth)[truth.audible], truth.frames[truth.audible].double()
        gram, cross, count = gram + x.T @ x, cross + x.T @ y, count + len(x)
    weights = torch.linalg.solve(gram + RIDGE * count * torch.eye(dim, dtype=torch.float64), cross)
    scores = []
    for encoded, truth in test:
        guess = inputs(encoded, truth)[truth.audible] @ weights
        cosine = F.cosine_similarity(guess, truth.frames[truth.audible].double(), dim=-1)
        scores.append(float(cosine.mean()))
    return mean_interval(np.array(scores), speakers)


def at_teachers(
    code: Code, encoded: CodeFrames, teacher: Code, n_frames: int
) -> Float[Tensor, "teacher_frames channels"]:
    seconds = (torch.arange(n_frames) * teacher.hop + teacher.offset) / teacher.sample_rate
    places = (seconds * code.sample_rate - code.offset) / code.hop
    return at_times(encoded.frames.T[None].float(), places)[0].T


FRAMES_EACH = 50
"""Maximum frames per utterance for training and testing the frame probe."""
PENALTY = 2e-3
"""Penalty on the speaker probes' weights; see :func:`pretrain.probe.fitting.fit_linear`."""


class Leak(NamedTuple):
    """Accuracy of linear speaker identification from a code."""

    pooled: Interval
    """Accuracy over held-out utterances, from their pooled frames."""
    single: Interval
    """Accuracy over single frames of held-out utterances."""


class Utterances(NamedTuple):
    train: list[Row]
    held_out: list[Row]
    speakers: list[str]

    @property
    def chance(self) -> float:
        return 1 / len(self.speakers)


def utterances(data: Path | str, *, per_speaker: int = 0) -> Utterances:
    """Choose speakers with at least two utterances in the train split and one in the validation split.

    ``per_speaker`` is the maximum number of training utterances per speaker; 0: all.
    """
    by_split: dict[str, dict[str, list[Row]]] = {"train": {}, "validation": {}}
    for row in sorted(rows_from(data), key=lambda row: row.path.as_posix()):
        if row.speaker and row.split in by_split:
            by_split[row.split].setdefault(row.speaker, []).append(row)
    train, held_out = by_split["train"], by_split["validation"]
    speakers = sorted(name for name in held_out if len(train.get(name, ())) >= 2)
    if len(speakers) < 2:
        raise UserError(
            f"{data}: the speaker probe needs two speakers with two utterances in split train and one in "
            f"validation, but found {len(speakers)}: add speaker and split columns to its manifest"
        )
    drawn = []
    for number, name in enumerate(speakers):
        order = np.random.default_rng([0, number]).permutation(len(train[name]))
        drawn += [train[name][i] for i in order[: per_speaker or None]]
    return Utterances(drawn, [row for name in speakers for row in held_out[name]], speakers)


def speaker_leakage(rows: Utterances, train: Sequence[CodeFrames], held_out: Sequence[CodeFrames]) -> Leak:
    number = {name: label for label, name in enumerate(rows.speakers)}
    labels, truth = (
        torch.tensor([number[row.speaker or ""] for row in part]) for part in (rows.train, rows.held_out)
    )
    places = [row.path.as_posix() for row in rows.held_out]
    x, y = (torch.stack([summary(encoded) for encoded in of]) for of in (train, held_out))
    pooled = fit_linear(x, labels, penalty=PENALTY)(y) == truth
    x, y = ([some_frames(encoded, i) for i, encoded in enumerate(of)] for of in (train, held_out))
    counts, held_out_counts = (torch.tensor([len(frames) for frames in of]) for of in (x, y))
    speaker_of = fit_linear(torch.cat(x), labels.repeat_interleave(counts), penalty=PENALTY)
    single = speaker_of(torch.cat(y)) == truth.repeat_interleave(held_out_counts)
    shares = torch.stack([right.double().mean() for right in single.split(held_out_counts.tolist())])
    return Leak(mean_interval(pooled.double().numpy(), places), mean_interval(shares.numpy(), places))


def summary(encoded: CodeFrames) -> Float[Tensor, " two_channels"]:
    frames = encoded.frames[encoded.audible].float()
    return torch.cat([frames.mean(0), frames.std(0, correction=0)])


def some_frames(encoded: CodeFrames, seed: int) -> Float[Tensor, "chosen channels"]:
    """Sample up to ``FRAMES_EACH`` audible frames with a fixed seed."""
    frames = encoded.frames[encoded.audible].float()
    chosen = np.random.default_rng(seed).permutation(len(frames))[:FRAMES_EACH]
    return frames[torch.from_numpy(chosen)]
