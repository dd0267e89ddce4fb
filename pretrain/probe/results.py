"""Results as rows: printed as a table, stored as CSV and JSON."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from engine.files import atomic
from engine.user_error import UserError
from pretrain.probe.scores import Interval


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure."""

    task: str
    data: str
    encoder: str
    """Whose figure it is: the table's column."""
    metric: str
    """What was counted: the table's line."""
    value: float
    low: float
    high: float
    """Bounds of the 95 % interval."""
    n: int
    """Clips tested."""
    seeds: int = 1
    """Trainings that the value is the mean of."""
    saw: str = ""
    """What the encoder and the probe were trained on."""


def results_of(scores: dict[str, Interval], **known) -> list[Result]:
    """Rows of several scores of one encoder."""
    return [
        Result(metric=metric, value=round(v, 6), low=round(low, 6), high=round(high, 6), **known)
        for metric, (v, low, high) in scores.items()
    ]


def table(results: Sequence[Result], *, transposed: bool = False) -> str:
    """Lines are metrics and columns encoders, or the other way round if ``transposed``."""
    cells = {(r.metric, r.encoder): f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in results}
    metrics, encoders = dict.fromkeys(r.metric for r in results), dict.fromkeys(r.encoder for r in results)
    if transposed:
        lines = [["", *metrics], *([e, *(cells.get((m, e), "") for m in metrics)] for e in encoders)]
    else:
        lines = [["", *encoders], *([m, *(cells.get((m, e), "") for e in encoders)] for m in metrics)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths)).rstrip() for line in lines)


def write_results(results: Sequence[Result], out: Path, name: str) -> None:
    """Write OUT/NAME.csv and OUT/NAME.json."""
    with atomic(out / f"{name}.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
    text = json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False)
    with atomic(out / f"{name}.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_results(out: Path, name: str) -> list[Result]:
    """The rows that OUT/NAME.json holds, none if there is no such file."""
    path = out / f"{name}.json"
    try:
        return (
            [Result(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
        )
    except (ValueError, TypeError, OSError):
        raise UserError(
            f"{path} holds no results of this probe: remove it, or write to another --out"
        ) from None


def report(
    results: Sequence[Result], out: Path, name: str, *, transposed: bool = False, keep: bool = False
) -> list[Result]:
    """Print the table, store the rows, say where; ``keep`` what is stored there of the same data.

    Returns all rows in the table.
    """
    if keep:
        new = {(r.data, r.encoder, r.metric) for r in results}
        old = [r for r in read_results(out, name) if r.data == results[0].data]
        results = [*(r for r in old if (r.data, r.encoder, r.metric) not in new), *results]
    write_results(results, out, name)
    print(table(results, transposed=transposed))
    print(f"\nrows: {out / name}.csv and .json")
    return list(results)
