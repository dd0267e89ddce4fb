"""How the ablation is shown: a table over seeds, differences paired by seed, and pictures over steps."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

Run = Mapping[str, Any]

COLUMNS = {
    "to_target": "to target",
    "to_source": "to source",
    "nearer_to_target": "nearer target",
    "f0_distance": "F0 off target (semitones)",
    "phones_changed": "phones changed",
    "cer": "CER",
    "cycle": "cycle L1",
    "norm": "norm distance",
    "moves": "style moves output",
}
"""By column of a result, its heading."""
LOOKED_AT = {
    "nearer": "nearer to target than to source, Resemblyzer (difference of cosines)",
    "f0_distance": "F0 off target (semitones)",
    "phones": "phones changed (nats a frame)",
    "cycle": "cycle: L1 of log-mels, there and back",
    "norm": "norm: L1 of frame energy, converted to source",
    "moves": "L1 between outputs of one source with two styles",
}
"""By measure of a curve, its title."""
CLEAR = 3.0
"""Standard errors beyond which a difference between arms is called clear."""
CROWDED = 10
"""Colours that the eye tells apart; more arms take dashes."""


class Difference(NamedTuple):
    """How far an arm lies from the one it is compared with."""

    mean: float
    """Over the seeds that both have."""
    clear: bool
    """Whether all seeds agree in its sign, and it is more than ``CLEAR`` standard errors."""


def paired(found: Sequence[Run], arm: str, against: str, column: str) -> list[float]:
    """Differences between two arms, one for each seed that both have."""
    ours, theirs = (
        {run["seed"]: run[column] for run in found if run["arm"] == name and math.isfinite(run[column])}
        for name in (arm, against)
    )
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def differences(found: Sequence[Run], against: Mapping[str, str], column: str) -> dict[str, Difference]:
    """By arm, its difference to the one it is compared with.

    Two seeds say little of their own spread, so the variance of paired differences is pooled over arms.
    """
    by_arm = {arm: paired(found, arm, other, column) for arm, other in against.items()}
    by_arm = {arm: values for arm, values in by_arm.items() if values}
    freedom = sum(len(values) - 1 for values in by_arm.values())
    squares = sum((value - mean(values)) ** 2 for values in by_arm.values() for value in values)
    pooled = math.sqrt(squares / freedom) if freedom else math.inf
    judged = {}
    for arm, values in by_arm.items():
        agree = min(values) > 0 or max(values) < 0
        far = abs(mean(values)) > CLEAR * pooled / math.sqrt(len(values))
        judged[arm] = Difference(mean(values), len(values) > 1 and agree and far)
    return judged


def tables(found: Sequence[Run], toplines: Mapping[str, Run], against: Mapping[str, str]) -> str:
    """All arms with their spread over seeds, beside what is no conversion; then what each changes."""
    arms = list(dict.fromkeys(run["arm"] for run in found))
    lines = [["arm", *COLUMNS.values(), "seeds", "CPU s"]]
    for arm in arms:
        runs = [run for run in found if run["arm"] == arm]
        cells = [spread([run[column] for run in runs]) for column in COLUMNS]
        lines.append([arm, *cells, str(len(runs)), f"{mean(run['seconds'] for run in runs):.0f}"])
    for name, scores in toplines.items():
        cells = [spread([scores.get(column, math.nan)]) for column in COLUMNS]
        lines.append([f"({name})", *cells, "", ""])
    seeds = sorted({run["seed"] for run in found})
    title = f"{found[0]['steps']} steps, {found[0]['pairs']} pairs of unseen speakers; mean ± deviation over "
    title += f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed: there is no spread"
    return "\n\n".join([title, markdown(lines), *effects(found, against, len(seeds))])


def effects(found: Sequence[Run], against: Mapping[str, str], n_seeds: int) -> list[str]:
    """What each arm changes, in Markdown, and what the bold print means."""
    judged = {column: differences(found, against, column) for column in COLUMNS}
    lines = [["arm", "against", *COLUMNS.values()]]
    for arm, other in against.items():
        cells = [changed(judged[column].get(arm)) for column in COLUMNS]
        if any(cells):
            lines.append([arm, other, *cells])
    if len(lines) == 1:
        return []
    if n_seeds < 2:
        said = "Differences. Of one seed alone nobody can tell whether a difference is more than chance."
    else:
        said = (
            "Differences between runs of the same seed. Bold: all seeds agree in the sign, and the mean is "
            f"more than {CLEAR:g} standard errors, by the deviation of such differences pooled over all arms."
        )
    return [said, markdown(lines)]


def changed(difference: Difference | None) -> str:
    """A difference as a cell, bold where it is clear."""
    if difference is None:
        return ""
    return f"**{difference.mean:+.3f}**" if difference.clear else f"{difference.mean:+.3f}"


def spread(values: Sequence[float]) -> str:
    """Mean ± sample deviation of those that exist."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, its heads first."""
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Points of one run by step; where a run was cut off and went over steps again, the later ones count."""
    if not path.is_file():
        return []
    points = (json.loads(line) for line in path.read_text().splitlines())
    return sorted({point["step"]: point for point in points}.values(), key=lambda point: point["step"])


def pictures(out: Path, arms: Sequence[str], seeds: Sequence[int]) -> list[Path]:
    """One picture per measure over steps, where matplotlib is installed: arms thick, their seeds thin."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        return []
    colours = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    curves = {arm: [read_curve(out / arm / str(seed) / "curve.jsonl") for seed in seeds] for arm in arms}
    drawn = []
    for name, title in LOOKED_AT.items():
        figure = Figure(figsize=(8, 5), layout="constrained")
        axis = figure.subplots()
        for number, arm in enumerate(arms):
            first = number == 0  # what the others are compared with stands out
            style: dict[str, Any] = {
                "color": "black" if first else colours[(number - 1) % CROWDED],
                "linestyle": "--" if number > CROWDED else "-",
            }
            for points in curves[arm]:
                axis.plot([p["step"] for p in points], [p[name] for p in points], lw=0.6, alpha=0.5, **style)
            middle = over_seeds(curves[arm], name)
            axis.plot(list(middle), list(middle.values()), lw=3.0 if first else 1.8, label=arm, **style)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        drawn.append(out / f"{name}.svg")
        figure.savefig(drawn[-1])
    return drawn


def over_seeds(curves: Sequence[Sequence[Run]], name: str) -> dict[int, float]:
    """By step, the mean over the seeds that have come so far."""
    steps = sorted({point["step"] for points in curves for point in points})
    at = {step: [p[name] for points in curves for p in points if p["step"] == step] for step in steps}
    known = {step: [value for value in values if math.isfinite(value)] for step, values in at.items()}
    return {step: mean(values) for step, values in known.items() if values}
