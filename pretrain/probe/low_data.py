"""Classification with few labels: ``python -m pretrain.probe low_data --encoder A --encoder B --data D``.

The perceptron of ``classification`` with 1, 5, 10, 25, 50 and 100 % of the labels (at least one clip of
every class), for each encoder, beside a small network trained from random weights on the same clips
(``--supervised``). A seed chooses the clips, the fewer among the more; the clips that stop the training are
as few. Prints a table, and draws OUT/low_data.png.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from engine.user_error import UserError
from pretrain.probe.classification import classify, label_scores, targets_of
from pretrain.probe.clips import Clip, clips_from, is_multi_label, label_names, of_split, with_splits
from pretrain.probe.embedders import Clip2Vec
from pretrain.probe.options import (
    checked_seeds,
    label_arguments,
    listener,
    opened_embedders,
    probe_arguments,
    seed_arguments,
)
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.small_encoder import train_on_labels

SHARES = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0)
"""Percent of the labels."""

Answer = Callable[[list[Clip], list[Clip], int], Tensor]
"""Logits of the test clips after training on some clips, stopping by others, with a seed."""


def some_of(clips: Sequence[Clip], percent: float, seed: int) -> list[Clip]:
    """A share of each class' clips, at least one; a larger share of the same seed holds the smaller."""
    rng, chosen = np.random.default_rng(seed), []
    for name in label_names(clips):
        own = [i for i, clip in enumerate(clips) if clip.labels[0] == name]
        if own:
            n_kept = max(1, round(len(own) * percent / 100))
            chosen += rng.permutation(own)[:n_kept].tolist()
    return [clips[i] for i in sorted(chosen)]


def curve(
    answer: Answer,
    parts: tuple[list[Clip], list[Clip], list[Clip]],
    names: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
    **known,
) -> list[Result]:
    """One encoder's results over the shares."""
    train, validation, test = parts
    multi_label, results = is_multi_label([*train, *validation, *test]), []
    for percent in tqdm(shares, desc=f"shares of {known['encoder']}", delay=2.0, leave=False):
        logits = [
            answer(some_of(train, percent, seed), some_of(validation, percent, seed), seed) for seed in seeds
        ]
        metric, value = next(iter(label_scores(logits, test, names, multi_label=multi_label).items()))
        n_train = len(some_of(train, percent, seeds[0]))
        named = {f"{metric} at {percent:g} %": value}
        results += results_of(named, **known, n=len(test), seeds=len(seeds), saw=f"{n_train} labelled clips")
    return results


def draw(results: Sequence[Result], path: Path) -> None:
    """Plot the curves, with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for encoder in dict.fromkeys(r.encoder for r in results):
        own = [r for r in results if r.encoder == encoder]
        x = [float(r.metric.split(" at ")[1].split()[0]) for r in own]
        (line,) = axes.plot(x, [r.value for r in own], marker="o", markersize=4, label=encoder)
        axes.fill_between(x, [r.low for r in own], [r.high for r in own], color=line.get_color(), alpha=0.12)
    ticks = sorted({float(r.metric.split(" at ")[1].split()[0]) for r in results})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("share of the labels")
    axes.set_ylabel(results[0].metric.split(" at ")[0])
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def shares_of(words: argparse.Namespace) -> list[float]:
    """The percentages that ``--share`` names, increasing."""
    shares = sorted(set(words.share or SHARES))
    wrong = [share for share in shares if not 0 < share <= 100]
    if wrong:
        raise UserError(f"--share {wrong[0]:g} must be above 0 and at most 100 percent")
    return shares


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Draw the curve of one or several encoders."""
    parser = probe_arguments("low_data", __doc__)
    label_arguments(parser)
    seed_arguments(parser)
    parser.add_argument(
        "--share", type=float, action="append", help="percent of the labels; repeat (1 … 100)"
    )
    parser.add_argument("--supervised", action="store_true", help="train a network from random weights too")
    words = parser.parse_args(argv)
    shares, seeds = shares_of(words), checked_seeds(words.seeds)
    clips = with_splits(clips_from(words.data, words.label), words.data)
    names, multi_label = label_names(clips), is_multi_label(clips)
    if multi_label and words.supervised:
        raise UserError(f"--supervised needs one label a clip, and {words.data} has several: leave it out")
    train, validation, test = (of_split(clips, s, words.data) for s in ("train", "validation", "test"))
    known = {"task": "low_data", "data": Path(words.data).name}
    results: list[Result] = []
    for embedder in opened_embedders(words):
        ear = listener(embedder, words)

        def frozen(some: list[Clip], held: list[Clip], seed: int, ear=ear) -> Tensor:
            return classify(ear, some, held, test, names, multi_label=multi_label, seeds=[seed])[0]

        mine = {**known, "encoder": embedder.name}
        results += curve(frozen, (train, validation, test), names, shares, seeds, **mine)
    if words.supervised:

        def trained(some: list[Clip], held: list[Clip], seed: int) -> Tensor:
            heard = [([clip.path for clip in part], targets_of(part, names)) for part in (some, held)]
            encoder, head = train_on_labels(heard[0], heard[1], seed=seed, about=f"{len(some)} clips")
            return head(listener(Clip2Vec("supervised", encoder), words).hear([clip.path for clip in test]))

        mine = {**known, "encoder": "supervised"}
        results += curve(trained, (train, validation, test), names, shares, seeds, **mine)
    shown = report(results, words.out, "low_data", keep=True)
    draw(shown, words.out / "low_data.png")
    print(f"curves: {words.out / 'low_data.png'}")
    return results
