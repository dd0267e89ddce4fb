"""The roads that are trained for the comparison: each trainer's own preset, its schedules made to fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.roads_budget import Phase, Plan, plan_of, planned, probe, read, trained, write
from data.batches import batches
from engine.loop import Batches, LoopConfig, Task
from engine.optim import OptimConfig
from engine.user_error import UserError
from w2w.export import export_run

CONVERTS_FROM, CRITIC_FROM = 0.04, 0.25
"""Shares of a wave-to-wave run after which it converts, and after which its critic is heard."""
PROBED_STEPS = 1_000
"""Of the config whose steps are timed."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs share."""

    data: Path
    out: Path
    minutes: float
    """Processor time of every run, on one thread."""
    presets: Mapping[str, str]
    """What each arm trains."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One road to train."""

    config: Callable[[Bench, int], Any]
    """The trainer's config for a number of steps."""
    phases: Callable[[Any], list[Phase]]
    """Where such a run's steps change their cost."""
    build: Callable[[Any], Task]
    crops: Callable[[Any], Batches]


def looped(loop: LoopConfig, run: Path, steps: int) -> LoopConfig:
    """A run on one thread of the processor that shows nothing on its way and saves ten times."""
    every = max(steps // 10, 1)
    ours: dict[str, Any] = {"out": run, "steps": steps, "save_every": every, "sample_every": 0, "keep": 1}
    return replace(loop, **ours, trackers="none", cpu=True, threads=1, workers=0, max_minutes=0.0)


def fitted(optim: OptimConfig, steps: int) -> OptimConfig:
    """Its decay over the whole run, and its warm-up at most the first tenth."""
    warmup = min(optim.warmup_steps, steps // 10)
    return replace(optim, warmup_steps=warmup, hold_steps=0, decay_steps=max(steps - warmup, 1))


def preset(presets: Mapping[str, Any], arm: str, name: str) -> Any:
    """A trainer's preset by name."""
    if name not in presets:
        raise UserError(f"--presets {arm}={name}: there is no such preset; choose from {', '.join(presets)}")
    return presets[name]


def w2w_config(bench: Bench, steps: int) -> Any:
    """Wave to wave: it converts and hears its critic after the shares of a long run's steps."""
    from w2w.train import PRESETS

    base = preset(PRESETS, "w2w", bench.presets["w2w"])
    begins = {"convert_from": round(CONVERTS_FROM * steps), "adversary_from": round(CRITIC_FROM * steps)}
    return replace(
        base,
        loop=looped(base.loop, bench.out / "w2w" / "run", steps),
        data=replace(base.data, path=str(bench.data)),
        cluit=replace(base.cluit, **begins),
        optim_converter=fitted(base.optim_converter, steps),
        optim_critic=fitted(base.optim_critic, steps),
    )


def w2w_phases(config: Any) -> list[Phase]:
    """Reconstruction alone; conversion too; and the critic, who descends every n-th step."""
    cluit = config.cluit
    return [
        Phase(share=CONVERTS_FROM, step=0),
        Phase(share=CRITIC_FROM - CONVERTS_FROM, step=cluit.convert_from),
        Phase(share=1.0 - CRITIC_FROM, step=cluit.adversary_from, period=cluit.critic_every),
    ]


def w2w_build(config: Any) -> Task:
    """The trainer's task."""
    from w2w.train import build

    return build(config)


def speech_crops(config: Any) -> Batches:
    """The trainers' batches of speech."""
    return batches(config.data, config.loop.seed)


ARMS: dict[str, Arm] = {
    "w2w": Arm(config=w2w_config, phases=w2w_phases, build=w2w_build, crops=speech_crops),
}
PRESETS = {"w2w": "small"}
"""What each arm trains, if nothing else is said."""


def folder_of(bench: Bench, name: str) -> Path:
    """Where an arm's plan, run and export lie."""
    return bench.out / name


def train(name: str, bench: Bench) -> dict[str, Any]:
    """What training an arm cost; it is trained, or what is left of it, unless it is finished."""
    folder, arm = folder_of(bench, name), ARMS[name]
    plan = plan_of(folder, bench.minutes, bench.presets[name], lambda: _plan(name, bench))
    done = finished(folder)
    if done is not None:
        return done
    config = arm.config(bench, plan.steps)
    spent = trained(lambda: arm.build(config), arm.crops(config), config, plan)
    export_run(folder / "run", folder / "export")
    write(folder / "training.json", spent)
    return spent


def _plan(name: str, bench: Bench) -> Plan:
    arm = ARMS[name]
    config = arm.config(bench, PROBED_STEPS)
    phases = arm.phases(config)
    seconds = probe(arm.build(config), arm.crops(config), phases)
    return planned(bench.minutes, bench.presets[name], phases, seconds)


def finished(folder: Path) -> dict[str, Any] | None:
    """What a finished arm's training cost; None where it is not finished."""
    return read(folder / "training.json")
