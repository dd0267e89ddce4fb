"""Recording the output of a live session to disk without blocking the audio."""

import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import Writer
from engine.user_error import sentence

WAITING_S = 30.0
"""Seconds of audio that are queued for a slow disk before samples are dropped."""
PAUSE_S = 0.05
"""Seconds between writes: a few large writes disturb the audio less than many small ones."""


class Recorder:
    """Writes recordings (takes) to files in a separate thread; each file gets its name when its take ends.

    The first take is written to ``name``, later ones to ``name`` with a number appended, without overwriting
    any file. Without ``name``, files are named by date and time.
    """

    def __init__(self, rate: int, name: Path | None = None) -> None:
        self.rate, self.name = rate, name
        self.running = False
        self.finished: list[Path] = []
        self.trouble: str | None = None
        """Why the last take ended early or lacks samples, in one sentence."""
        self.taken = self.written = self.lost = 0
        """Samples of the current take: received, written to the file, and dropped as the disk was slow."""
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
        """End the take; its file is complete when this returns."""
        self.running = False
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def write(self, wave: Float[Tensor, "1 1 samples"]) -> None:
        """Queue audio to be written; does not block."""
        count = wave.shape[-1]
        if not self.running or not count:
            return
        if self.taken - self.lost - self.written > WAITING_S * self.rate:
            self.lost += count
            self.trouble = f"the disk is too slow: the recording lacks {self.lost / self.rate:.1f} s"
            return
        self._pieces.put(wave.clone())
        self.taken += count

    def _write(self, writer: Writer, pieces: "SimpleQueue[Tensor | None]") -> None:
        try:
            while self._write_some(writer, pieces):
                time.sleep(PAUSE_S)
        except Exception as error:  # such as a full disk; the conversion continues
            self.trouble = f"the recording ended after {self.written / self.rate:.1f} s: {sentence(error)}"
            self.running = False
        try:
            # Without the exception, so that the file keeps the part already written.
            writer.__exit__(None, None, None)
            self.finished.append(writer.path)
        except (OSError, RuntimeError, ValueError) as error:
            self.running = False
            self.trouble = f"the recording is lost: {sentence(error)}"

    def _write_some(self, writer: Writer, pieces: "SimpleQueue[Tensor | None]") -> bool:
        """Write all queued audio; return False when the take is over."""
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
    """Return ``name``, or ``name`` with the first number appended that no existing file has."""
    number, path = 1, name
    while path.exists():
        number += 1
        path = name.with_stem(f"{name.stem}-{number}")
    return path
