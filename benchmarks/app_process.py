"""A server process of the app for tests and benchmarks, on a free port, with its own temporary folder."""

import os
import re
import shutil
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

    def settled(self) -> list[str]:
        """Wait until no temporary files of requests exist; return those that remain after a minute."""
        until = time.monotonic() + 60
        while True:
            found = [path for path in self.folder.rglob("timbre-app-*/**/*") if path.is_file()]
            left = sorted(str(path.relative_to(self.folder)) for path in found if path.name != ".lock")
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.05)

    def memory_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def stop(self) -> int:
        """Stop the server with SIGTERM and return its exit status."""
        self.process.terminate()
        return self.process.wait(30)


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
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        shutil.rmtree(folder, ignore_errors=True)
