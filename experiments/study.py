"""A study: trainings of equal cost, each kept in a folder of its own and continued, never repeated.

Equal cost is a number of steps, or processor time. For the latter, what a step costs is measured, and as many
steps are planned as fit, so that schedules can follow. The plan is kept beside the run: one that was cut off
goes on with the same schedule.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from engine.files import write_json
from engine.loop import Batches, Task, accelerator, fit
from engine.seeding import seed_step
from engine.user_error import UserError
from w2w.export import export_run

PROBED_STEPS = 1_000
"""Length of the run whose steps are timed."""
ROUNDS = 3
"""Of the steps timed in each phase, after one that pays for what is made once."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run whose steps cost the same."""

    share: float = 1.0
    """Of the run's steps."""
    step: int = 0
    """Its first step."""
    period: int = 1
    """Steps after which costs repeat: where a player learns every n-th step, n."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A trainer, ready to begin a run of a certain length."""

    config: Any
    """The trainer's, complete; its ``loop.out`` is the run's folder."""
    batches: Batches
    build: Callable[[], Task]
    phases: Sequence[Phase] = (Phase(),)
    evaluate: Callable[[Any], dict[str, float]] | None = None
    """Measures the task every ``loop.sample_every`` steps; the results are appended to ``curve.jsonl``."""
    export: Callable[[Path, Path], Any] | None = export_run
    """Writes the trained weights for use, from the run's folder into its ``export``."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a finished run has taken; steps that were lost and done again count once."""

    steps: int
    processor_seconds: float
    wall_seconds: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs by name in ``out``, all as long as each other."""

    out: Path
    options: Mapping[str, str | float]
    """Options of the command line that decide every run; a run begun with others is refused."""
    minutes: float = 0.0
    """Processor time of a run; 0: ``steps`` decide."""
    steps: int = 0

    def folder(self, name: str) -> Path:
        """Where a run lies: its plan, checkpoints, export and cost."""
        return self.out / name

    def cost(self, name: str) -> Cost | None:
        """What a finished run has cost; None where it is not finished. Refuses one of other options."""
        if (plan := read_json(self.folder(name) / "plan.json")) is not None:
            self._check(name, plan["options"])
        cost = read_json(self.folder(name) / "cost.json")
        return Cost(**cost) if cost else None

    def train(self, name: str, make: Callable[[Path, int], Training]) -> Cost:
        """Train a run, or what is left of it, unless it is finished; ``make`` takes its folder and steps."""
        cost, folder = self.cost(name), self.folder(name)
        if cost is not None:
            return cost
        plan = read_json(folder / "plan.json")
        if plan is None:
            plan = {"options": self._options, "steps": self.steps}
            if self.minutes:
                phases, seconds = step_seconds(make(folder, PROBED_STEPS))
                plan |= {"steps": steps_within(self.minutes, phases, seconds), "probed_seconds": seconds}
            write_json(folder / "plan.json", plan)
        training = make(folder, plan["steps"])

        def build() -> Recorded:
            return Recorded(training.build(), training.evaluate, folder / "curve.jsonl")

        config = training.config
        task, steps = fit(build, training.batches, config.loop, full_config=config)
        if training.export:
            training.export(folder, folder / "export")
        processor, wall = task.clock.spent.tolist()
        cost = Cost(steps=steps, processor_seconds=processor, wall_seconds=wall)
        write_json(folder / "cost.json", asdict(cost))
        return cost

    @property
    def _options(self) -> dict[str, str | float]:
        return {**self.options, "minutes": self.minutes, "steps": self.steps}

    def _check(self, name: str, stored: Mapping[str, Any]) -> None:
        for option, value in self._options.items():
            if stored.get(option) != value:
                raise UserError(
                    f"{self.folder(name)} was begun with --{option.replace('_', '-')} {stored.get(option)},"
                    f" not {value}: give the same, or another --out"
                )


def steps_within(minutes: float, phases: Sequence[Phase], seconds: Sequence[float]) -> int:
    """How many steps fit into a time; the price of a step is that of its phase."""
    price = sum(phase.share * cost for phase, cost in zip(phases, seconds, strict=True))
    return max(int(60.0 * minutes / price), 1)


def step_seconds(training: Training, rounds: int = ROUNDS) -> tuple[Sequence[Phase], list[float]]:
    """Processor seconds of a step in each phase, data included: medians over rounds, means over a period."""
    loop, costs = training.config.loop, []
    place = accelerator(loop)
    seed_step(loop.seed, 0)
    task = training.build()
    for module in [*task.modules.values(), *getattr(task, "frozen", {}).values()]:
        module.to(place.device)
    for phase in training.phases:
        source = iter(training.batches(phase.step))
        took: list[list[float]] = []
        for first in range(phase.step, phase.step + (rounds + 1) * phase.period, phase.period):
            took.append([])
            for step in range(first, first + phase.period):
                began = process_time()
                seed_step(loop.seed, step)
                with place.autocast():
                    task.update(send_to_device(next(source), place.device), step)
                took[-1].append(process_time() - began)
        costs.append(mean(median(column) for column in zip(*took[1:])))
    return training.phases, costs


class Clock(nn.Module):
    """Processor and wall seconds that a run has cost, kept in its checkpoints."""

    spent: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spent", torch.zeros(2, dtype=torch.float64))
        self.since = process_time(), perf_counter()

    def tick(self) -> None:
        """Add what has passed since the last tick, or since this process took the run up."""
        now = process_time(), perf_counter()
        self.spent += self.spent.new_tensor([b - a for a, b in zip(self.since, now)])
        self.since = now


class Recorded:
    """A trainer's task whose cost is noted, and whose measures are written down."""

    def __init__(self, task: Task, evaluate: Callable[[Any], dict[str, float]] | None, curve: Path) -> None:
        self.task, self.measure, self.curve, self.clock = task, evaluate, curve, Clock()
        self.players, self.frozen = task.players, getattr(task, "frozen", {})
        self.modules: dict[str, nn.Module] = {**task.modules, "clock": self.clock}

    def update(self, batch: Any, step: int) -> Mapping[str, torch.Tensor]:
        scalars = self.task.update(batch, step)
        self.clock.tick()
        return scalars

    def evaluate(self, step: int) -> dict[str, float]:
        if self.measure is None:
            return {}
        point = self.measure(self.task)
        with self.curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **point}) + "\n")
        return point


def read_json(path: Path) -> Any | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
