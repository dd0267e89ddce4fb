"""What is trained for the comparison: every arm by its trainer's own preset, for as long as the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.loop import Batches, Task
from engine.user_error import UserError
from experiments.mel_pipeline import trainers as trainers
from experiments.mel_pipeline.budget import Phase, Plan, plan_of, planned, probe, read, trained, write
from experiments.mel_pipeline.trainers import Bench
from vocoders.tasks.export import export_run as export_vocoder
from w2w.export import export_run

PROBED_STEPS = 1_000
"""Of the config whose steps are timed."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing to train."""

    preset: str
    """What is trained if nothing else is said."""
    config: Callable[[Bench, int], Any]
    """The trainer's config for a number of steps."""
    crops: Callable[[Any], Batches]
    """Its batches."""
    build: Callable[[Any], Task]
    """Its task."""
    phases: Callable[[Any], list[Phase]]
    """Where such a run's steps change their cost."""
    complete: Callable[[Any, Batches], Any] = field(default=lambda config, crops: config)
    """Fill in what only the data knows."""
    prepare: Callable[[Bench], None] = field(default=lambda bench: None)
    """Make what it is trained on."""
    export: Callable[[Path, Path], Any] = export_run
    """Leave what was trained for use."""
    needs: str = ""
    """An arm that must be finished before."""
    tunes: bool = False
    """Whether its time is that of tuning, beyond the time that all have."""


ARMS: dict[str, Arm] = {
    "w2w": Arm(
        preset="small",
        config=trainers.w2w_config,
        crops=trainers.speech_crops,
        build=trainers.w2w_task,
        phases=trainers.w2w_phases,
    ),
    "cluit_mel": Arm(
        preset="bank_norm_label_small",
        config=trainers.cluit_mel_config,
        crops=trainers.speech_crops,
        build=trainers.cluit_mel_task,
        phases=trainers.cluit_mel_phases,
        complete=trainers.cluit_mel_completed,
    ),
    "cluit_mel_tuned": Arm(
        preset="hifigan_small",
        config=trainers.vocoder_config,
        crops=trainers.vocoder_crops,
        build=trainers.vocoder_task,
        phases=trainers.vocoder_phases,
        prepare=trainers.predict_mels,
        export=export_vocoder,
        needs="cluit_mel",
        tunes=True,
    ),
    "stargan": Arm(
        preset="stargan_small",
        config=trainers.stargan_config,
        crops=trainers.stargan_crops,
        build=trainers.stargan_task,
        phases=trainers.stargan_phases,
    ),
}
PRESETS: Mapping[str, str] = {name: arm.preset for name, arm in ARMS.items()}


def finished(name: str, bench: Bench) -> dict[str, Any] | None:
    """What a finished arm's training cost; None where it is not finished."""
    return read(bench.folder(name) / "training.json")


def minutes_of(name: str, bench: Bench) -> float:
    """How long an arm is trained."""
    return bench.tune_minutes if ARMS[name].tunes else bench.minutes


def check_budget(bench: Bench) -> None:
    """Refuse to show arms as equal that were trained for other times than is said."""
    for name in ARMS:
        spent, asked = finished(name, bench), minutes_of(name, bench)
        if spent is not None and spent["minutes"] != asked:
            option = "--tune-minutes" if ARMS[name].tunes else "--minutes"
            raise UserError(
                f"{bench.folder(name)} was trained with {option} {spent['minutes']:g}, not {asked:g}: give it"
            )


def train(name: str, bench: Bench) -> dict[str, Any]:
    """What training an arm cost; it is trained, or what is left of it, unless it is finished."""
    folder, arm = bench.folder(name), ARMS[name]
    if arm.needs and finished(arm.needs, bench) is None:
        raise UserError(f"the arm {name} needs {arm.needs} in {bench.out}: train that first (--only)")
    minutes = minutes_of(name, bench)
    plan = plan_of(folder, minutes, bench.presets[name], lambda: _plan(name, minutes, bench))
    done = finished(name, bench)
    if done is not None:
        return done
    arm.prepare(bench)
    config, crops = _ready(arm, bench, plan.steps)
    spent = trained(lambda: arm.build(config), crops, config, plan)
    arm.export(folder / "run", folder / "export")
    write(folder / "training.json", spent)
    return spent


def _plan(name: str, minutes: float, bench: Bench) -> Plan:
    arm = ARMS[name]
    arm.prepare(bench)
    config, crops = _ready(arm, bench, PROBED_STEPS)
    phases = arm.phases(config)
    seconds = probe(arm.build(config), crops, phases)
    return planned(minutes, bench.presets[name], phases, seconds)


def _ready(arm: Arm, bench: Bench, steps: int) -> tuple[Any, Batches]:
    config = arm.config(bench, steps)
    crops = arm.crops(config)
    return arm.complete(config, crops), crops
