"""What the tasks count, with bootstrap intervals over the test's recordings."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from engine.user_error import UserError

N_RESAMPLES, SEED = 1000, 20_211_017

Interval = tuple[float, float, float]
"""Value, and the bounds of its 95 % interval."""


def interval(
    score: Callable[[np.ndarray], float],
    groups: Sequence[str],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """``score`` of all clips' indices, and its percentile bootstrap's bounds.

    Whole groups are drawn: clips cut from one recording are no independent witnesses.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    clusters = [np.array(indices) for indices in members.values()]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(n_resamples):
        chosen = rng.integers(len(clusters), size=len(clusters))
        drawn.append(score(np.concatenate([clusters[i] for i in chosen])))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return score(np.arange(len(groups))), float(low), float(high)


def mean_interval(values: np.ndarray, groups: Sequence[str]) -> Interval:
    """The mean of one value a clip (or its mean over seeds), and its bounds."""
    return interval(lambda index: float(values[index].mean()), groups)


def macro_f1(predicted: Int[np.ndarray, "clips"], truth: Int[np.ndarray, "clips"], n_classes: int) -> float:
    """Mean over the classes that occur of 2 · hits / (predicted + true)."""
    hits = np.bincount(truth[predicted == truth], minlength=n_classes)
    total = np.bincount(predicted, minlength=n_classes) + np.bincount(truth, minlength=n_classes)
    return float((2 * hits[total > 0] / total[total > 0]).mean())


def single_label_scores(
    logits: Sequence[Float[Tensor, "clips n_classes"]], truth: Int[Tensor, "clips"], groups: Sequence[str]
) -> dict[str, Interval]:
    """Accuracy and macro F1, as means over the seeds that ``logits`` come from."""
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
    n_resamples: int = 200,
) -> dict[str, Interval]:
    """Mean average precision and macro AUC, as means over seeds; classes that the test lacks do not count."""
    try:
        from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision
    except ImportError:
        raise UserError("multi-label scores need torchmetrics: pip install 'timbre[probes]'") from None

    def scored(metric: Callable[..., Tensor]) -> Interval:
        def score(index: np.ndarray) -> float:
            chosen = truth[index].long()
            (kept,) = torch.nonzero((chosen.sum(0) > 0) & (chosen.sum(0) < len(chosen)), as_tuple=True)
            if not len(kept):
                return float("nan")
            if len(kept) == 1:  # torchmetrics wants two labels at least: the mean of twice the same
                kept = kept.repeat(2)
            known = {"num_labels": len(kept), "average": "macro"}
            values = [metric(one[index][:, kept].sigmoid(), chosen[:, kept], **known) for one in logits]
            return float(torch.stack(values).mean())

        return interval(score, groups, n_resamples=n_resamples)

    return {"mAP": scored(multilabel_average_precision), "macro AUC": scored(multilabel_auroc)}
