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
    """Keys as they are pressed, without Enter; none where the input is no terminal."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    def pressed(self, seconds: float) -> str:
        """Wait up to so long; return the keys that came, in order."""
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
    """Lend the keys; afterwards the terminal is as it was."""
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
"""Seconds between looks of the status on a terminal, and between lines where there is none."""


class Console:
    """Turns keys into wishes to a session, and its state into a line."""

    def __init__(
        self, session: Session, recorder: Recorder, names: Sequence[str], out: TextIO | None = None
    ) -> None:
        self.session, self.recorder, self.names = session, recorder, list(names)
        self.out = sys.stderr if out is None else out
        self.moves = self.out.isatty()
        self.shown = time.monotonic() if not self.moves else 0.0
        self.width = 0
        self.last_trouble: str | None = None
        self.slow_reported = False

    def press(self, keys: str) -> bool:
        """Act on keys; False where they ask to stop."""
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
                        self.say(f"there is no voice {key}: {len(self.names)} were named")
        return True

    def show(self, latency_ms: float | None, underruns: int, overruns: int) -> None:
        """Show the state, when it is time to."""
        self._tell_trouble()
        if not self.slow_reported and self.session.load.mean > 1.0:
            self.slow_reported = True
            self.say("this computer converts more slowly than you speak: try --chunk-ms 40")
        now = time.monotonic()
        if now - self.shown < (REFRESH_S if self.moves else LINES_S):
            return
        self.shown = now
        line = self.line(latency_ms, underruns, overruns)
        if self.moves:
            self._print("\r" + line.ljust(self.width), end="")
            self.width = len(line)
        else:
            self._print(line)

    def line(self, latency_ms: float | None, underruns: int, overruns: int) -> str:
        """The state in one line; looking at the levels begins them anew."""
        session = self.session
        voice = "own voice" if session.bypass else Path(self.names[session.voice_number]).name
        delay = "delay ?" if latency_ms is None else f"delay {latency_ms:.0f} ms"
        parts = [
            f"[{session.voice_number + 1}] {voice} {session.semitones:+g}",
            f"in {session.input_meter.look():.0f} out {session.output_meter.look():.0f} dBFS",
            delay,
            f"load {session.load.mean:.0%} (worst {session.load.worst:.0%})",
            f"under {underruns} over {overruns}",
        ]
        if session.broken:
            parts.append(f"{session.broken} broken samples")
        if self.recorder.running:
            parts.append(f"REC {self.recorder.seconds:.0f} s")
        return " | ".join(parts)

    def say(self, sentence: str) -> None:
        if self.moves and self.width:
            self._print("\r" + " " * self.width + "\r", end="")
        self.width = 0
        self._print(sentence)

    def end(self) -> None:
        """Leave the status line as it stands, and say what was recorded."""
        if self.moves and self.width:
            self._print("")
        self.width = 0
        self._tell_trouble()
        for path in self.recorder.finished:
            print(path, flush=True)

    def _print(self, words: str, end: str = "\n") -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that was closed ends no recording
            print(words, end=end, file=self.out, flush=True)

    def _move(self, semitones: float) -> None:
        if not self.session.move_pitch(semitones):
            self.say(
                "the pitch goes no further" if self.session.moves_pitch else "this converter moves no pitch"
            )

    def _record(self) -> None:
        if self.recorder.running:
            self.recorder.stop()
            return
        try:
            self.recorder.start()
        except (UserError, OSError) as error:
            self.say(sentence(error))

    def _tell_trouble(self) -> None:
        if self.recorder.trouble != self.last_trouble:
            self.last_trouble = self.recorder.trouble
            if self.last_trouble is not None:
                self.say(self.last_trouble)
