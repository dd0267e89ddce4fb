"""What the roads' outputs are worth: the same pairs by every road, judged together; differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eval import pitch
from eval.baselines import BASELINES, TOPLINES, toplines_and_baselines
from eval.cache import Cache
from eval.hearing import hear
from eval.outputs import Voices, make_outputs
from eval.pairs import Pair, fixed_pairs, write_pairs
from eval.report import write_rows, write_summary
from eval.scoring import FAST, METRICS, Row, Summary, interval, score_pairs
from experiments.mel_pipeline.report import OURS


def chosen_pairs(data: Path, count: int) -> list[Pair]:
    """Some of the fixed pairs, evenly spread."""
    listed = fixed_pairs(data)
    return [listed[i * len(listed) // count] for i in range(count)]


def outputs(
    pairs: Sequence[Pair], opened: Callable[[], Any], weights: Sequence[Path], out: Path, name: str
) -> list[Pair]:
    """Every pair's output in ``out/name``; made again only where weights are newer."""
    files = [out / name / f"{number:03d}.wav" for number in range(len(pairs))]
    since = max(file.stat().st_mtime for file in weights)
    if all(file.is_file() and file.stat().st_mtime >= since for file in files):
        return [replace(pair, system=name, output=file) for pair, file in zip(pairs, files)]
    return make_outputs(pairs, Voices(opened()), out, name)


def scores(
    made: Sequence[Pair], pairs: Sequence[Pair], out: Path, cache: Cache, *, fast: bool, jobs: int
) -> tuple[list[Row], Summary]:
    """Scores of the outputs, and of toplines and trivial baselines, left beside them as CSV and JSON."""
    originals = sorted({path for pair in pairs for path in (pair.source, pair.target)})
    heard = hear(
        [(path, [pitch.Pitch()]) for path in originals], cache, jobs=jobs, title="pitch of originals"
    )
    scored = [*made, *toplines_and_baselines(pairs, out, cache, heard)]
    rows, summary = score_pairs(scored, FAST if fast else METRICS, cache=cache, jobs=jobs)
    write_pairs(out / "pairs.csv", scored)
    write_rows(out / "rows.csv", rows)
    write_summary(out / "summary.json", summary, {"pairs": len(pairs)})
    return rows, summary


def differences(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Wave-to-wave's scores less another system's, pair by pair: means with 95 % intervals, by system."""
    systems = dict.fromkeys(str(row["system"]) for row in rows)
    by_system = {name: [row for row in rows if row["system"] == name] for name in systems}
    ours = by_system.pop(OURS, [])
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, theirs in by_system.items():
        if len(theirs) != len(ours):
            continue
        for column in columns:
            if all(column in row for row in (*ours, *theirs)):
                gaps = np.array([float(a[column]) - float(b[column]) for a, b in zip(ours, theirs)])
                gaps = gaps[~np.isnan(gaps)]
                if len(gaps):
                    found.setdefault(name, {})[column] = interval(gaps)
    return found


def groups(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Toplines and baselines that were scored, with their names for readers."""
    named = [*TOPLINES.items(), *BASELINES.items()]
    return [(name, label) for name, label in named if name in summary]
