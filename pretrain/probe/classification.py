"""Classification of frozen embeddings, with all or a fraction of the labels.

``classification`` trains a 2-layer perceptron on the ``train`` clips with early stopping by the
``validation`` clips, and scores the ``test`` clips, averaged over seeds. The manifest has columns ``path``,
``label`` and ``split``; labels such as ``dog;rain`` make the task multi-label (mean average precision and
macro AUC, otherwise accuracy and macro F1). ESC-50 and UrbanSound8K are read as published, with the last two
folds as validation and test.

``low_data`` uses 1, 5, 10, 25, 50 and 100 % of the labels (at least one clip per class), also for validation.
The seed determines the clips; smaller fractions are subsets of larger ones. It also plots OUT/low_data.png.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from engine.user_error import UserError
from pretrain.probe.clips import Clip, clips_from, is_multi_label, label_names, splits_of, targets_of
from pretrain.probe.fitting import fit_perceptron
from pretrain.probe.harness import Embeddings, Probe, embedders_of, embeddings_of, readable
from pretrain.probe.results import N_RESAMPLES, Interval, Result, draw_curves, interval, mean_interval

SHARES = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0)
"""Default percentages of the labels."""


def classify(
    embeddings: Embeddings,
    parts: tuple[Sequence[Clip], Sequence[Clip], Sequence[Clip]],
    names: Sequence[str],
    *,
    seeds: Sequence[int],
    multi_label: bool = False,
) -> list[Float[Tensor, "clips n_classes"]]:
    """Train on the first part with early stopping by the second; return each seed's logits of the third."""
    train, validation, test = (embeddings.of([clip.path for clip in part]) for part in parts)
    known = (train, targets_of(parts[0], names)), (validation, targets_of(parts[1], names))
    return [fit_perceptron(*known, multi_label=multi_label, seed=seed)(test) for seed in seeds]


def label_scores(
    logits: Sequence[Tensor], test: Sequence[Clip], names: Sequence[str], *, multi_label: bool = False
) -> dict[str, Interval]:
    truth, groups = targets_of(test, names), [clip.group for clip in test]
    if multi_label:
        return multi_label_scores(logits, truth, groups)
    return single_label_scores(logits, truth.argmax(1), groups)


def macro_f1(predicted: Int[np.ndarray, "clips"], truth: Int[np.ndarray, "clips"], n_classes: int) -> float:
    """Return 2 · hits / (predicted + true), averaged over the classes that occur."""
    hits = np.bincount(truth[predicted == truth], minlength=n_classes)
    total = np.bincount(predicted, minlength=n_classes) + np.bincount(truth, minlength=n_classes)
    return float((2 * hits[total > 0] / total[total > 0]).mean())


def single_label_scores(
    logits: Sequence[Float[Tensor, "clips n_classes"]], truth: Int[Tensor, "clips"], groups: Sequence[str]
) -> dict[str, Interval]:
    """Return accuracy and macro F1, averaged over seeds (one item of ``logits`` each)."""
    answers, true, n_classes = [one.argmax(1).numpy() for one in logits], truth.numpy(), logits[0].shape[1]
    right = np.mean([answer == true for answer in answers], axis=0)

    def f1(index: np.ndarray) -> float:
        return float(np.mean([macro_f1(answer[index], true[index], n_classes) for answer in answers]))

    return {"accuracy": mean_interval(right, groups), "macro F1": interval(f1, groups)}


def multi_label_scores(
    logits: Sequence[Float[Tensor, "clips n_classes"]],
    truth: Float[Tensor, "clips n_classes"],
    groups: Sequence[str],
    *,
    n_resamples: int = N_RESAMPLES // 5,
) -> dict[str, Interval]:
    """Return mean average precision and macro AUC over the test set's classes, averaged over seeds."""
    from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision

    def scored(metric: Callable[..., Tensor]) -> Interval:
        def score(index: np.ndarray) -> float:
            chosen = truth[index].long()
            (classes,) = torch.nonzero((chosen.sum(0) > 0) & (chosen.sum(0) < len(chosen)), as_tuple=True)
            if not len(classes):
                return float("nan")
            if len(classes) == 1:  # torchmetrics needs two labels; duplicating does not change the mean
                classes = classes.repeat(2)
            known = {"num_labels": len(classes), "average": "macro"}
            values = [metric(one[index][:, classes].sigmoid(), chosen[:, classes], **known) for one in logits]
            return float(torch.stack(values).mean())

        return interval(score, groups, n_resamples=n_resamples)

    return {"mAP": scored(multilabel_average_precision), "macro AUC": scored(multilabel_auroc)}


def some_of(clips: Sequence[Clip], percent: float, seed: int) -> list[Clip]:
    """Return a fraction of each class' clips, at least one; with equal seeds, smaller ones are subsets."""
    rng, chosen = np.random.default_rng(seed), []
    for name in sorted({clip.labels[0] for clip in clips}):
        members = [i for i, clip in enumerate(clips) if clip.labels[0] == name]
        chosen += rng.permutation(members)[: max(1, round(len(members) * percent / 100))].tolist()
    return [clips[i] for i in sorted(chosen)]


def run_classification(args: argparse.Namespace) -> list[Result]:
    clips = readable(clips_from(args.data, args.label), args)
    names, multi_label = label_names(clips), is_multi_label(clips)
    train, validation, test = splits_of(clips, args.data)
    results: list[Result] = []
    for embedder in embedders_of(args):
        embeddings, seeds = embeddings_of(embedder, args), range(args.seeds)
        logits = classify(embeddings, (train, validation, test), names, seeds=seeds, multi_label=multi_label)
        scores = label_scores(logits, test, names, multi_label=multi_label)
        results += args.rows(scores, encoder=embedder.name, n=len(test), seeds=args.seeds)
    print(f"{len(train)} training, {len(validation)} validation, {len(test)} test clips, {len(names)} labels")
    return results


def run_low_data(args: argparse.Namespace) -> list[Result]:
    shares = sorted(set(args.share or SHARES))
    if wrong := [share for share in shares if not 0 < share <= 100]:
        raise UserError(f"--share {wrong[0]:g} must be above 0 and at most 100 percent")
    clips = readable(clips_from(args.data, args.label), args)
    names, multi_label, metric = label_names(clips), is_multi_label(clips), ""
    train, validation, test = splits_of(clips, args.data)
    results: list[Result] = []
    curves: dict[str, list[tuple[float, Interval]]] = {}
    for embedder in embedders_of(args):
        embeddings = embeddings_of(embedder, args)
        for percent in tqdm(shares, desc=f"shares of {embedder.name}", delay=2.0, leave=False):
            logits: list[Tensor] = []
            for seed in range(args.seeds):
                parts = some_of(train, percent, seed), some_of(validation, percent, seed), test
                logits += classify(embeddings, parts, names, seeds=[seed], multi_label=multi_label)
            metric, value = next(iter(label_scores(logits, test, names, multi_label=multi_label).items()))
            curves.setdefault(embedder.name, []).append((percent, value))
            about = {"seeds": args.seeds, "trained_on": f"{len(some_of(train, percent, 0))} labelled clips"}
            named = {f"{metric} at {percent:g} %": value}
            results += args.rows(named, encoder=embedder.name, n=len(test), **about)
    draw_curves(curves, args.out / "low_data.png", x="% of the labels", y=metric, log=True)
    return results


SHARE = {"type": float, "action": "append", "default": [], "help": "percent of the labels; repeat (1 … 100)"}
OPTIONS = {"--label": {}, "--seeds": {}}
classification = Probe("classification", __doc__, run_classification, OPTIONS)
low_data = Probe("low_data", __doc__, run_low_data, OPTIONS | {"--share": SHARE})
