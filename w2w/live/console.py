"""The terminal of a live session: its status line, and the keys that change it."""

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from engine.user_error import UserError, sentence
from w2w.live.recorder import Recorder
from w2w.live.session import Session


class Keyboard:
    """Reads key presses from the terminal without Enter; reads none if stdin is not a terminal."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    def pressed(self, seconds: float) -> str:
        """Wait up to ``seconds`` for a key; return the keys pressed, in order."""
        if self.descriptor is None:
            time.sleep(seconds)
            return ""
        try:
            ready, _, _ = select.select([self.descriptor], [], [], seconds)
            keys = os.read(self.descriptor, 64) if ready else b""
        except InterruptedError:
            return ""
        except OSError:  # the terminal was closed
            ready, keys = [self.descriptor], b""
        if ready and not keys:
            self.descriptor = None
        return keys.decode(errors="replace")


@contextlib.contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Switch the terminal to unbuffered key input; restore its settings on exit."""
    try:
        import termios
        import tty
    except ImportError:  # not Unix
        yield Keyboard(None)
        return
    try:
        descriptor = sys.stdin.fileno()
        before: list[Any] = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor)
    except (termios.error, OSError, ValueError, AttributeError):
        yield Keyboard(None)
        return
    try:
        yield Keyboard(descriptor)
    finally:
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


KEYS = "keys: space bypass, 1-9 voices, + - pitch, r recording, q quit"
REFRESH_S, LINES_S = 0.2, 10.0
"""Seconds between updates of the status line on a terminal, and between lines in a log file."""


class Console:
    """Applies key presses to a session and prints its status line."""

    def __init__(
        self, session: Session, recorder: Recorder, names: Sequence[str], out: TextIO | None = None
    ) -> None:
        self.session, self.recorder, self.names = session, recorder, list(names)
        self.out = sys.stderr if out is None else out
        self.on_terminal = self.out.isatty()
        self.shown = time.monotonic() if not self.on_terminal else 0.0
        self.width = 0
        self.last_trouble: str | None = None
        self.slow_reported = False

    def press(self, keys: str) -> bool:
        """Act on keys; return False if one of them quits."""
        for key in keys:
            match key:
                case " ":
                    self.session.switch_bypass()
                case "q" | "Q" | "\x04":
                    return False
                case "+" | "=":
                    self._move(1.0)
                case "-" | "_":
                    self._move(-1.0)
                case "r" | "R":
                    self._record()
                case _ if key.isdecimal() and key != "0":
                    if not self.session.choose_voice(int(key) - 1):
                        self.message(f"there is no voice {key}: {len(self.names)} were given")
        return True

    def show(self, latency_ms: float | None, underruns: int, overruns: int) -> None:
        """Print the status line if the last one is old enough."""
        self._report_trouble()
        if not self.slow_reported and self.session.load.mean > 1.0:
            self.slow_reported = True
            self.message("this computer converts slower than real time: try --chunk-ms 40")
        now = time.monotonic()
        if now - self.shown < (REFRESH_S if self.on_terminal else LINES_S):
            return
        self.shown = now
        line = self.line(latency_ms, underruns, overruns)
        if self.on_terminal:
            self._print("\r" + line.ljust(self.width), end="")
            self.width = len(line)
        else:
            self._print(line)

    def line(self, latency_ms: float | None, underruns: int, overruns: int) -> str:
        """The status line; this resets the peak meters."""
        session = self.session
        voice = "own voice" if session.bypass else Path(self.names[session.voice_number]).name
        delay = "delay ?" if latency_ms is None else f"delay {latency_ms:.0f} ms"
        parts = [
            f"[{session.voice_number + 1}] {voice} {session.semitones:+g}",
            f"in {session.input_meter.pop_peak_db():.0f} out {session.output_meter.pop_peak_db():.0f} dBFS",
            delay,
            f"load {session.load.mean:.0%} (worst {session.load.worst:.0%})",
            f"under {underruns} over {overruns}",
        ]
        if session.n_invalid:
            parts.append(f"{session.n_invalid} invalid samples")
        if self.recorder.running:
            parts.append(f"REC {self.recorder.seconds:.0f} s")
        return " | ".join(parts)

    def message(self, sentence: str) -> None:
        """Print a message in place of the status line."""
        if self.on_terminal and self.width:
            self._print("\r" + " " * self.width + "\r", end="")
        self.width = 0
        self._print(sentence)

    def end(self) -> None:
        """Finish the status line and print the names of the recordings."""
        if self.on_terminal and self.width:
            self._print("")
        self.width = 0
        self._report_trouble()
        for path in self.recorder.finished:
            print(path, flush=True)

    def _print(self, words: str, end: str = "\n") -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed terminal must not stop a recording
            print(words, end=end, file=self.out, flush=True)

    def _move(self, semitones: float) -> None:
        if not self.session.move_pitch(semitones):
            can_shift = self.session.moves_pitch
            self.message("the pitch is at its limit" if can_shift else "this converter cannot shift pitch")

    def _record(self) -> None:
        if self.recorder.running:
            self.recorder.stop()
            return
        try:
            self.recorder.start()
        except (UserError, OSError) as error:
            self.message(sentence(error))

    def _report_trouble(self) -> None:
        if self.recorder.trouble != self.last_trouble:
            self.last_trouble = self.recorder.trouble
            if self.last_trouble is not None:
                self.message(self.last_trouble)
