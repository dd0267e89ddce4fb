"""What copy-synthesis leaves: rows.csv, summary.json, a Markdown table and a picture of mels."""

import csv
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.audio import load
from data.frontends import SPEECH_16K, LogMel
from engine.user_error import UserError
from eval.scoring import N_RESAMPLES, SEED

Row = dict[str, str | float]
Summary = dict[str, dict[str, dict[str, float]]]
"""By system, then column: mean, bounds low and high of its 95 % interval, and n, the rows with a value."""

ORIGINAL = "original"
COLUMNS = {
    "log_mel_l1": ("log-mel L1 ↓", 3),
    "stft_distance": ("MR-STFT ↓", 3),
    "pesq": ("PESQ ↑", 2),
    "periodicity_error": ("periodicity RMSE ↓", 3),
    "vuv_f1": ("V/UV F1 ↑", 3),
    "pitch_error": ("pitch, cents ↓", 0),
    "dnsmos": ("DNSMOS ↑", 2),
    "real_time_factor": ("real-time factor ↓", 3),
}
"""What is shown of each score, and its decimals."""
SHOWN_SECONDS = 3.0


def summarise(rows: Sequence[Row]) -> Summary:
    """Means per system, with bootstrap 95 % intervals over speakers, seeded."""
    summary: Summary = {}
    for system in dict.fromkeys(str(row["system"]) for row in rows):
        own = [row for row in rows if row["system"] == system]
        speakers = np.array([str(row["speaker"]) for row in own])
        summary[system] = {}
        for column in COLUMNS:
            values = np.array([row.get(column, math.nan) for row in own], dtype=float)
            known = ~np.isnan(values)
            if known.any():
                summary[system][column] = speaker_interval(values[known], speakers[known])
    return summary


def speaker_interval(values: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """The mean, and the percentile bootstrap's 95 % bounds where whole speakers are drawn."""
    names = np.unique(speakers)
    totals = np.array([values[speakers == name].sum() for name in names])
    counts = np.array([(speakers == name).sum() for name in names])
    drawn = np.random.default_rng(SEED).integers(len(names), size=(N_RESAMPLES, len(names)))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    found = {"mean": values.mean(), "low": low, "high": high}
    return {name: round(float(value), 6) for name, value in found.items()} | {"n": len(values)}


def table(summary: Summary) -> str:
    """Lay out means and intervals in Markdown."""
    columns = [name for name in COLUMNS if any(name in scores for scores in summary.values())]
    lines = [["", *(COLUMNS[name][0] for name in columns)]]
    for system, scores in summary.items():
        lines.append([system, *(_cell(scores.get(name), COLUMNS[name][1]) for name in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines
    )


def _cell(score: dict[str, float] | None, digits: int) -> str:
    if score is None:
        return "–"
    mean, low, high = (f"{score[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per copy; NaN is an empty cell, paths are relative to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        columns = ["system", "utterance", "speaker", *COLUMNS, "output"]
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells: dict[str, Any] = {
                name: "" if value != value else round(value, 6) if isinstance(value, float) else value
                for name, value in row.items()
            }
            cells["output"] = Path(os.path.relpath(str(row["output"]), path.parent)).as_posix()
            writer.writerow(cells)


def write_summary(path: Path, summary: Summary, about: dict[str, Any]) -> None:
    """Write means and intervals by system."""
    content = about | {"systems": summary}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def mel_pictures(path: Path, rows: Sequence[Row]) -> None:
    """Draw the log-mels of one utterance as the systems made it, one above the other, on one scale."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("mel pictures need matplotlib: pip install 'timbre[eval]'") from None
    rows = sorted(rows, key=lambda row: row["system"] != ORIGINAL)
    figure = Figure(figsize=(9, 1.8 * len(rows)), layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(len(rows), 1, sharex=True)))
    top = None
    for axis, row in zip(axes, rows):
        wave = load(str(row["output"]), SPEECH_16K.sample_rate)
        mel = LogMel(SPEECH_16K)(wave[..., : round(SHOWN_SECONDS * SPEECH_16K.sample_rate)])[0].numpy()
        top = mel.max() if top is None else top
        axis.imshow(mel, origin="lower", aspect="auto", cmap="magma", vmin=top - 9, vmax=top)
        axis.set_title(str(row["system"]), fontsize=9, loc="left")
        axis.set_yticks([])
    seconds = np.arange(SHOWN_SECONDS + 0.5)
    axes[-1].set_xticks(seconds * SPEECH_16K.frame_rate, [f"{s:g} s" for s in seconds])
    figure.savefig(path, dpi=110)
