"""StarGAN's finding, that its output is its input: the published form beside each remedy, over seeds.

    python -m experiments.stargan --data speech --out runs/finding

Every arm has the same data, losses and steps; only what its name says differs:

- ``published``: undilated residual blocks follow the labels, BatchNorm, updates of two clips;
- ``receptive``: dilated blocks, so that what follows the labels sees the whole picture;
- ``instance_norm``: InstanceNorm in place of BatchNorm, all but where the labels are merged;
- ``batch``: more clips to an update;
- ``remedied``: all three.

``--size half`` (default) is for a CPU: pictures of 128 × 128 to 4 kHz, an eighth of the experiment's weights'
width, and one residual block instead of three, which leaves the published form the published share of the
picture, a quarter; larger batches are 4 times as large. ``small`` has the trainer's small presets with whole
pictures, ``published`` the experiment's sizes, for a GPU. Clips measured are of trained speakers, cut anew.
Finished runs are kept in OUT and never repeated; one that was cut off continues. Curves are in OUT, too.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.batches import Address
from engine.arguments import Arguments
from engine.loop import LoopConfig, fit
from engine.user_error import UserError, exits_cleanly
from experiments.stargan.measures import columns_after_merge, measures
from experiments.stargan.report import curves, table
from w2w.baselines.stargan.batches import LabelledBatch, LabelledCrops, labelled_batches
from w2w.baselines.stargan.presets import PRESETS, batch, instance_norm, receptive
from w2w.baselines.stargan.spectrogram import SpectrogramConfig
from w2w.baselines.stargan.task import StarGAN
from w2w.baselines.stargan.train import build, completed
from w2w.baselines.stargan.train_config import StarGANTrainConfig

SIZES = ("half", "small", "published", "tiny")
N_LOOKS = 8
"""Points of a learning curve."""
CUT_ANEW = 10_001
"""Seed of the clips that are measured: no run's."""


def larger(config: StarGANTrainConfig) -> StarGANTrainConfig:
    """Four times as many clips, at a size where eight times would take most of the study's time."""
    return replace(config, data=replace(config.data, batch=4 * config.data.batch))


def half() -> StarGANTrainConfig:
    """Half of the picture's sides, and with them of all reaches; rates at which some hundred steps tell."""
    config = PRESETS["stargan_small"]
    shape = SpectrogramConfig(n_fft=512, hop=256, n_bins=128, n_frames=128)
    return replace(
        config,
        data=replace(config.data, crop_samples=shape.crop_samples),
        stargan=replace(config.stargan, spectrogram=shape, critic_layers=5, dilations=(1,)),
        optim_generator=replace(config.optim_generator, lr=2e-3),
        optim_discriminator=replace(config.optim_discriminator, lr=5e-4),
    )


def arms(size: str) -> dict[str, Callable[[], StarGANTrainConfig]]:
    """What each arm trains, by its name."""
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
    }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs share."""

    data: Path
    out: Path
    size: str
    steps: int
    clips: int


def arm(name: str, bench: Bench, seed: int) -> StarGANTrainConfig:
    """The trainer's config of one run."""
    config = arms(bench.size)[name]()
    loop = LoopConfig(
        out=bench.out / name / str(seed),
        steps=bench.steps,
        seed=seed,
        save_every=max(bench.steps // 4, 1),
        sample_every=max(bench.steps // N_LOOKS, 1),
        keep=1,
        cpu=not torch.cuda.is_available(),
        trackers="none",
    )
    return completed(replace(config, loop=loop, data=replace(config.data, path=str(bench.data))))


class Watched:
    """The trainer's task, measured on clips cut anew."""

    def __init__(self, task: StarGAN, clips: LabelledBatch, curve: Path) -> None:
        self.task, self.clips, self.curve = task, clips, curve
        self.players, self.modules, self.frozen = task.players, task.modules, task.frozen
        self.update = task.update

    def evaluate(self, step: int) -> dict[str, float]:
        """The measures, also as a line of the curve."""
        task = self.task
        found = measures(task.generator, task.discriminator, self.clips, task.shape)
        with self.curve.open("a") as file:
            file.write(json.dumps({"step": step, **found}) + "\n")
        return found


def train(config: StarGANTrainConfig, clips: LabelledBatch) -> tuple[float, dict[str, float]]:
    """Train one run, or what is left of it; return the processor's seconds, and its measures."""
    began, run = time.process_time(), config.loop.out
    run.mkdir(parents=True, exist_ok=True)
    shape = config.stargan
    crops = labelled_batches(
        config.data, config.loop, shape.spectrogram, shape.labels, n_parts=config.task.critic_updates
    )
    kept: list[Watched] = []

    def watched() -> Watched:
        kept.append(Watched(build(config), clips, run / "curve.jsonl"))
        return kept[0]

    fit(watched, crops, config.loop, full_config=config)
    task = kept[0].task
    return time.process_time() - began, measures(task.generator, task.discriminator, clips, shape)


def cut_anew(config: StarGANTrainConfig, count: int) -> LabelledBatch:
    """The clips that are measured: of different speakers, as far as there are."""
    data = replace(config.data, batch=count, equal_speakers=True)
    crops = LabelledCrops(data, config.stargan.spectrogram, config.stargan.labels, progress=False)
    return crops[Address(seed=CUT_ANEW, step=0)]


def one(name: str, seed: int, bench: Bench) -> dict[str, Any]:
    """The result of one run, from its file where it is finished."""
    result = bench.out / name / str(seed) / "result.json"
    asked = {"arm": name, "seed": seed, "size": bench.size, "steps": bench.steps, "clips": bench.clips}
    if result.is_file():
        found = json.loads(result.read_text())
        if {key: found.get(key) for key in asked} != asked:
            raise UserError(f"{result} is of another study: choose another --out, or give its options")
        return found
    config = arm(name, bench, seed)
    shape = config.stargan
    reach = {"columns": columns_after_merge(shape), "frames": shape.spectrogram.n_frames}
    seconds, scores = train(config, cut_anew(config, bench.clips))
    found = {**asked, "batch": config.data.batch, **reach, "seconds": seconds, **scores}
    result.write_text(json.dumps(found, indent=2) + "\n")
    return found


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Train and measure all arms; print a table of them."""
    parser = Arguments.described_by("experiments.stargan", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest with speakers, or folder")
    parser.add_argument("--out", type=Path, default=Path("runs/finding"))
    parser.add_argument("--size", choices=SIZES, default="half", help="of pictures and networks")
    parser.add_argument("--steps", type=int, default=400, help="of every run")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--clips", type=int, default=32, help="that are measured")
    parser.add_argument("--arms", default=",".join(arms("half")), help="separated by commas")
    words = parser.parse_args(argv)
    names = tuple(words.arms.split(","))
    if unknown := [name for name in names if name not in arms("half")]:
        raise UserError(f"--arms has no {unknown[0]!r}; choose from {','.join(arms('half'))}")
    if min(words.steps, words.seeds) < 1 or words.clips < 2:
        raise UserError("--steps and --seeds must be at least 1, --clips at least 2")
    torch.set_num_threads(1)
    bench = Bench(data=words.data, out=words.out, size=words.size, steps=words.steps, clips=words.clips)
    bench.out.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that a table of fewer seeds is there early.
    found: list[dict[str, Any]] = []
    for seed in range(words.seeds):
        for name in names:
            found.append(one(name, seed, bench))
            text = table(found, names)
            (bench.out / "results.json").write_text(json.dumps(found, indent=2) + "\n")
            (bench.out / "table.md").write_text(text + "\n")
            print(text, flush=True)
        curves(bench.out, names, range(seed + 1))


if __name__ == "__main__":
    main()
