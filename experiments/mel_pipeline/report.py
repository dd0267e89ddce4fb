"""How the roads are shown: one Markdown table and the goals, from ``roads.json`` and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

SCORES = {
    "to_target": ("to target ↑", "{:.3f}"),
    "to_source": ("to source ↓", "{:.3f}"),
    "nearer_to_target": ("nearer ↑", "{:.0%}"),
    "cer_above_source": ("CER above source ↓", "{:+.3f}"),
    "dnsmos": ("DNSMOS ↑", "{:.2f}"),
    "f0_distance": ("F0 off target, st ↓", "{:.2f}"),
}
"""By column of the scores, its heading and form."""
USE = (
    "parameters, M",
    "real-time factor",
    "of it converter",
    "of it vocoder",
    "latency, ms",
    "training, processor s",
)
SLOWEST_SHARE = 1 / 3
"""Of the mel road's real-time factor: what wave-to-wave may take."""
OURS = "w2w"
TIMED_ROADS = ("cluit_mel", "cluit_mel_published")
"""Mel roads that wave-to-wave's real-time factor is held against."""
MEL_ROADS = ("cluit_mel", "cluit_mel_tuned", "cluit_mel_phase", "stargan", "stargan_phase")


def table(found: Mapping[str, Any]) -> str:
    """Lay out the rows of all roads, toplines and baselines."""
    heads = ["road", *(head for head, _ in SCORES.values()), *USE]
    lines = [heads, ["---"] * len(heads)]
    marks: dict[str, int] = {}
    for row in found["rows"]:
        for note in row.get("notes", ()):
            marks.setdefault(note, len(marks) + 1)
        signs = "".join(f" [{marks[note]}]" for note in row.get("notes", ()))
        scores = row.get("scores", {})
        cells = [
            form.format(scores[name]["mean"]) if name in scores else "–" for name, (_, form) in SCORES.items()
        ]
        lines.append([row["label"] + signs, *cells, *in_use(row)])
    notes = [f"[{number}] {note}" for note, number in marks.items()]
    text = [f"{title(found)}\n", *("| " + " | ".join(line) + " |" for line in lines)]
    return "\n".join([*text, "", *notes]).rstrip("\n")


def title(found: Mapping[str, Any]) -> str:
    """What the figures are of."""
    presets = ", ".join(f"{arm}: preset {name}" for arm, name in found["presets"].items())
    return (
        f"{found['pairs']} pairs of unseen speakers; every road trained {found['minutes']:g} minutes of one "
        f"thread ({presets}); real-time factors of {found['seconds']:g} s of speech on one thread, medians "
        f"of {found['repeats']} turns; {found['machine']}"
    )


def in_use(row: Mapping[str, Any]) -> list[str]:
    """Parameters, real-time factors, latency and the cost of training."""
    counts, factors, spent = row.get("parameters"), row.get("rtf"), row.get("training")
    size = "–"
    if counts:
        size = " + ".join(f"{count / 1e6:.2f}" for count in counts.values() if count)
    factor = [f"{factors[part]:.4f}" if part in factors else "–" for part in PARTS] if factors else ["–"] * 3
    latency = "–"
    if "latency_ms" in row:
        latency = f"{row['latency_ms']:g}" if row["latency_ms"] is not None else "whole file"
    training = f"{spent['processor_seconds']:.0f} ({spent['steps']} steps)" if spent else "–"
    if spent and spent.get("vocoder"):
        training += f" + {spent['vocoder']['processor_seconds']:.0f} ({spent['vocoder']['steps']} steps)"
    return [size, *factor, latency, training]


PARTS = ("whole", "converter", "vocoder")


def goals(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What wave-to-wave was to reach against every mel road that was measured, and whether it did.

    Differences are over the same pairs; the mean decides, its 95 % interval says how surely.
    """
    rows = {row["name"]: row for row in found["rows"]}
    told = []
    for name, share in found.get("rtf_shares", {}).items():
        what = f"real-time factor over that of {rows[name]['label']}"
        told.append(verdict(what, f"{share:.3f}", f"≤ {SLOWEST_SHARE:.3f}", share <= SLOWEST_SHARE))
    for name in MEL_ROADS:
        apart = found.get("differences", {}).get(name, {})
        for column, sign in (("to_target", 1.0), ("cer", -1.0)):
            if column in apart:
                gap = apart[column]
                figure = f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
                what = f"{'similarity to target' if sign > 0 else 'CER'} less that of {rows[name]['label']}"
                told.append(verdict(what, figure, "≥ 0" if sign > 0 else "≤ 0", sign * gap["mean"] >= 0))
    return told


def verdict(what: str, figure: str, goal: str, met: bool) -> dict[str, Any]:
    """One goal."""
    return {"what": what, "figure": figure, "goal": goal, "met": met}


def goals_table(told: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the goals."""
    if not told:
        return "No goal can be told: wave-to-wave or every mel road is missing."
    lines = [["wave-to-wave's", "figure", "goal", "met"], ["---"] * 4]
    lines += [[goal["what"], goal["figure"], goal["goal"], "yes" if goal["met"] else "NO"] for goal in told]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
