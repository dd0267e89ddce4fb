"""The comparison as Markdown: a row for each system, and what wave-to-wave gains over the others."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.table import markdown
from experiments.scores import SCORES, cells, interval_cells

COLUMNS = (
    *("to_target", "to_source", "nearer_to_target", "cer_above_source", "dnsmos", "f0_distance"),
    "f0_correlation",
)
USE = (
    "parameters, M",
    "real-time factor",
    "of it converter",
    "of it vocoder",
    "latency, ms",
    "training, processor s",
)
GAINS = ("to_target", "cer", "dnsmos")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scores and costs of all systems, toplines and baselines, with their notes below."""
    lines, marks = [], dict[str, int]()
    for row in rows:
        for note in row.get("notes", ()):
            marks.setdefault(note, len(marks) + 1)
        signs = "".join(f" [{marks[note]}]" for note in row.get("notes", ()))
        lines.append([row["label"] + signs, *cells(row.get("scores", {}), COLUMNS), *use(row)])
    heads = ["system", *(SCORES[name][0] for name in COLUMNS), *USE]
    notes = [f"[{number}] {note}" for note, number in marks.items()]
    return "\n".join([markdown(heads, lines), "", *notes]).rstrip("\n")


def use(row: Mapping[str, Any]) -> list[str]:
    """Parameters, real-time factors, latency and the cost of training."""
    counts, factors, training = row.get("parameters", {}), row.get("rtf", {}), row.get("training", ())
    size = " + ".join(f"{count / 1e6:.2f}" for count in counts.values() if count)
    parts = [f"{factors[part]:.4f}" if part in factors else "" for part in ("whole", "converter", "vocoder")]
    latency = ""
    if "latency_ms" in row:
        latency = f"{row['latency_ms']:g}" if row["latency_ms"] is not None else "whole file"
    spent = " + ".join(f"{cost['processor_seconds']:.0f} ({cost['steps']} steps)" for cost in training)
    return [cell or "–" for cell in (size, *parts, latency, spent)]


def gains(results: Mapping[str, Any]) -> str:
    """Wave-to-wave's scores less those of the others over the same pairs, and its share of their time."""
    labels = {row["name"]: row["label"] for row in results["rows"]}
    shares, lines = results["rtf_shares"], []
    for name, scores in results["differences"].items():
        share = f"{shares[name]:.2f}" if name in shares else "–"
        lines.append([labels.get(name, name), *interval_cells(scores, GAINS), share])
    return markdown(["wave-to-wave less", *(SCORES[name][0] for name in GAINS), "× its real time"], lines)
