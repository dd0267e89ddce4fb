"""How the arms of pretraining are shown: a table over seeds, and learning curves."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

COLUMNS = {
    "to_target": "to target",
    "to_source": "to source",
    "nearer_to_target": "nearer target",
    "f0_distance": "F0 off target (semitones)",
    "cer": "CER",
    "phones_changed": "phones changed",
    "leak_linear": "speaker from code, linear",
    "leak_mlp": "speaker from code, network",
}
"""By column of a result, its heading."""
LOOKED_AT = {
    "reconstruction": "spectral distance, own voice",
    "phones": "phones changed, other voice (nats a frame)",
}


def table(found: Sequence[Mapping[str, Any]], originals: Mapping[str, Any], arms: Sequence[str]) -> str:
    """Means and sample deviations over seeds, beside the sources themselves, in Markdown."""
    heads = ["arm", *COLUMNS.values(), "seeds", "CPU s"]
    lines = [heads, ["---"] * len(heads)]
    for arm in arms:
        runs = [run for run in found if run["arm"] == arm]
        if runs:
            cells = [spread([run[column] for run in runs]) for column in COLUMNS]
            seconds = f"{mean(run['seconds'] for run in runs):.0f}"
            lines.append([arm, *cells, str(len(runs)), seconds])
    own = [f"{originals[column]:.3f}" for column in COLUMNS]
    lines.append(["source, log-mels", *own, "", ""])
    chance = [f"{originals['chance']:.3f}" if column.startswith("leak") else "" for column in COLUMNS]
    lines.append(["chance", *chance, "", ""])
    steps, pairs = found[0]["steps"], found[0]["pairs"]
    title = f"{steps} steps, {pairs} pairs of unseen speakers; mean ± deviation over seeds\n"
    return "\n".join([title, *("| " + " | ".join(line) + " |" for line in lines)])


def spread(values: Sequence[float]) -> str:
    """Mean ± sample deviation."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def curves(out: Path, arms: Iterable[str], seeds: Iterable[int]) -> None:
    """Write learning curves as curves.csv, and as curves.png where matplotlib is installed."""
    points = [
        {"arm": arm, "seed": seed, **point}
        for arm in arms
        for seed in seeds
        for point in read(out / arm / str(seed) / "curve.jsonl")
    ]
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["arm", "seed", "step", *LOOKED_AT], lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, len(LOOKED_AT))
    for axis, (name, title) in zip(axes, LOOKED_AT.items()):
        for arm in dict.fromkeys(point["arm"] for point in points):
            own = [point for point in points if point["arm"] == arm]
            steps = sorted({point["step"] for point in own})
            values = [[p[name] for p in own if p["step"] == step] for step in steps]
            middle = [mean(value) for value in values]
            (line,) = axis.plot(steps, middle, label=arm)
            lowest, highest = [min(value) for value in values], [max(value) for value in values]
            axis.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.15)
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0].legend()
    figure.savefig(out / "curves.png", dpi=120)


def read(path: Path) -> list[dict[str, Any]]:
    """Points of one run by step; where a run was cut off and went over steps again, the later ones count."""
    if not path.is_file():
        return []
    points = (json.loads(line) for line in path.read_text().splitlines())
    return sorted({point["step"]: point for point in points}.values(), key=lambda point: point["step"])
