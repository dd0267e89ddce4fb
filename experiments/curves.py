"""Learning curves and means over seeds."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Point = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    """Mean ± sample deviation."""
    if not values:
        return ""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def read_curve(path: Path) -> list[Point]:
    """Points of one run by step; where a run was cut off and did steps again, the later ones count."""
    if not path.is_file():
        return []
    points = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return sorted({point["step"]: point for point in points}.values(), key=lambda point: point["step"])


def write_curves(out: Path, runs: Mapping[str, Sequence[Path]], titles: Mapping[str, str]) -> None:
    """Write curves.csv of all runs, by variant and seed, and curves.png, where matplotlib is installed.

    ``titles`` says which measures are drawn: means over seeds, and the range between them.
    """
    curves = {name: [read_curve(folder / "curve.jsonl") for folder in seeds] for name, seeds in runs.items()}
    points = [
        {"variant": name, "seed": seed, **point}
        for name, seeds in curves.items()
        for seed, curve in enumerate(seeds)
        for point in curve
    ]
    names = dict.fromkeys(name for point in points for name in point)
    with (out / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(3.5 * len(titles), 4), layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for axis, (measure, title) in zip(axes, titles.items()):
        for name, seeds in curves.items():
            own = [point for curve in seeds for point in curve if measure in point]
            steps = sorted({point["step"] for point in own})
            values = [[point[measure] for point in own if point["step"] == step] for step in steps]
            (line,) = axis.plot(steps, [mean(value) for value in values], label=name)
            lowest, highest = [min(value) for value in values], [max(value) for value in values]
            axis.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.15)
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0].legend()
    figure.savefig(out / "curves.png", dpi=120)
