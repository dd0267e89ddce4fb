"""Equal processor time for all roads: what a step costs is measured, and as many are planned as fit.

A run's plan is measured once and kept beside it, so that a run that was cut off goes on with the same
schedule. What it really spent travels with its checkpoints: steps that were lost and done again count once.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import nn

from engine.files import atomic
from engine.loop import Batches, Task, fit
from engine.seeding import seed_step
from engine.user_error import UserError

REPEATS = 3
"""Rounds of a phase whose steps are timed, after one that pays for what is made once."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run whose steps cost the same."""

    share: float
    """Of the run's steps."""
    step: int
    """One of its steps, in the config that is probed."""
    period: int = 1
    """Steps after which costs repeat: where a player descends every n-th step, n."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a run may be: the ``plan.json`` beside it."""

    minutes: float
    """Processor time of one thread that was asked for."""
    preset: str
    """What is trained."""
    steps: int
    """As many as fit."""
    seconds: list[float]
    """What a step of each phase cost when it was probed."""


def planned(minutes: float, preset: str, phases: Sequence[Phase], seconds: Sequence[float]) -> Plan:
    """The steps that fit into a time; the price of a step is that of its phase."""
    price = sum(phase.share * cost for phase, cost in zip(phases, seconds, strict=True))
    steps = max(int(60.0 * minutes / price), 1)
    return Plan(minutes=minutes, preset=preset, steps=steps, seconds=list(seconds))


def probe(task: Task, crops: Batches, phases: Sequence[Phase], *, repeats: int = REPEATS) -> list[float]:
    """Processor seconds of a step in each phase, data included: medians over rounds, means over a period."""
    costs = []
    for phase in phases:
        source = iter(crops(phase.step))
        rounds = []
        for number in range(repeats + 1):
            took = []
            for place in range(phase.period):
                step = phase.step + number * phase.period + place
                began = time.process_time()
                seed_step(0, step)
                task.update(next(source), step)
                took.append(time.process_time() - began)
            rounds.append(took)
        costs.append(mean(median(column) for column in zip(*rounds[1:])))
    return costs


class Clock(nn.Module):
    """Processor and wall seconds that a run has cost, kept in its checkpoints."""

    spent: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spent", torch.zeros(2, dtype=torch.float64))
        self.since = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def tick(self) -> None:
        """Add what has passed since the last tick, or since this process took the run up."""
        now = self._now()
        self.spent += torch.tensor([b - a for a, b in zip(self.since, now)], dtype=torch.float64)
        self.since = now


class Timed:
    """A trainer's task whose time is noted. Nothing is shown on the way, which would cost time."""

    def __init__(self, task: Any) -> None:
        self.task, self.clock = task, Clock()
        self.players, self.frozen = task.players, getattr(task, "frozen", {})
        self.modules: dict[str, nn.Module] = {**task.modules, "clock": self.clock}

    def update(self, batch: Any, step: int) -> Any:
        """The task's own."""
        scalars = self.task.update(batch, step)
        self.clock.tick()
        return scalars


def plan_of(folder: Path, minutes: float, preset: str, make: Callable[[], Plan]) -> Plan:
    """The plan that lies beside a run, or a new one; one for other options is refused."""
    path = folder / "plan.json"
    stored = read(path)
    if stored is not None:
        plan = Plan(**stored)
        if (plan.minutes, plan.preset) != (minutes, preset):
            raise UserError(
                f"{folder} was begun with --minutes {plan.minutes:g} and the preset {plan.preset}: "
                "give the same, or another --out"
            )
        return plan
    plan = make()
    write(path, asdict(plan))
    return plan


def trained(build: Callable[[], Task], crops: Batches, config: Any, plan: Plan) -> dict[str, Any]:
    """Train a run, or what is left of it; tell what it cost."""
    timed, steps = fit(lambda: Timed(build()), crops, config.loop, full_config=config)
    processor, wall = timed.clock.spent.tolist()
    spent = {"processor_seconds": processor, "wall_seconds": wall, "steps": steps}
    return {**spent, "preset": plan.preset, "minutes": plan.minutes, "probed_seconds": plan.seconds}


def read(path: Path) -> Any | None:
    """What a JSON file holds; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
