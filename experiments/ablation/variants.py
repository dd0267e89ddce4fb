"""The arms of the ablation: one base, and others that differ from it in the fields they name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from engine.loop import LoopConfig
from engine.user_error import UserError
from w2w.baselines.cluit_mel.presets import PRESETS
from w2w.baselines.cluit_mel.task_config import Weights
from w2w.baselines.cluit_mel.train import CluitMelTrainConfig

BASE = "base"
N_LOOKS = 6
"""Points of a curve."""
CROP_FRAMES = 64
"""Half of the recipe's: a network with one halving of time less learns to keep what was said much sooner."""
LR_START, LR = 2e-3, 5e-4
"""Peak rates, of the common beginning and of both players of an arm. The recipe's 5e-5 is for two hundred
thousand steps."""
CYCLE = 10.0
"""Its weight. The recipe's 3 keeps too little of what was said when there are minutes."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is changed, and against what."""

    says: str
    """For readers."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """By a field of the trainer's config, its other value."""
    against: str = BASE
    """The arm that it is compared with, and else equal to."""


ARMS = {
    BASE: Arm(says="memory bank, norm loss, all labels, same-speaker keys masked, positives augmented"),
    "moco": Arm(says="MoCo's queue for the memory bank", fields={"task.negatives": "queue"}),
    "no_norm": Arm(says="no norm loss", fields={"task.weights.norm": 0.0}),
    "labels_10": Arm(says="speakers known of 10 % of the recordings", fields={"data.label_share": 0.1}),
    "labels_0": Arm(says="no speaker known", fields={"data.label_share": 0.0}),
    "content": Arm(says="a recogniser hears the same phones", fields={"task.weights.content": 1.0}),
    "no_masking": Arm(says="same-speaker keys are negatives", fields={"task.mask_same_speaker": False}),
    "same_recording": Arm(
        says="positives: other crops of the recording", fields={"task.positives": "recording"}
    ),
    "same_speaker": Arm(says="positives: other crops of the speaker", fields={"task.positives": "speaker"}),
    "labels_0_same_recording": Arm(
        says="no speaker known, positives: other crops of the recording",
        fields={"task.positives": "recording"},
        against="labels_0",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs share."""

    data: Path
    out: Path
    steps: int
    n_speakers: int = 0
    """In the training split: one size of label head for all arms, as they begin alike."""
    start_steps: int = 0
    """Of the common beginning; 0: arms begin from random weights."""


def changes(name: str) -> dict[str, Any]:
    """All fields in which an arm differs from the base, those of the arm it builds on first."""
    arm = ARMS[name]
    return ({} if name == BASE else changes(arm.against)) | dict(arm.fields)


def config_of(name: str, bench: Bench, seed: int) -> CluitMelTrainConfig:
    """The trainer's config of one run."""
    config = base(bench)
    for path, value in changes(name).items():
        config = changed(config, path.split("."), value)
    loop = replace(config.loop, out=bench.out / name / str(seed), seed=seed)
    return replace(config, loop=loop, init=str(start(bench, seed).loop.out) if bench.start_steps else "")


def start(bench: Bench, seed: int) -> CluitMelTrainConfig:
    """What all arms of a seed begin from: networks that rebuild a clip with its own voice, and no more.

    A run of minutes that begins at random ends before it says what its source says.
    """
    config, steps = base(bench), bench.start_steps
    loop = replace(config.loop, out=bench.out / "start" / str(seed), seed=seed, steps=steps, sample_every=0)
    nothing = {weight.name: 0.0 for weight in fields(Weights)}
    optim = replace(
        config.optim_generator, lr=LR_START, warmup_steps=steps // 20, decay_steps=max(steps, 1), final=0.1
    )
    return replace(
        config,
        loop=loop,
        task=replace(config.task, weights=Weights(**nothing | {"reconstruction": 1.0})),
        optim_generator=optim,
    )


def base(bench: Bench) -> CluitMelTrainConfig:
    """The base arm's config, but for folder and seed: the published losses in networks for minutes."""
    preset, steps = PRESETS["bank_norm_label_small"], bench.steps
    optim = {"warmup_steps": steps // 20, "schedule": "cosine", "decay_steps": steps, "final": 0.05}
    return replace(
        preset,
        loop=LoopConfig(
            steps=steps,
            log_every=50,
            save_every=max(steps // 2, 1),
            sample_every=max(steps // N_LOOKS, 1),
            keep=1,
            cpu=not torch.cuda.is_available(),
            trackers="none",
        ),
        data=replace(preset.data, path=str(bench.data), crop_samples=CROP_FRAMES * preset.network.mel.hop),
        network=replace(
            preset.network,
            crop_frames=CROP_FRAMES,
            n_channels=32,
            max_channels=128,
            n_speakers=bench.n_speakers,
        ),
        task=replace(
            preset.task,
            weights=replace(preset.task.weights, cycle=CYCLE),
            mask_same_speaker=True,
            ema=0.99,
        ),
        optim_generator=replace(preset.optim_generator, lr=LR, **optim),
        optim_critic=replace(preset.optim_critic, lr=LR, **optim),
    )


def changed(config: Any, path: Sequence[str], value: Any) -> Any:
    """A config with one field, which may lie deeper, of another value."""
    name, *deeper = path
    inner = changed(getattr(config, name), deeper, value) if deeper else value
    return replace(config, **{name: inner})


def chosen(names: Sequence[str]) -> list[str]:
    """The arms asked for, the base first, as all are compared with it; refuses unknown ones."""
    if unknown := [name for name in names if name not in ARMS]:
        raise UserError(f"--arms has no {unknown[0]!r}; choose from {', '.join(ARMS)}")
    wanted = {BASE, *names}
    wanted |= {ARMS[name].against for name in wanted}
    return [name for name in ARMS if name in wanted]
