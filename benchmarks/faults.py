"""Trainings killed at random instants resume exactly: ``python -m benchmarks.faults --kills 100``

Runs the tiny presets of the converter, the vocoder, the student and Wav2CLIP on noise, in one process and in
two, and disturbs them: SIGKILL, SIGTERM, Ctrl-C, SIGKILL of one process (the other is then ended as torchrun
would), a full disk, a disk that becomes read-only (the last two on a small tmpfs, if mounting is permitted).
The same command then resumes and finishes, and its last checkpoint is compared with that of an undisturbed
run, bit by bit. The exit code is 1 if any problem is found. Processes are forked from this one, which has
loaded the libraries.
"""

import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import product
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch.utils._pytree import tree_flatten

from benchmarks.table import show
from data.audio import save
from engine.arguments import Arguments
from engine.checkpoint import checkpoints, load_weights
from engine.outcome import NAMED_AT_MOST
from engine.user_error import UserError, exits_cleanly
from pretrain.clip.small_clip import SmallCLIP, SmallCLIPConfig, save_small_clip, train_tokeniser

TRAININGS = {
    "converter": ("w2w.train", ["--cluit.weights.content", "0", "--cluit.weights.distil", "0"]),
    "vocoder": ("vocoders.train", []),
    "student": ("pretrain.distil", ["--teacher.path", "released"]),
    "wav2clip": ("pretrain.wav2clip", ["--cache", "{data}/cache", "--towers.name", "{data}/clip"]),
}
FAULTS = ("SIGKILL", "SIGTERM", "Ctrl-C", "one process", "full disk", "read-only")
ENDS_WITHIN_S = 60.0
"""Time within which a run must end after a fault, s."""
TORCHRUN_WAITS_S = 30.0
DISK_MIB = 48


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("benchmarks.faults", __doc__)
    arguments.add_argument("--kills", type=int, default=100, help="number of faults (default 100)")
    arguments.add_argument("--steps", type=int, default=18, help="steps of each training (default 18)")
    arguments.add_argument("--seed", type=int, default=0, help="random seed of the faults (default 0)")
    arguments.add_argument("--only", choices=list(TRAININGS), help="run only this training")
    options = arguments.parse_args(argv)
    if options.kills < 1 or options.steps < 1:
        raise UserError("--kills and --steps must be at least 1")
    torch.set_num_threads(1)  # OpenMP does not survive a fork
    rng, counts, wrong = random.Random(options.seed), Counter[tuple[str, str]](), list[str]()
    names = [options.only] if options.only else list(TRAININGS)
    for name in names:
        import_module(TRAININGS[name][0])
    with tempfile.TemporaryDirectory(prefix="faults") as scratch, small_disk(Path(scratch)) as disk:
        data = corpus(Path(scratch) / "speech")
        whole: dict[str, tuple[Path, float]] = {}
        faults = [fault for fault in FAULTS if disk or fault not in FAULTS[-2:]]
        while sum(counts.values()) < options.kills:
            for name, count in product(names, (1, 2)):
                run, title = Run(name, count, data, options.steps), f"{name}, {count} process(es)"
                if title not in whole:
                    whole[title] = undisturbed(run, Path(scratch) / f"{name}_{count}")
                reference, seconds = whole[title]
                kind = rng.choice([f for f in faults if f != "one process" or count > 1])
                out = (disk if kind in FAULTS[-2:] and disk else Path(scratch)) / "broken"
                found = disturb(run, out, kind, rng, seconds) + differences(reference, out)
                counts[title, kind] += 1
                wrong += [f"{title}, {kind}: {what}" for what in found]
                shutil.rmtree(out)
    rows = [[*key, number] for key, number in sorted(counts.items())]
    show(f"{sum(counts.values())} kills, {len(wrong)} faults found", ["training", "fault", "kills"], rows)
    print(*wrong[:NAMED_AT_MOST], sep="\n")
    raise SystemExit(bool(wrong))


def corpus(folder: Path) -> Path:
    """Write noise: three recordings of each of four speakers, with pictures, and a random CLIP for these."""
    for number in range(12):
        wave = 0.1 * torch.randn(1, 1, 96_000, generator=torch.Generator().manual_seed(number))
        save(folder / f"speaker{number % 4}" / f"{number}.wav", wave, 16_000)
    torch.manual_seed(0)
    for path in folder.glob("*/*.wav"):
        pixels = torch.randint(256, (40, 40, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(path.with_suffix(".png"))
    config = SmallCLIPConfig(dim=12, picture_size=32, picture_width=4, text_width=16, text_layers=1)
    save_small_clip(SmallCLIP(config, train_tokeniser(["noise"], config)), folder / "clip")
    return folder


class Run:
    """A training command in one or several processes."""

    def __init__(self, name: str, count: int, data: Path, steps: int) -> None:
        self.count, (self.module, extra) = count, TRAININGS[name]
        extra = [arg.format(data=data) for arg in extra]
        loop = f"--loop.steps {steps} --loop.save-every 3 --loop.log-every 4 --loop.sample-every 0 --loop.cpu"
        self.words = ["--preset", "tiny", "--data.path", str(data), *extra, *loop.split()]
        self.words += ["--loop.trackers", "none"]
        self.log = data.with_suffix(".log")

    def start(self, out: Path) -> list[int]:
        """Fork the processes of this command and return their process ids."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [self._fork(out, rank, port) for rank in range(self.count)]

    def finish(self, out: Path, n_lines: int) -> list[str]:
        """Run the command to its end; return its exit codes and last lines if it fails."""
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in self.start(out)]
        if not any(statuses):
            return []
        return [f"status {statuses}:", *self.log.read_text(errors="replace").splitlines()[-n_lines:]]

    def _fork(self, out: Path, rank: int, port: int) -> int:
        sys.stdout.flush()
        if child := os.fork():
            return child
        status = 1
        try:
            log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if self.count > 1:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.count, "MASTER_PORT": port}
                os.environ |= {key: str(value) for key, value in place.items()}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(self.count)}
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            AcceleratorState._reset_state(reset_partial_state=True)
            sys.argv = [self.module, *self.words, "--loop.out", str(out)]
            import_module(self.module).main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def undisturbed(run: Run, out: Path) -> tuple[Path, float]:
    """Run a training to its end; return its folder and duration in seconds."""
    began = time.monotonic()
    if failed := run.finish(out, 1):
        raise UserError(f"{run.module} fails without faults, with {' '.join(failed)}")
    return out, time.monotonic() - began


def disturb(run: Run, out: Path, kind: str, rng: random.Random, seconds: float) -> list[str]:
    """Disturb a run once at a random instant, then resume it to its end; return the problems found."""
    children = run.start(out)
    ended = wait(children, rng.uniform(0.0, seconds))
    repair: Callable[[], object] | None = None
    if kind in ("full disk", "read-only") and not ended:
        repair = fill(out.parent) if kind == "full disk" else make_read_only(out.parent)
    elif not ended:
        number = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}.get(kind, signal.SIGKILL)
        signal_all(children[:1] if kind == "one process" else children, number)
    found = []
    if not wait(children, max(ENDS_WITHIN_S, 4 * seconds)):
        found.append(f"still runs {ENDS_WITHIN_S:g} s after the fault")
        signal_all(children, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
    if repair:
        repair()
    for folder in checkpoints(out):
        try:
            for file in folder.glob("*.safetensors"):
                load_weights(file)
            torch.load(folder / "optimizers.pt", weights_only=True)
        except Exception as error:
            found.append(f"{folder.name} cannot be read: {error}")
    if failed := run.finish(out, 40):
        found += [f"fails after resuming, with {failed[0]}", *failed[1:]]
    return found


def wait(children: list[int], seconds: float) -> bool:
    """Wait for child processes, removing ended ones from the list; return whether all ended in time.

    When one fails, the others receive SIGTERM, and SIGKILL 30 s later, as with torchrun.
    """
    until, kill_at = time.monotonic() + seconds, math.inf
    while children and (now := time.monotonic()) < until:
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
            if ended and status and kill_at == math.inf:
                kill_at = now + TORCHRUN_WAITS_S
                signal_all(children, signal.SIGTERM)
        if now > kill_at:
            signal_all(children, signal.SIGKILL)
        time.sleep(0.01)
    return not children


def signal_all(children: Sequence[int], number: int) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, number)


def differences(reference: Path, out: Path) -> list[str]:
    """Differences of the two runs' last checkpoints, bit by bit, and leftover temporary files."""
    left = [path.name for path in (out / "checkpoints").glob(".*")]
    ours, theirs = (checkpoints(folder)[-1:] for folder in (out, reference))
    if not ours or ours[0].name != theirs[0].name:
        return [*left, "the last checkpoint is missing"]
    names = [*sorted(path.name for path in theirs[0].glob("*.safetensors")), "optimizers.pt"]
    other = [name for name in names if not same(ours[0] / name, theirs[0] / name)]
    return [*(f"left behind: {name}" for name in left), *(f"differs: {name}" for name in other)]


def same(*files: Path) -> bool:
    """Whether two files contain equal tensors and numbers."""
    states = [torch.load(f, weights_only=True) if f.suffix == ".pt" else load_weights(f) for f in files]
    (ours, structure), (theirs, other) = map(tree_flatten, states)
    equal = [torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(ours, theirs)]
    return structure == other and all(equal)


@contextmanager
def small_disk(scratch: Path) -> Iterator[Path | None]:
    """Mount a tmpfs of ``DISK_MIB``; None if mounting is not permitted."""
    disk = scratch / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(disk)]
    mounted = shutil.which("mount") and not subprocess.run(words, capture_output=True).returncode
    try:
        yield disk if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Callable[[], object]:
    """Fill a disk completely; return a function that frees the space."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    return filler.unlink


def make_read_only(disk: Path) -> Callable[[], object]:
    """Remount a disk read-only, if possible; return a function that makes it writable again."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True)
    return lambda: subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


if __name__ == "__main__":
    main()
