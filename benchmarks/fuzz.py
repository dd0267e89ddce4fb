"""Fuzzing of file readers with corrupted files: ``python -m benchmarks.fuzz --cases 100000 --findings found``

Hypothesis changes, cuts, repeats and joins bytes of valid files, and passes the results to the readers of
recordings, manifests, configs, weights and exported models. Findings are exceptions (except ``UserError`` and
operating-system errors that name a file), over 5 s, over 1 GiB of memory, crashes, executed pickles. Their
files are saved in ``--findings``. The exit code is 1 if there are any. Needs Linux and the extra ``dev``.
"""

import json
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save as tensors

from benchmarks.table import show
from data.audio import load
from data.manifest import read_manifest
from engine.arguments import Arguments
from engine.checkpoint import load_export, load_weights
from engine.config import from_json, to_json
from engine.user_error import UserError, exits_cleanly
from vocoders.loading import RELEASED
from vocoders.vocoder import VocoderConfig
from w2w.train_config import BASE, TrainConfig

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
SECONDS = 5
MEMORY_GIB = 1
AT_ONCE = 1000
"""Cases per forked process."""


class Target(NamedTuple):
    name: str
    """Name of the file to read."""
    seeds: list[bytes]
    """Contents of valid files."""
    read: Callable[[Path], Any]


def targets(trap: Path) -> dict[str, Target]:
    """Readers to test, by name; pickles among the seeds create ``trap`` if they are ever executed."""
    weights = tensors({"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16)})
    config = to_json(BASE).encode()
    rows = b"path,speaker,text,split,duration\na.wav,her,words,train,1.5\nb.flac,,,test,\n"
    lines = b"".join(json.dumps({"path": f"{n}.wav", "speaker": n}).encode() + b"\n" for n in "ab")
    pickles = [pickle.dumps(Trap(trap), protocol=protocol) for protocol in (0, 2, 5)]
    sounds = [_sound(kind) for kind in ("WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "RF64", "MP3")]
    exported = (RELEASED / "config.json").read_bytes() if RELEASED.is_dir() else config
    return {
        "recording": Target("sound", sounds, lambda path: load(path, 16_000)),
        "table": Target("rows.csv", [rows], read_manifest),
        "lines": Target("rows.jsonl", [lines], read_manifest),
        "config": Target(
            "config.json",
            [config],
            lambda path: from_json(TrainConfig, path.read_text(errors="surrogateescape"), str(path)),
        ),
        "weights": Target("model.safetensors", [weights, *pickles], load_weights),
        "export": Target("config.json", [exported], lambda path: load_export(path.parent, VocoderConfig)),
    }


class Trap:
    """An object with a pickle that creates a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _sound(kind: str) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=f".{kind.lower()}") as file:
        wave = 0.1 * np.sin(np.arange(1600) / 5)
        soundfile.write(file.name, wave, 16_000, format=kind)
        return Path(file.name).read_bytes()


def change(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """Apply changes (kind, position as a fraction of the length, bytes)."""
    for kind, share, new in changes:
        at = round(share * len(content))
        match kind:
            case "set":
                content = content[:at] + new + content[at + len(new) :]
            case "cut":
                content = content[:at]
            case "leave out":
                content = content[:at] + content[at + len(new) :]
            case "insert":
                content = content[:at] + new + content[at:]
            case "repeat":
                content = content[:at] + content[at // 2 : at][:4096] * (1 + len(new)) + content[at:]
    return content


KINDS = st.sampled_from(["set", "cut", "leave out", "insert", "repeat"])
ODD = [b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(8), b"-1", b"1e999"]
VALUES = st.binary(max_size=8) | st.sampled_from(ODD)
CHANGES = st.lists(st.tuples(KINDS, st.floats(0, 1), VALUES), max_size=6)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("benchmarks.fuzz", __doc__)
    arguments.add_argument("--cases", type=int, default=100_000, help="total number (default 100000)")
    arguments.add_argument("--findings", type=Path, default=Path("findings"), help="folder for their files")
    arguments.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    options = arguments.parse_args(argv)
    if options.cases < 1:
        raise UserError(f"--cases {options.cases} must be at least 1")
    rows, found, wanted = [], 0, -(-options.cases // 6)
    with tempfile.TemporaryDirectory(prefix="fuzz") as scratch:
        for name, target in targets(Path(scratch) / "trap").items():
            findings: set[str] = set()
            for start in range(0, wanted, AT_ONCE):
                number = min(AT_ONCE, wanted - start)
                findings |= forked(target, Path(scratch), number, options.seed + start, options.findings)
            if (Path(scratch) / "trap").exists():
                findings.add("a pickle was executed")
            rows.append([name, wanted, "; ".join(sorted(findings)) or "none"])
            found += len(findings)
    show(f"{wanted * len(rows)} cases", ["reader", "cases", "findings"], rows)
    raise SystemExit(bool(found))


def forked(target: Target, scratch: Path, cases: int, first: int, findings: Path) -> set[str]:
    """Test cases in a separate process; return the findings."""
    report = scratch / "report"
    report.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            report.write_text("\n".join(sorted(attempt(target, scratch, cases, first, findings))))
            status = 0
        finally:
            os._exit(status)
    if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        keep(findings, target, (scratch / "case" / target.name).read_bytes(), "crash")
        return {f"the process ended with {status}"}
    return set(filter(None, report.read_text().split("\n")))


def attempt(target: Target, scratch: Path, cases: int, first: int, findings: Path) -> set[str]:
    """Read changed files, and return descriptions of the findings."""
    folder, kinds = scratch / "case", set[str]()
    folder.mkdir(exist_ok=True)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    limit = used + (MEMORY_GIB << 30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    signal.signal(signal.SIGALRM, _too_long)

    @seed(first)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(st.sampled_from(target.seeds), CHANGES)
    def try_one(good: bytes, changes: list[tuple[str, float, bytes]]) -> None:
        path = folder / target.name
        path.write_bytes(content := change(good, changes))
        signal.alarm(SECONDS)
        try:
            target.read(path)
        except UserError:
            pass
        except (Exception, TooLong) as error:
            if not isinstance(error, OSError) or error.filename is None:
                kinds.add(keep(findings, target, content, describe(error)))
        finally:
            signal.alarm(0)

    try_one()
    return kinds


class TooLong(BaseException):
    """A reader exceeded ``SECONDS``."""


def _too_long(number: int, frame: Any) -> None:
    raise TooLong


def describe(error: BaseException) -> str:
    """The type of an error, and the innermost line of our code in its traceback."""
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if ROOT in file.parents and file != HERE:
            line = f" at {file.relative_to(ROOT)}:{number}"
    return type(error).__name__ + line


def keep(findings: Path, target: Target, content: bytes, what: str) -> str:
    """Save the bytes of the first finding of a kind; return the kind."""
    findings.mkdir(parents=True, exist_ok=True)
    file = findings / f"{re.sub('[/ ]', '_', what)}.{target.name}"
    if not file.exists():
        file.write_bytes(content)
    return what


if __name__ == "__main__":
    main()
