"""Where a training step's time goes: ``python -m benchmarks.training --preset small --data.path FOLDER``

Takes the trainer's own options after these. Without data, it makes noise to train on. The steps measured are
ones where every loss counts. Let nothing else run meanwhile.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import machine, show
from data.audio import save
from data.pairs import batches_together
from engine.arguments import Arguments
from engine.config import cli
from engine.loop import accelerator
from engine.optim import micro_batch
from engine.processes import to_device
from engine.seeding import seed_step
from engine.user_error import UserError, exits_cleanly
from w2w.cluit.task import CLUIT
from w2w.train import PRESETS, TrainConfig, build

GOAL_DATA = 0.05
WARM_UP = 2
DATA, FORWARD, BACKWARD, DISCRIMINATOR, CONTENT = (
    "data",
    "converter: forward and losses",
    "converter: backward and descent",
    "critic: forward, backward and descent",
    "content losses: forward",
)


class Stopwatch:
    """Seconds by part; a part within a part is taken off the outer one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        began = self._now()
        self.inner.append(0.0)
        yield
        took = self._now() - began
        self.seconds[name] += took - self.inner.pop()
        self.inner[-1] += took

    def timed(self, name: str, function: Callable) -> Callable:

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("benchmarks.training", __doc__)
    arguments.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)}")
    arguments.add_argument("--steps", type=int, default=10, help="steps to measure")
    args, rest = arguments.parse_known_args(argv)
    if args.steps < 1:
        raise UserError(f"--steps {args.steps} must be at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        config = cli(PRESETS, argv=["--preset", args.preset, *rest])
        if not config.data.path:
            config = replace(config, data=replace(config.data, path=str(noise(Path(scratch)))))
        seconds, device = measure(config, args.steps)
    whole = sum(seconds.values())
    rows = [
        [name, f"{1000 * part / args.steps:.1f}", f"{part / whole:.1%}", ""] for name, part in seconds.items()
    ]
    rows[0][3] = f"< {GOAL_DATA:.0%}: " + ("met" if seconds[DATA] < GOAL_DATA * whole else "NOT met")
    rows.append(["step", f"{1000 * whole / args.steps:.1f}", "100 %", ""])
    data = config.data
    size = f"batch {data.batch} × {data.crop_samples / data.sample_rate:g} s"
    title = f"preset {args.preset}, {size}, {config.loop.workers} worker(s), on {device}: {machine()}"
    show(title, ["part", "ms per step", "share", "goal"], rows)


def noise(folder: Path) -> Path:
    """Four speakers with three recordings of noise each."""
    for number in range(12):
        rng = torch.Generator().manual_seed(number)
        save(
            folder / f"speaker{number % 4}" / f"{number}.wav",
            0.1 * torch.randn(1, 1, 96_000, generator=rng),
            16_000,
        )
    return folder


def measure(config: TrainConfig, steps: int) -> tuple[dict[str, float], torch.device]:
    """Seconds of each part, over all steps; and where they were spent."""
    place = accelerator(replace(config.loop, trackers="none"))
    source = batches_together(config.data, config.pairs, config.loop.seed, config.loop.workers)
    seed_step(config.loop.seed, 0)
    task = build(config)
    for module in [*task.modules.values(), *task.frozen.values()]:
        module.to(place.device)
    watch = Stopwatch(place.device)
    attach(watch, task)
    first = max(config.cluit.convert_from, config.cluit.adversary_from)
    stream = iter(source(first))
    for step in range(first, first + WARM_UP + steps):
        if step == first + WARM_UP:
            watch.seconds.clear()
        with watch.part(DATA):
            batch = to_device(next(stream), place.device)
        seed_step(config.loop.seed, step)
        with watch.part(FORWARD), micro_batch(0, 1), place.autocast():
            task.update(batch, step)
    parts = (DATA, FORWARD, BACKWARD, DISCRIMINATOR, CONTENT)
    return {name: watch.seconds[name] for name in parts if name in watch.seconds}, place.device


def attach(watch: Stopwatch, task: CLUIT) -> None:
    """Time the task's parts where it calls them; what it computes stays the same."""
    discriminator, converter = task.players["discriminator"], task.players["converter"]
    task.discriminator_losses = watch.timed(DISCRIMINATOR, task.discriminator_losses)
    discriminator.step = watch.timed(DISCRIMINATOR, discriminator.step)
    converter.step = watch.timed(BACKWARD, converter.step)
    task.content_losses = watch.timed(CONTENT, task.content_losses)


if __name__ == "__main__":
    main()
