"""Results of all probes: bootstrap confidence intervals, a CSV file and printed tables."""

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from engine.files import atomic
from engine.table import table
from engine.user_error import UserError

FILE = "results.csv"
"""File name in the folder ``--out``."""
N_RESAMPLES, SEED = 1000, 20_211_017

Interval = tuple[float, float, float]
"""A value and the bounds of its 95 % confidence interval."""


@dataclass(frozen=True, kw_only=True)
class Result:
    task: str
    data: str
    encoder: str
    """Name of the encoder or method."""
    metric: str
    value: float
    low: float
    """Lower bound of the 95 % confidence interval."""
    high: float
    """Upper bound of the 95 % confidence interval."""
    n: int
    """Number of test clips."""
    seeds: int = 1
    """Number of training runs that the value is averaged over."""
    trained_on: str = ""
    """Training data of the encoder and the probe."""


def interval(
    score: Callable[[np.ndarray], float], groups: Sequence[str], *, n_resamples: int = N_RESAMPLES
) -> Interval:
    """Return ``score`` of the indices of all clips, with the bounds of a percentile bootstrap.

    Whole groups are resampled, since clips from one recording are not independent.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    clusters = [np.array(indices) for indices in members.values()]
    rng = np.random.default_rng(SEED)
    chosen = (rng.integers(len(clusters), size=len(clusters)) for _ in range(n_resamples))
    drawn = [score(np.concatenate([clusters[i] for i in one])) for one in chosen]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return score(np.arange(len(groups))), float(low), float(high)


def mean_interval(values: np.ndarray, groups: Sequence[str]) -> Interval:
    """Return the mean of one value per clip, ignoring NaN, and its bounds."""
    return interval(lambda index: float(np.nanmean(values[index])), groups)


def results_of(scores: Mapping[str, Interval], **known) -> list[Result]:
    return [
        Result(metric=metric, value=round(v, 6), low=round(low, 6), high=round(high, 6), **known)
        for metric, (v, low, high) in scores.items()
    ]


def report(results: Sequence[Result], out: Path) -> list[Result]:
    """Print tables of the results and add them to OUT/results.csv.

    Existing rows are kept, except those of the same task, data, encoder and metric.
    """
    new = {(r.task, r.data, r.encoder, r.metric) for r in results}
    stored = [r for r in read_results(out) if (r.task, r.data, r.encoder, r.metric) not in new]
    rows = [*stored, *results]
    with atomic(out / FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    for task, data in dict.fromkeys((r.task, r.data) for r in results):
        print(f"\n{task}, {data}")
        print(results_table([r for r in rows if (r.task, r.data) == (task, data)]))
    print(f"\nrows: {out / FILE}")
    return rows


def read_results(out: Path) -> list[Result]:
    """Return the rows of OUT/results.csv; none if the file does not exist."""
    path, kinds = out / FILE, {f.name: f.type for f in fields(Result)}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: kinds[name](cell) for name, cell in row.items()} for row in csv.DictReader(file)]  # pyright: ignore[reportCallIssue]
        return [Result(**row) for row in rows]
    except FileNotFoundError:
        return []
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} has no results of probes: remove it, or choose another --out") from None


def results_table(results: Sequence[Result]) -> str:
    """Return a table of metrics (rows) by encoders, or transposed if there are more encoders."""
    cells = {(r.metric, r.encoder): f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in results}
    metrics, encoders = dict.fromkeys(r.metric for r in results), dict.fromkeys(r.encoder for r in results)
    lines = [["", *encoders], *([m, *(cells.get((m, e), "") for e in encoders)] for m in metrics)]
    if len(encoders) > len(metrics):
        lines = list(zip(*lines))
    return table(lines[0], lines[1:], left=len(lines[0]))


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, Interval]]], path: Path, *, x: str, y: str, log: bool = False
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        places, (values, low, high) = [p for p, _ in points], zip(*(v for _, v in points))
        (line,) = axes.plot(places, values, marker="o", markersize=4, label=name)
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.12)
    axes.set(xlabel=x, ylabel=y, xscale="log" if log else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"curves: {path}")
