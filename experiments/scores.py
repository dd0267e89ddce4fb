"""Scores of several converters on the same pairs, computed with ``eval``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from engine.user_error import UserError
from eval.features import Cache
from eval.outputs import Voices, make_outputs
from eval.pairs import Pair, fixed_pairs, write_pairs
from eval.report import write_results
from eval.scoring import METRICS, Judges, Metric, Row, Summary, interval, score_pairs

SCORES = {
    "cer": ("CER ↓", "{:.3f}"),
    "pocketsphinx_cer": ("CER, pocketsphinx ↓", "{:.3f}"),
    "cer_above_source": ("CER above source ↓", "{:+.3f}"),
    "to_target": ("to target ↑", "{:.3f}"),
    "to_source": ("to source ↓", "{:.3f}"),
    "nearer_to_target": ("nearer ↑", "{:.0%}"),
    "dnsmos": ("DNSMOS ↑", "{:.2f}"),
    "f0_distance": ("F0 off target, st ↓", "{:.2f}"),
    "f0_correlation": ("F0 correlation ↑", "{:.2f}"),
}
"""Table heading and number format of each score."""


def score(
    outputs: Sequence[Pair],
    out: Path,
    cache: Cache,
    *,
    metrics: Sequence[Metric] = METRICS,
    judges: Judges | None = None,
    jobs: int = 1,
) -> tuple[list[Row], Summary]:
    """Score outputs; write them to pairs.csv in ``out``, and their scores to rows.csv and summary.json."""
    rows, summary = score_pairs(outputs, metrics, judges=judges, cache=cache, jobs=jobs)
    write_pairs(out / "pairs.csv", outputs)
    write_results(out, rows, summary, {"pairs": len({(p.source, p.target) for p in outputs})})
    return rows, summary


def evaluation_pairs(data: Path, split: str, count: int) -> list[Pair]:
    """The first pairs of a split's fixed list, as with ``eval/run.py --n-pairs``."""
    if count < 1:
        raise UserError(f"--n-pairs {count} must be at least 1")
    return fixed_pairs(data, split, max_pairs=count)


def outputs(
    pairs: Sequence[Pair], load: Callable[[], Any], weights: Sequence[Path], out: Path, name: str
) -> list[Pair]:
    """Convert every pair into ``out/name``, unless all outputs are newer than the weights."""
    files = [out / name / f"{number:03d}.wav" for number in range(len(pairs))]
    newest = max(file.stat().st_mtime for file in weights)
    if all(file.is_file() and file.stat().st_mtime >= newest for file in files):
        return [replace(pair, system=name, output=file) for pair, file in zip(pairs, files)]
    return make_outputs(pairs, Voices(load()), out, name)


def differences(rows: Sequence[Row], base: str) -> Summary:
    """Paired differences of scores, base minus other system: means with 95 % intervals."""
    by_system: dict[str, list[Row]] = {}
    for row in rows:
        by_system.setdefault(str(row["system"]), []).append(row)
    ours = by_system.pop(base, [])
    differences: Summary = {}
    for name, theirs in by_system.items():
        if len(theirs) != len(ours):
            continue
        for column in SCORES:
            if not all(column in row for row in (*ours, *theirs)):
                continue
            gaps = [float(a[column]) - float(b[column]) for a, b in zip(ours, theirs)]
            if known := [gap for gap in gaps if not isnan(gap)]:
                differences.setdefault(name, {})[column] = interval(np.array(known))
    return differences


def cells(
    scores: Mapping[str, Mapping[str, float]], columns: Sequence[str], *, intervals: bool = False
) -> list[str]:
    """Format means, with their 95 % intervals if asked for."""

    def text(name: str) -> str:
        if name not in scores:
            return "–"
        mean, low, high = (SCORES[name][1].format(scores[name][of]) for of in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]" if intervals else mean

    return [text(name) for name in columns]
