"""Scores of several converters on the same pairs, computed with ``eval``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, kw_only=True)
class Scoring:
    out: Path
    """Folder for outputs, rows.csv, summary.json and pairs.csv."""
    metrics: Sequence[Metric] = METRICS
    judges: Judges | None = None
    cache: Cache
    jobs: int = 1

    def score(self, outputs: Sequence[Pair]) -> tuple[list[Row], Summary]:
        rows, summary = score_pairs(
            outputs, self.metrics, judges=self.judges, cache=self.cache, jobs=self.jobs
        )
        write_pairs(self.out / "pairs.csv", outputs)
        about = {"pairs": len({(p.source, p.target) for p in outputs})}
        write_results(self.out, rows, summary, about)
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
    systems = dict.fromkeys(str(row["system"]) for row in rows)
    by_system = {name: [row for row in rows if row["system"] == name] for name in systems}
    ours = by_system.pop(base, [])
    differences: Summary = {}
    for name, theirs in by_system.items():
        if len(theirs) != len(ours):
            continue
        for column in SCORES:
            if all(column in row for row in (*ours, *theirs)):
                gaps = np.array([float(a[column]) - float(b[column]) for a, b in zip(ours, theirs)])
                gaps = gaps[~np.isnan(gaps)]
                if len(gaps):
                    differences.setdefault(name, {})[column] = interval(gaps)
    return differences


def cells(scores: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> list[str]:
    return [SCORES[name][1].format(scores[name]["mean"]) if name in scores else "–" for name in columns]


def interval_cells(scores: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> list[str]:
    """Format means with their 95 % intervals."""
    ours = []
    for name in columns:
        form = SCORES[name][1].format
        known = [form(scores[name][of]) for of in ("mean", "low", "high")] if name in scores else []
        ours.append(f"{known[0]} [{known[1]}, {known[2]}]" if known else "–")
    return ours
