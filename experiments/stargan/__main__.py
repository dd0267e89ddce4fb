"""StarGAN's tendency to copy its input: the published form compared with remedies, over several seeds.

    python -m experiments.stargan --data speech --out runs/stargan_finding

All variants share data, losses and steps, apart from the difference that gives each its name:

- ``published``: undilated residual blocks after the labels, BatchNorm, batches of two clips;
- ``receptive``: dilated blocks, so that layers after the labels cover the whole spectrogram;
- ``instance_norm``: InstanceNorm instead of BatchNorm, except where the labels are merged;
- ``batch``: larger batches;
- ``remedied``: all three;
- ``own``: our own losses (L1, mean features, a sum over labels), see ``w2w/baselines/stargan/presets.py``.

``--size half`` (default) is for a CPU: spectrograms of 128 × 128 up to 4 kHz, an eighth of the published
channel widths, and one residual block instead of three, which leaves the published form its share of the
spectrogram, a quarter; larger batches are 4 times as large. ``small`` uses the trainer's small presets with
whole spectrograms, ``published`` the published sizes, for a GPU. Measurements use new crops of training
speakers. Two judges are independent of the training: a gender classifier, fitted to real spectrograms of
speakers that are not measured, and Resemblyzer. ``--minutes`` sets equal processor time instead of steps.
Finished runs in OUT are kept and interrupted ones resume. Curves are written to OUT, too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from data.batches import Address
from engine.arguments import Arguments
from engine.table import markdown
from engine.user_error import UserError, at_least, exits_cleanly
from eval.similarity import Resemblyzer
from experiments.stargan.measures import Judges, columns_after_merge, gender_classifier, measures
from experiments.study import Study, Training
from experiments.trainers import run_loop, stargan
from w2w.baselines.stargan.labels import LabelledBatch, LabelledCrops
from w2w.baselines.stargan.presets import StarGANTrainConfig, batch, instance_norm, own, receptive
from w2w.baselines.stargan.spectrogram import SpectrogramConfig, ToWave
from w2w.baselines.stargan.task import StarGAN
from w2w.baselines.stargan.train import PRESETS, completed

Point = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def read_curve(path: Path) -> list[Point]:
    """Points of one run by step; of steps repeated after an interruption, the later ones count."""
    if not path.is_file():
        return []
    points = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return sorted({point["step"]: point for point in points}.values(), key=lambda point: point["step"])


def draw_curves(out: Path, runs: Mapping[str, Sequence[Path]], titles: Mapping[str, str]) -> None:
    """Draw curves.png, with means and ranges over seeds, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(3.5 * len(titles), 4), layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for axis, (measure, title) in zip(axes, titles.items()):
        for name, folders in runs.items():
            points = [point for folder in folders for point in read_curve(folder / "curve.jsonl")]
            steps = sorted({point["step"] for point in points if measure in point})
            values = [
                [point[measure] for point in points if point["step"] == step and measure in point]
                for step in steps
            ]
            (line,) = axis.plot(steps, [mean(value) for value in values], label=name)
            lowest, highest = [min(value) for value in values], [max(value) for value in values]
            axis.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.15)
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0].legend()
    figure.savefig(out / "curves.png", dpi=120)


COLUMNS = {
    "copy": "output to input / clip to clip",
    "kept": "output to input, own label",
    "moved": "output to input, other labels",
    "by_label": "what other labels change / clip to clip",
    "reach": "gradient within 62 of 256 columns",
    "label_share": "variance that the label causes",
    "way": "way to the target's mean spectrum",
    "speaker_obeyed": "target speaker recognised",
    "speaker_before": "in the source",
    "speaker_real": "own speaker recognised in real clips",
    "gender_obeyed": "target gender recognised",
    "gender_before": "in the source ",
    "speaker_pull": "target speaker's logit rises by",
    "judged_real": "gender classifier: own in real clips",
    "judged_before": "the target's in the source",
    "judged_obeyed": "the target's in the output",
    "to_target": "Resemblyzer to target",
    "to_target_before": "source's to target",
    "to_source": "to source",
    "nearer": "nearer to target",
}
"""Table heading of each measure."""
CURVES = {name: COLUMNS[name] for name in ("copy", "by_label", "way", "judged_obeyed")}


def table(results: Sequence[Mapping[str, Any]], title: str) -> str:
    """Format means and sample standard deviations over seeds, with a column per available measure."""
    columns = [name for name in COLUMNS if any(name in run for run in results)]
    lines = []
    for name in dict.fromkeys(run["variant"] for run in results):
        runs = [run for run in results if run["variant"] == name]
        cells = [spread([run[column] for run in runs if column in run]) for column in columns]
        reach, seconds = f"{runs[0]['columns']} of {runs[0]['frames']}", mean(run["seconds"] for run in runs)
        lines.append([name, reach, runs[0]["batch"], *cells, len(runs), f"{seconds:.0f}"])
    heads = ["variant", "columns seen after the merge", "clips", *(COLUMNS[name] for name in columns)]
    return f"{title}\n\n{markdown([*heads, 'seeds', 'CPU s'], lines)}"


SIZES = ("half", "small", "published", "tiny")
N_POINTS = 8
"""Points of a learning curve."""
CLIPS_SEED = 10_001
"""Seed of the measured clips, different from every run's."""


larger = partial(batch, times=4)
"""Four times as many clips; eight times would take most of the study's time."""


def half() -> StarGANTrainConfig:
    """Half-size spectrograms and receptive fields, with learning rates that suit some hundred steps."""
    config = PRESETS["stargan_small"]
    shape = SpectrogramConfig(
        n_fft=512, hop=256, n_bins=128, n_frames=128, maximum=(0.54 * 512 / 2) ** 2 / 512
    )
    return replace(
        config,
        data=replace(config.data, crop_samples=shape.crop_samples),
        stargan=replace(config.stargan, spectrogram=shape, critic_layers=5, dilations=(1,)),
        optim_generator=replace(config.optim_generator, lr=2e-3),
        optim_discriminator=replace(config.optim_discriminator, lr=5e-4),
    )


def variants(size: str) -> dict[str, Callable[[], StarGANTrainConfig]]:
    base = {
        "half": half,
        "small": lambda: PRESETS["stargan_small"],
        "published": lambda: PRESETS["stargan"],
        "tiny": lambda: PRESETS["tiny"],
    }[size]
    more = larger if size in ("half", "tiny") else batch
    return {
        "published": base,
        "receptive": lambda: receptive(base()),
        "instance_norm": lambda: instance_norm(base()),
        "batch": lambda: more(base()),
        "remedied": lambda: more(instance_norm(receptive(base()))),
        "own": lambda: own(base()),
    }


def training(config: StarGANTrainConfig, n_clips: int, seed: int, folder: Path, steps: int) -> Training:
    """One run, measured on new crops."""
    loop = run_loop(replace(config.loop, seed=seed, workers=0), folder, steps, processor=False)
    loop = replace(loop, sample_every=max(steps // N_POINTS, 1))
    ready = stargan(replace(config, loop=loop))
    clips, judges = measured(config, n_clips)

    def evaluate(task: StarGAN) -> dict[str, float]:
        return measures(task.generator, task.discriminator, clips, task.shape, judges)

    return replace(ready, evaluate=evaluate, export=None)


@lru_cache(maxsize=1)
def measured(config: StarGANTrainConfig, count: int) -> tuple[LabelledBatch, Judges]:
    """The measured clips, of as many different speakers as possible, and their judges."""
    shape = config.stargan.spectrogram
    data = replace(config.data, batch=count, equal_speakers=True)
    crops = LabelledCrops(data, shape, config.stargan.labels, progress=False)
    clips, resemblyzer = crops[Address(seed=CLIPS_SEED, step=0)], Resemblyzer()
    resemblyzer.check()
    gender = gender_classifier(crops, clips, shape, config.stargan.labels.sizes[-1])
    return clips, Judges(gender, resemblyzer, ToWave(shape))


def result(study: Study, name: str, seed: int, config: StarGANTrainConfig) -> dict[str, Any]:
    """Results of a finished run: the last point of its curve."""
    folder, cost, shape = study.folder(f"{name}/{seed}"), study.cost(f"{name}/{seed}"), config.stargan
    assert cost is not None
    seen = {"columns": columns_after_merge(shape), "frames": shape.spectrogram.n_frames}
    about = {"variant": name, "batch": config.data.batch, "seconds": cost.processor_seconds, **seen}
    return about | read_curve(folder / "curve.jsonl")[-1]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("experiments.stargan", __doc__)
    option = parser.add_argument
    option("--data", type=Path, required=True, help="manifest with speakers, or folder")
    option("--out", type=Path, default=Path("runs/stargan_finding"))
    option("--size", choices=SIZES, default="half", help="size of spectrograms and networks")
    option("--steps", type=int, default=400, help="steps per run")
    option("--minutes", type=float, default=0.0, help="processor time per run, instead of --steps")
    option("--seeds", type=int, default=2)
    option("--clips", type=int, default=32, help="number of measured clips")
    option("--variants", nargs="+", default=list(variants("half")), metavar="NAME", help="default: all")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.variants if name not in variants("half")]:
        raise UserError(f"--variants has no {unknown[0]!r}; choose from {', '.join(variants('half'))}")
    at_least(1, args, "steps", "seeds", prefix="--")
    at_least(2, args, "clips", prefix="--")
    torch.set_num_threads(1)
    options = {"data": str(args.data), "size": args.size, "clips": args.clips}
    study = Study(
        out=args.out, options=options, minutes=args.minutes, steps=0 if args.minutes else args.steps
    )
    length = f"{args.minutes:g} minutes of processor time" if args.minutes else f"{args.steps} steps"
    title = (
        f"Size {args.size}, {length}, {args.clips} new clips of training speakers; "
        "mean ± standard deviation over seeds"
    )
    results: list[dict[str, Any]] = []
    # Seed by seed, so that a table of fewer seeds is available early.
    for seed in range(args.seeds):
        for name in args.variants:
            config = variants(args.size)[name]()
            config = completed(replace(config, data=replace(config.data, path=str(args.data))))
            study.train(f"{name}/{seed}", partial(training, config, args.clips, seed))
            results.append(result(study, name, seed, config))
            text = table(results, title)
            (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
            print(text, flush=True)
        folders = {name: [study.folder(f"{name}/{n}") for n in range(seed + 1)] for name in args.variants}
        draw_curves(args.out, folders, CURVES)


if __name__ == "__main__":
    main()
