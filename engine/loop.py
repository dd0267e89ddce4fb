"""The training loop that every trainer shares: it handles the schedule, the task implements the algorithm.

    @exits_cleanly
    def main() -> None:
        config = cli(PRESETS)
        here = accelerator(config.loop)
        crops = batches(config.data, config.loop.seed, rank=here.process_index, n_ranks=here.num_processes)
        fit(lambda: CLUIT(config), crops, config.loop, full_config=config)

Tasks are built on the CPU; ``fit`` moves their modules to the device in place, so players can create their
optimisers in their constructors. Running the same command again resumes from the newest checkpoint.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch._functorch.config
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, TorchDynamoPlugin, send_to_device
from torch import Tensor, nn
from tqdm import tqdm

from engine import checkpoint, recovery, tracking
from engine.config import save_config, to_json
from engine.contents import contents_of, guard
from engine.files import check_writable, disk_errors
from engine.loop_config import LoopConfig
from engine.optim import Player, micro_batch
from engine.outcome import end_with_launcher, stop_signals
from engine.seeding import seed_step
from engine.tracking import Meter, Samples, brief
from engine.user_error import UserError

Batches = Callable[[int], Iterable[Any]]
"""A function of the first step that yields micro-batches without end, ``accumulate`` of them per step."""


@runtime_checkable
class Task(Protocol):
    """A training algorithm with all its state.

    Optional members: ``frozen: dict[str, nn.Module]``, modules moved to the device but not saved;
    ``curved: tuple[str]``, names of modules that need second derivatives, which torch.compile lacks;
    ``samples(step) -> Samples``; ``evaluate(step) -> dict[str, float]``. The last two run in the main process
    without gradients.
    """

    players: dict[str, Player]
    """The players, each with its optimiser; the optimiser states are stored in checkpoints."""
    modules: dict[str, nn.Module]
    """All state of the run, one file each: networks, EMA copies, memory banks (modules with buffers)."""

    def update(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        """Train the players on one micro-batch and return the scalars to log."""
        ...


T = TypeVar("T", bound=Task)


def accelerator(config: LoopConfig) -> Accelerator:
    """Return this process's Accelerator: ``.device``, ``.process_index`` (rank), ``.num_processes``."""
    end_with_launcher()
    tracking.require(config.trackers)
    check_writable(config.out / "config.json")
    if config.threads:
        torch.set_num_threads(config.threads)
    shared: dict[str, Any] = AcceleratorState._shared_state
    if shared and shared.get("_mixed_precision") != config.mixed_precision:
        AcceleratorState._reset_state()  # a second run in one process may use another precision
    cpu = config.cpu or not torch.accelerator.is_available()  # for torchrun without a GPU
    if config.mixed_precision == "fp16" and cpu:
        raise UserError("loop.mixed_precision=fp16 needs a GPU: choose bf16 or no")
    return Accelerator(
        cpu=cpu,
        mixed_precision=config.mixed_precision,
        log_with=None if config.trackers == "none" else config.trackers,
        project_config=ProjectConfiguration(project_dir=str(config.out), logging_dir=str(config.out)),
    )


def addressing(config: LoopConfig, place: Accelerator) -> dict[str, int]:
    """Keyword arguments of ``data.batches.Batches`` that depend on the run and on this process."""
    rank = place.process_index
    return {"seed": config.seed, "workers": config.workers, "rank": rank, "accumulate": config.accumulate}


def fit(
    build: Callable[[], T], batches: Batches, config: LoopConfig, *, full_config: Any = None
) -> tuple[T, int]:
    """Train until ``config.steps`` or the time limit; return the task and the number of completed steps.

    ``build`` constructs the task; it is called after seeding, so that initial weights follow from the seed.
    ``full_config`` is stored with the run and all checkpoints; to resume, only ``free`` fields may differ. On
    SIGTERM or Ctrl-C the current step is finished, a checkpoint saved, and the program exits with code 0.
    """
    place = accelerator(config)
    full_config = config if full_config is None else full_config
    newest = checkpoint.newest_checkpoint(config.out)
    contents = contents_of(full_config) if place.is_main_process else None
    if newest:
        guard(newest, full_config, contents)
    seed_step(config.seed, 0)
    task = build()
    run = _Run(task, config, full_config, place, contents)
    step = run.resume(newest) if newest else run.begin()
    if place.is_main_process:
        save_config(full_config, config.out / "config.json")
    tracking.start_trackers(place, config.trackers, config.out, to_json(full_config), step)
    try:
        with stop_signals() as stopped:
            step, halt = run.train(batches, step, stopped)
    finally:
        place.end_training()
    if halt is Halt.SIGNAL:
        place.print(f"stopped at step {step}: saved in {config.out}; run the same command to resume")
        raise SystemExit(0)
    return task, step


class Halt(IntEnum):
    """The reason for ending a run after a step; if processes disagree, the largest value is used."""

    NO = 0
    LATE = 1
    SIGNAL = 2


class _Run:
    def __init__(
        self, task: Task, config: LoopConfig, full_config: Any, place: Accelerator, contents: Any
    ) -> None:
        self.task, self.config, self.full_config, self.place = task, config, full_config, place
        self.contents = contents
        for module in [*task.modules.values(), *getattr(task, "frozen", {}).values()]:
            module.to(place.device)
        self.buffers = recovery.state_buffers(task.modules.values())
        for player in task.players.values():
            player.float16 = config.mixed_precision == "fp16"
        if config.compile != "no":
            torch._functorch.config.donated_buffer = False  # balancers differentiate one graph several times
            for name, module in task.modules.items():
                if name not in getattr(task, "curved", ()):
                    module.compile(**TorchDynamoPlugin(backend=config.compile).to_kwargs())  # pyright: ignore

    def begin(self) -> int:
        if self.place.num_processes > 1:
            for module in self.task.modules.values():
                for tensor in [*module.parameters(), *module.buffers()]:
                    dist.broadcast(tensor.data, src=0)
        return 0

    def resume(self, folder: Path) -> int:
        if self.place.is_main_process:
            checkpoint.clear_drafts(self.config.out)
        step = self._load(folder)
        self.place.print(f"continuing from {folder}")
        return step

    def _load(self, folder: Path) -> int:
        with checkpoint.older_on_error(folder):
            progress = checkpoint.load_checkpoint(folder, self.task.modules, self.task.players)
        path = folder / f"buffers_{self.place.process_index}.safetensors"
        if path.exists():
            stored = checkpoint.load_weights(path)
            for name, buffer in self._buffers().items():
                buffer.copy_(stored[name])
        return int(progress["step"])

    def train(self, batches: Batches, step: int, stopped: list[int]) -> tuple[int, Halt]:
        config, began, halt = self.config, time.monotonic(), Halt.NO
        meter, saved = Meter(), step
        interval = 0.2 if sys.stderr.isatty() else 30.0  # seconds; every update is a new line in a log file
        options: dict[str, Any] = {"unit": "step", "dynamic_ncols": True, "mininterval": interval}
        bar = tqdm(initial=step, total=config.steps, disable=not self.place.is_main_process, **options)
        source = iter(batches(step)) if step < config.steps else iter(())
        with bar:
            while step < config.steps:
                with meter.step():
                    self._step(source, step, meter)
                step += 1
                bar.update()
                logs = step % config.log_every == 0 or step == config.steps
                if logs:
                    scalars = meter.read(self.task.players)
                    tracking.track(self.place, scalars, step)
                    bar.set_postfix_str(brief(scalars), refresh=False)
                    if warning := recovery.report(scalars):
                        self.place.print(f"step {step}: {warning}")
                if config.sample_every and (step % config.sample_every == 0 or step == config.steps):
                    self._show(step)
                late = 0 < config.max_minutes * 60 < time.monotonic() - began
                halt = self._agree(Halt.SIGNAL if stopped else Halt.LATE if late else Halt.NO, step)
                saves = step % config.save_every == 0 or bool(halt)
                if (logs or saves) and recovery.diverged(self.task.players):
                    step = saved = self._go_back(step)
                    source, meter, bar.n = iter(batches(step)), Meter(), step
                elif saves and (halt or not recovery.now_skipping(self.task.players)):
                    self.save(step)
                    saved = step
                if halt:
                    break
        if saved < step:
            self.save(step)
        return step, halt

    def _step(self, source: Iterator[Any], step: int, meter: Meter) -> None:
        rank, count = self.place.process_index, self.config.accumulate
        with recovery.finite_buffers(self.buffers):
            for index in range(count):
                with meter.waiting():
                    batch = next(source, None)
                if batch is None:
                    raise UserError(f"the data ended at step {step}: it must contain at least one batch")
                batch = send_to_device(batch, self.place.device, non_blocking=True)
                seed_step(self.config.seed, step, rank, index)
                with micro_batch(index, count), self.place.autocast():
                    meter.add(self.task.update(batch, step))

    def _go_back(self, step: int) -> int:
        players, folder = self.task.players, checkpoint.newest_checkpoint(self.config.out)
        reason, halvings = recovery.verdict(players, can_go_back=folder is not None)
        start = self._load(folder) if folder else 0
        for name, player in players.items():
            player.halve(halvings[name])
        self.place.print(f"step {step}: {reason}: back to step {start} with half the learning rate")
        return start

    def _agree(self, halt: Halt, step: int) -> Halt:
        """Reduce ``halt`` over all processes; on GPUs only every 20 steps, as it waits for the device."""
        if self.place.num_processes == 1:
            return halt
        if self.place.device.type != "cpu" and step % 20 and step < self.config.steps:
            return Halt.NO
        largest = torch.tensor(int(halt), device=self.place.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return Halt(int(largest.item()))

    def _show(self, step: int) -> None:
        if not self.place.is_main_process:
            return
        seed_step(self.config.seed, step)
        with torch.no_grad():
            if hasattr(self.task, "samples"):
                samples: Samples = self.task.samples(step)  # pyright: ignore[reportAttributeAccessIssue]
                tracking.track_samples(self.place, samples, step)
            if hasattr(self.task, "evaluate"):
                found: dict[str, float] = self.task.evaluate(step)  # pyright: ignore[reportAttributeAccessIssue]
                scores = {f"eval/{name.removeprefix('eval/')}": score for name, score in found.items()}
                tracking.track(self.place, scores, step)

    def save(self, step: int) -> None:
        """Write a checkpoint, with the buffers (memory banks, running statistics) of every process."""
        main, out = self.place.is_main_process, self.config.out
        draft = checkpoint.draft_folder(out, step) if main else out / "checkpoints" / f".step_{step:08d}.tmp"
        try:
            with disk_errors(draft / "weights", out):
                self._write(draft, step)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        if main:
            checkpoint.publish(draft, self.config.keep)

    def _write(self, draft: Path, step: int) -> None:
        task, place = self.task, self.place
        if place.is_main_process:
            progress = {"step": step, "processes": place.num_processes, "contents": self.contents}
            checkpoint.save_checkpoint(draft, task.modules, task.players, self.full_config, progress)
        place.wait_for_everyone()
        if not place.is_main_process and (buffers := self._buffers()):
            checkpoint.save_weights(buffers, draft / f"buffers_{place.process_index}.safetensors")
        place.wait_for_everyone()

    def _buffers(self) -> dict[str, Tensor]:
        buffers = {}
        for name, module in self.task.modules.items():
            stored = module.state_dict().keys()
            buffers |= {f"{name}/{key}": b for key, b in module.named_buffers() if key in stored}
        return buffers
