"""Recording what is heard, without ever keeping the sound waiting for a disk."""

import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import Writer
from engine.user_error import sentence

Wave = Float[Tensor, "1 1 samples"]
WAITING_S = 30.0
"""Seconds that may wait for a slow disk before the recording gets a hole."""
PAUSE_S = 0.05
"""Between writes: a larger one now and then disturbs the sound less than many."""


class Recorder:
    """Writes takes to files in a thread of its own; a file appears under its name when its take ends.

    The first take has the name given, later ones a number after it, and write over nothing. Without a name
    takes are called after the time of day.
    """

    def __init__(self, rate: int, name: Path | None = None) -> None:
        self.rate, self.name = rate, name
        self.running = False
        self.finished: list[Path] = []
        self.trouble: str | None = None
        """Why the last take ended by itself or has holes, in one sentence."""
        self.taken = self.written = self.lost = 0
        """Samples of the present take: taken in, in the file, and lost to a slow disk."""
        self._begun = 0
        self._pieces: SimpleQueue[Tensor | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def seconds(self) -> float:
        return self.taken / self.rate

    def start(self) -> None:
        if self.running:
            return
        self.stop()
        writer = Writer(self._next_name(), self.rate).__enter__()
        self._begun += 1
        self._pieces = SimpleQueue()
        self.taken = self.written = self.lost = 0
        self.trouble = None
        self._thread = threading.Thread(target=self._write, args=(writer, self._pieces), daemon=True)
        self._thread.start()
        self.running = True

    def stop(self) -> None:
        """End the take; its file is whole when this returns."""
        self.running = False
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def write(self, wave: Wave) -> None:
        """Hand over a piece; never waits."""
        count = wave.shape[-1]
        if not self.running or not count:
            return
        if self.taken - self.lost - self.written > WAITING_S * self.rate:
            self.lost += count
            self.trouble = f"the disk is too slow: {self.lost / self.rate:.1f} s are missing in the recording"
            return
        self._pieces.put(wave.clone())
        self.taken += count

    def _write(self, writer: Writer, pieces: "SimpleQueue[Tensor | None]") -> None:
        try:
            while self._write_some(writer, pieces):
                time.sleep(PAUSE_S)
        except Exception as error:  # a full disk, say: the sound goes on
            self.trouble = f"the recording ended after {self.written / self.rate:.1f} s: {sentence(error)}"
            self.running = False
        try:
            # As if all were well: what a full disk could hold is kept.
            writer.__exit__(None, None, None)
            self.finished.append(writer.path)
        except (OSError, RuntimeError, ValueError) as error:
            self.running = False
            self.trouble = f"the recording is lost: {sentence(error)}"

    def _write_some(self, writer: Writer, pieces: "SimpleQueue[Tensor | None]") -> bool:
        """Write all that waits; False when the take is over."""
        waiting = [pieces.get()]
        try:
            while waiting[-1] is not None:
                waiting.append(pieces.get_nowait())
        except Empty:
            pass
        waves = [piece for piece in waiting if piece is not None]
        if waves:
            writer.write(torch.cat(waves, dim=-1))
            self.written += sum(wave.shape[-1] for wave in waves)
        return waiting[-1] is not None

    def _next_name(self) -> Path:
        if self.name is None:
            return unused(Path(time.strftime("live-%Y-%m-%d-%H%M%S.wav")))
        return unused(self.name) if self._begun else self.name


def unused(name: Path) -> Path:
    """The name, or the first one with a number after it, that no file has."""
    number, path = 1, name
    while path.exists():
        number += 1
        path = name.with_stem(f"{name.stem}-{number}")
    return path
