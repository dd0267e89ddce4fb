"""The table of StarGAN's variants, over seeds."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from engine.table import markdown
from experiments.curves import spread

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
CURVES = {name: COLUMNS[name] for name in ("copy", "label_share", "way", "gender_obeyed")}


def table(results: Sequence[Mapping[str, Any]], title: str) -> str:
    """Means and sample deviations over seeds, a column for each measure that there is."""
    columns = [name for name in COLUMNS if any(name in run for run in results)]
    lines = []
    for name in dict.fromkeys(run["variant"] for run in results):
        runs = [run for run in results if run["variant"] == name]
        cells = [spread([run[column] for run in runs if column in run]) for column in columns]
        reach, seconds = f"{runs[0]['columns']} of {runs[0]['frames']}", mean(run["seconds"] for run in runs)
        lines.append([name, reach, runs[0]["batch"], *cells, len(runs), f"{seconds:.0f}"])
    heads = ["variant", "columns seen after the merge", "clips", *(COLUMNS[name] for name in columns)]
    return f"{title}\n\n{markdown([*heads, 'seeds', 'CPU s'], lines)}"
