"""Labels from frozen embeddings: ``python -m pretrain.probe classification --encoder E --data D``.

A 2-layer perceptron is trained on the ``train`` clips, stopped by the ``validation`` clips and scored on the
``test`` clips, several times with other seeds. The manifest has columns ``path``, ``label`` and ``split``; a
label ``dog;rain`` makes the task multi-label (mean average precision and macro AUC, else accuracy and macro
F1). ESC-50 and UrbanSound8K are read as they come, their last folds as validation and test.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pretrain.probe.clips import Clip, clips_from, is_multi_label, label_names, of_split, with_splits
from pretrain.probe.listener import Listener
from pretrain.probe.options import (
    checked_seeds,
    label_arguments,
    listener,
    opened_embedders,
    probe_arguments,
    seed_arguments,
)
from pretrain.probe.perceptron import PerceptronConfig, fit_perceptron
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.scores import Interval, multi_label_scores, single_label_scores


def targets_of(clips: Sequence[Clip], names: Sequence[str]) -> Float[Tensor, "clips n_classes"]:
    """1 where a clip bears a label."""
    place = {name: i for i, name in enumerate(names)}
    targets = torch.zeros(len(clips), len(names))
    for row, clip in enumerate(clips):
        targets[row, [place[label] for label in clip.labels]] = 1.0
    return targets


def classify(
    ear: Listener,
    train: Sequence[Clip],
    validation: Sequence[Clip],
    test: Sequence[Clip],
    names: Sequence[str],
    *,
    multi_label: bool,
    seeds: Sequence[int],
    config: PerceptronConfig | None = None,
) -> list[Float[Tensor, "clips n_classes"]]:
    """Logits of the test clips, once a seed."""
    heard = [
        (ear.hear([clip.path for clip in part]), targets_of(part, names)) for part in (train, validation)
    ]
    asked = ear.hear([clip.path for clip in test])
    return [
        fit_perceptron(heard[0], heard[1], multi_label=multi_label, seed=seed, config=config)(asked)
        for seed in seeds
    ]


def label_scores(
    logits: Sequence[Tensor], test: Sequence[Clip], names: Sequence[str], *, multi_label: bool
) -> dict[str, Interval]:
    """The scores that fit the labels, with intervals over the recordings."""
    truth, groups = targets_of(test, names), [clip.recording or str(clip.path) for clip in test]
    if multi_label:
        return multi_label_scores(logits, truth, groups)
    return single_label_scores(logits, truth.argmax(1), groups)


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Classify by one or several frozen encoders."""
    parser = probe_arguments("classification", __doc__)
    label_arguments(parser)
    seed_arguments(parser)
    words = parser.parse_args(argv)
    clips = with_splits(clips_from(words.data, words.label), words.data)
    names, multi_label, seeds = label_names(clips), is_multi_label(clips), checked_seeds(words.seeds)
    train, validation, test = (of_split(clips, s, words.data) for s in ("train", "validation", "test"))
    results: list[Result] = []
    for embedder in opened_embedders(words):
        ear = listener(embedder, words)
        logits = classify(ear, train, validation, test, names, multi_label=multi_label, seeds=seeds)
        known = {"task": "classification", "data": Path(words.data).name, "encoder": embedder.name}
        scores = label_scores(logits, test, names, multi_label=multi_label)
        results += results_of(scores, **known, n=len(test), seeds=len(seeds))
    print(
        f"{len(train)} clips to train, {len(validation)} to stop by, {len(test)} tested, {len(names)} labels"
    )
    report(results, words.out, "classification")
    return results
