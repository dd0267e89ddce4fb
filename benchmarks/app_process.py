"""A server process of the app for tests and benchmarks, on a free port, with its own temporary folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0
"""Timeout of the server's start on a busy machine, s."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    host: str
    port: int
    folder: Path
    """The server's temporary folder, to find files that were not cleaned up."""
    process: subprocess.Popen[str]
    output: list[str]
    """Lines printed by the server."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def left(self) -> list[str]:
        """Temporary files of requests that still exist."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and path.name != ".lock" and "timbre-app-" in str(path)
        )

    def settled(self, seconds: float = 60.0) -> list[str]:
        """Wait until no temporary files of requests exist; return those that remain at the timeout."""
        until = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < until:
            time.sleep(0.05)
        return left

    def memory_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30.0) -> int:
        """Stop the server with a signal and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(*options: str) -> Iterator[Serving]:
    """Start ``python -m app`` with options and wait until it answers."""
    folder = Path(tempfile.mkdtemp(prefix="app-load-"))
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "app", "--port", "0", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        until = time.monotonic() + START_S
        while not (found := re.search(r"http://([\d.]+):(\d+)", "".join(output))):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start: {''.join(output) or process.returncode}")
            time.sleep(0.05)
        yield Serving(host=found[1], port=int(found[2]), folder=folder, process=process, output=output)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(5)
        shutil.rmtree(folder, ignore_errors=True)
