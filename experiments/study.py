"""Studies: training runs of equal cost, each in its own folder and resumed if interrupted.

Equal cost means equal steps or processor time. For the latter, the cost of a step is measured and converted
to a number of steps, on which the schedules depend. This plan is stored with the run, so that an interrupted
run resumes with the same schedules.
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
"""Run length assumed while steps are timed."""
ROUNDS = 3
"""Timed rounds in each phase, after one warm-up round."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run in which all steps cost the same."""

    share: float = 1.0
    """Fraction of the run's steps."""
    step: int = 0
    """First step of the phase."""
    period: int = 1
    """Period in steps after which costs repeat: n if a player is updated every n-th step."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything to train a run of a given length."""

    config: Any
    """Complete config of the trainer; its ``loop.out`` is the run's folder."""
    batches: Batches
    build: Callable[[], Task]
    phases: Sequence[Phase] = (Phase(),)
    evaluate: Callable[[Any], dict[str, float]] | None = None
    """Called on the task every ``loop.sample_every`` steps; results are appended to ``curve.jsonl``."""
    export: Callable[[Path, Path], Any] | None = export_run
    """Exports the trained weights from the run's folder to its subfolder ``export``."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a finished run; steps repeated after an interruption count once."""

    steps: int
    processor_seconds: float
    wall_seconds: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs of equal length, by name, in the folder ``out``."""

    out: Path
    options: Mapping[str, str | float]
    """Command-line options that determine every run; stored runs with other options are refused."""
    minutes: float = 0.0
    """Processor time per run; 0: use ``steps``."""
    steps: int = 0

    def folder(self, name: str) -> Path:
        """Folder of a run, with its plan, checkpoints, export and cost."""
        return self.out / name

    def cost(self, name: str) -> Cost | None:
        """Cost of a run, or None if unfinished; raises ``UserError`` if it was started with other options."""
        folder = self.folder(name)
        if plan := read_json(folder / "plan.json"):
            for option, value in self._options.items():
                if (stored := plan["options"].get(option)) != value:
                    raise UserError(
                        f"{folder} was started with --{option.replace('_', '-')} {stored}, not {value}: "
                        "give the same options or another --out"
                    )
        cost = read_json(folder / "cost.json")
        return Cost(**cost) if cost else None

    def train(self, name: str, make: Callable[[Path, int], Training]) -> Cost:
        """Train or resume a run unless it is finished; ``make`` is called with its folder and steps."""
        cost, folder = self.cost(name), self.folder(name)
        if cost is not None:
            return cost
        plan = read_json(folder / "plan.json")
        if not plan:
            plan = {"options": self._options, "steps": self.steps}
            if self.minutes:
                phases, seconds = step_seconds(make(folder, PROBED_STEPS))
                plan |= {"steps": steps_within(self.minutes, phases, seconds), "probed_seconds": seconds}
            write_json(folder / "plan.json", plan)
        training, curve = make(folder, plan["steps"]), folder / "curve.jsonl"
        config, build = training.config, lambda: Recorded(training.build(), training.evaluate, curve)
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


def steps_within(minutes: float, phases: Sequence[Phase], seconds: Sequence[float]) -> int:
    """Number of steps that fit into a processor time, given the seconds per step of each phase."""
    mean_seconds = sum(phase.share * cost for phase, cost in zip(phases, seconds, strict=True))
    return max(int(60.0 * minutes / mean_seconds), 1)


def step_seconds(training: Training, rounds: int = ROUNDS) -> tuple[Sequence[Phase], list[float]]:
    """Processor seconds per step of each phase, including data: median over rounds, mean over a period."""
    loop, costs = training.config.loop, []
    place = accelerator(loop)
    seed_step(loop.seed, 0)
    task = training.build()
    for module in [*task.modules.values(), *getattr(task, "frozen", {}).values()]:
        module.to(place.device)
    for phase in training.phases:
        source = iter(training.batches(phase.step))
        took: list[float] = []
        for step in range(phase.step, phase.step + (rounds + 1) * phase.period):
            began = process_time()
            seed_step(loop.seed, step)
            with place.autocast():
                task.update(send_to_device(next(source), place.device), step)
            took.append(process_time() - began)
        warm = took[phase.period :]
        costs.append(mean(median(warm[turn :: phase.period]) for turn in range(phase.period)))
    return training.phases, costs


class Clock(nn.Module):
    """Processor and wall seconds spent on a run, stored in its checkpoints."""

    spent: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spent", torch.zeros(2, dtype=torch.float64))
        self.since = process_time(), perf_counter()

    def tick(self) -> None:
        """Add the time since the last tick, or since the start of this process."""
        now = process_time(), perf_counter()
        self.spent += self.spent.new_tensor([b - a for a, b in zip(self.since, now)])
        self.since = now


class Recorded:
    """Wraps a trainer's task to record its cost and measurements."""

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
