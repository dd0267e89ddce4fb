"""Output of an evaluation: rows.csv, summary.json, report.html and a table for the terminal."""

import base64
import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import engine.table
from data.audio import load
from data.frontends import mel_png
from engine.files import write_json
from engine.user_error import UserError
from eval.baselines import BASELINES, TOPLINES
from eval.pairs import Pair
from eval.scoring import COLUMNS, Metric, Row, Summary

LABELS = {
    "to_target": ("to target ↑", "to target"),
    "to_source": ("to source ↓", "to source"),
    "difference": ("difference ↑", ""),
    "nearer_to_target": ("nearer to target ↑", "nearer"),
    "f0_distance": ("F0 off target, semitones ↓", "F0 off st"),
    "f0_correlation": ("log-F0 correlation ↑", "F0 corr"),
    "f0_offset": ("F0 above target, semitones", ""),
    "f0_within_2": ("within 2 semitones ↑", ""),
    "duration_ratio": ("duration, × source", ""),
    "cer": ("CER ↓", "CER"),
    "wer": ("WER ↓", "WER"),
    "cer_above_source": ("CER above source ↓", "CER above"),
    "phones_changed": ("phones changed ↓", "phones"),
    "dnsmos": ("DNSMOS ↑", "DNSMOS"),
    "dnsmos_speech": ("speech ↑", ""),
    "dnsmos_background": ("background ↑", ""),
    "dnsmos_above_source": ("DNSMOS above source ↑", ""),
    "pause_level": ("level in pauses, dBFS ↓", "pauses dBFS"),
    "pause_above_source": ("above the source's pauses, dB ↓", "above dB"),
}
"""Titles of columns in the report and in the terminal's table, which has only those with a second title."""
SHORT = [name for name, (_, short) in LABELS.items() if short]
SHARES = ("nearer_to_target", "f0_within_2")
AUDIO_RATE = 16_000
TEMPLATE = Path(__file__).with_name("report.html.jinja")


def group_of(system: str) -> str:
    return "topline" if system in TOPLINES else "baseline" if system in BASELINES else "system"


def label_of(system: str) -> str:
    return TOPLINES.get(system) or BASELINES.get(system) or system


def by_group(summary: Summary) -> Summary:
    """Order systems before toplines before baselines."""
    groups = ("system", "topline", "baseline")
    return {name: summary[name] for name in sorted(summary, key=lambda name: groups.index(group_of(name)))}


def columns_shown(summary: Summary, wanted: Iterable[str]) -> list[str]:
    """The wanted columns that have scores, each intelligibility column followed by the other recognisers'."""
    present = dict.fromkeys(name for scores in summary.values() for name in scores)
    return [
        name
        for column in wanted
        for name in present
        if name == column or (column in COLUMNS["intelligibility"] and name.endswith(f"_{column}"))
    ]


def titled(column: str, *, short: bool = False) -> str:
    """A column's title; those of further recognisers start with the recogniser's name."""
    if column in LABELS:
        return LABELS[column][short]
    of = next(name for name in ("cer_above_source", *COLUMNS["intelligibility"]) if column.endswith(name))
    return f"{column.removesuffix(f'_{of}')} {LABELS[of][short]}"


def gains(summary: Summary) -> dict[str, float]:
    """Gain in target similarity of each system over the best baseline, excluding the copied target."""
    baselines = [
        summary[name]["to_target"]["mean"]
        for name in BASELINES
        if name != "copy_target" and "to_target" in summary.get(name, {})
    ]
    if not baselines:
        return {}
    return {
        name: round(scores["to_target"]["mean"] - max(baselines), 6)
        for name, scores in summary.items()
        if group_of(name) == "system" and "to_target" in scores
    }


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per scored output; NaN becomes an empty cell, paths are relative to the CSV's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {name: "" if value != value else value for name, value in row.items()}
            for name in cells.keys() & {"source", "target", "output"}:
                cells[name] = Path(os.path.relpath(str(cells[name]), path.parent)).as_posix()
            writer.writerow(cells)


def write_results(out: Path, rows: Sequence[Row], summary: Summary, about: dict[str, Any]) -> None:
    """Write rows.csv and summary.json into a folder."""
    grouped = [{"system": row["system"], "group": group_of(str(row["system"]))} | row for row in rows]
    write_rows(out / "rows.csv", grouped)
    systems = {
        name: {"group": group_of(name), "label": label_of(name), "scores": scores}
        for name, scores in summary.items()
    }
    write_json(out / "summary.json", about | {"gain_over_baselines": gains(summary), "systems": systems})


def table(summary: Summary) -> str:
    """Format means and half-widths of 95 % intervals as a table for the terminal."""
    columns = [name for name in columns_shown(summary, SHORT) if name == "wer" or not name.endswith("_wer")]
    rows = [
        [label_of(system), *(_cell(scores.get(name), name, half=True) for name in columns)]
        for system, scores in by_group(summary).items()
    ]
    return engine.table.table(["", *(titled(name, short=True) for name in columns)], rows)


def _cell(score: dict[str, float] | None, column: str, *, half: bool = False) -> str:
    if score is None:
        return "–"
    mean, low, high = (score[name] for name in ("mean", "low", "high"))
    if column in SHARES:
        return f"{mean:.0%}" if half else f"{mean:.0%} [{low:.0%}, {high:.0%}]"
    digits = 1 if column.startswith("pause") else 2 if column.startswith(("dnsmos", "f0", "duration")) else 3
    if half:
        return f"{mean:.{digits}f} ±{(high - low) / 2:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def write_report(
    path: Path,
    pairs: Sequence[Pair],
    rows: Sequence[Row],
    summary: Summary,
    about: dict[str, Any],
    n_examples: int,
    sound_first: bool = False,
) -> None:
    """Write the self-contained page with tables, and audio and mels of every system for some pairs."""
    try:
        import jinja2
    except ImportError:
        raise UserError("the report needs jinja2: pip install 'timbre[eval]'") from None
    tables = []
    metrics: dict[Metric, str] = {
        "similarity": "Speaker similarity",
        "pitch": "Pitch, duration and pauses",
        "intelligibility": "Intelligibility",
        "quality": "Quality",
    }
    for metric, title in metrics.items():
        columns = columns_shown(summary, COLUMNS[metric])
        body = [
            {"label": label_of(s), "group": group_of(s), "cells": [_cell(scores.get(c), c) for c in columns]}
            for s, scores in by_group(summary).items()
        ]
        if columns:
            tables.append({"title": title, "columns": [titled(c) for c in columns], "rows": body})
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        tables=tables,
        about=about,
        gains=gains(summary),
        examples=_examples(pairs, rows, n_examples),
        sound_first=sound_first,
    )
    path.write_text(page, encoding="utf-8")


def _examples(pairs: Sequence[Pair], rows: Sequence[Row], n_examples: int) -> list[dict[str, Any]]:
    """Choose pairs evenly from the worst to the best of the first system, so that examples are unbiased."""
    first = pairs[0].system
    indices = [i for i, pair in enumerate(pairs) if pair.system == first]
    indices.sort(key=lambda i: (float(rows[i].get("difference", 0.0)), i))
    chosen = [indices[round(at)] for at in np.linspace(0, len(indices) - 1, min(n_examples, len(indices)))]
    examples = []
    for rank, i in enumerate(chosen):
        pair = pairs[i]
        clips = [_clip("source", pair.source), _clip("target", pair.target)]
        for other, row in zip(pairs, rows):
            repeats = other.system in ("source", "target_other", "copy_source", "copy_target")
            if other.source == pair.source and other.target == pair.target and other.output and not repeats:
                clips.append(_clip(label_of(other.system), other.output, row))
        last = len(chosen) - 1
        place = "worst" if rank == 0 else "best" if rank == last else f"{rank / last:.0%}"
        title = f"{pair.source.stem} → {pair.target.stem}"
        examples.append({"title": title, "place": place, "text": pair.text, "clips": clips})
    return examples


def _clip(title: str, path: Path, row: Row | None = None) -> dict[str, Any]:
    wave, mp3 = load(path, AUDIO_RATE), io.BytesIO()
    # MP3 plays in every browser.
    samples = wave[0, 0].clamp(-1, 1).numpy()
    soundfile.write(mp3, samples, AUDIO_RATE, format="MP3", subtype="MPEG_LAYER_III")
    shown = [f"{titled(c)} {row[c]:.2f}" for c in SHORT if row and c in row and row[c] == row[c]]
    return {
        "title": title,
        "scores": shown,
        "audio": base64.b64encode(mp3.getvalue()).decode(),
        "mel": base64.b64encode(mel_png(wave, columns=400, n_shades=32)).decode(),
    }
