"""How StarGAN's finding is shown: a table over seeds, and learning curves."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.pretraining.report import read, spread

COLUMNS = {
    "copy": "output to input / clip to clip",
    "kept": "output to input, own label",
    "moved": "output to input, other labels",
    "label_share": "variance that the label causes",
    "way": "way to the target's mean spectrum",
    "speaker_obeyed": "target speaker heard",
    "speaker_before": "in the source",
    "speaker_real": "own speaker heard in real clips",
    "gender_obeyed": "target gender heard",
    "gender_before": "in the source ",
    "speaker_pull": "target speaker's logit rises by",
}
"""By measure, its heading."""
LOOKED_AT = {
    "copy": "output to input / clip to clip",
    "label_share": "variance that the label causes",
    "way": "way to the target's mean spectrum",
    "gender_obeyed": "target gender heard",
}


def table(found: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> str:
    """Means and sample deviations over seeds in Markdown, a column for each measure that there is."""
    columns = {name: head for name, head in COLUMNS.items() if any(name in run for run in found)}
    heads = ["arm", "columns seen after the merge", "clips", *columns.values(), "seeds", "CPU s"]
    lines = [heads, ["---"] * len(heads)]
    for arm in arms:
        runs = [run for run in found if run["arm"] == arm]
        if not runs:
            continue
        cells = [
            spread([run[name] for run in runs if name in run]) if any(name in run for run in runs) else ""
            for name in columns
        ]
        first, seconds = runs[0], f"{mean(run['seconds'] for run in runs):.0f}"
        reach = f"{first['columns']} of {first['frames']}"
        lines.append([arm, reach, str(first["batch"]), *cells, str(len(runs)), seconds])
    title = (
        f"Size {found[0]['size']}, {found[0]['steps']} steps, {found[0]['clips']} clips of trained speakers, "
        "cut anew; mean ± deviation over seeds\n"
    )
    return "\n".join([title, *("| " + " | ".join(line) + " |" for line in lines)])


def curves(out: Path, arms: Iterable[str], seeds: Iterable[int]) -> None:
    """Write learning curves as curves.csv, and as curves.png where matplotlib is installed."""
    points = [
        {"arm": arm, "seed": seed, **point}
        for arm in arms
        for seed in seeds
        for point in read(out / arm / str(seed) / "curve.jsonl")
    ]
    names = [name for name in COLUMNS if any(name in point for point in points)]
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["arm", "seed", "step", *names], lineterminator="\n", extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(points)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, len(LOOKED_AT))
    for axis, (name, title) in zip(axes, LOOKED_AT.items()):
        for arm in dict.fromkeys(point["arm"] for point in points):
            own = [point for point in points if point["arm"] == arm and name in point]
            steps = sorted({point["step"] for point in own})
            values = [[p[name] for p in own if p["step"] == step] for step in steps]
            (line,) = axis.plot(steps, [mean(value) for value in values], label=arm)
            lowest, highest = [min(value) for value in values], [max(value) for value in values]
            axis.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.15)
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0].legend()
    figure.savefig(out / "curves.png", dpi=120)
