"""The live path without a sound card: from file to file, in real time or as fast as it goes."""

import time
from collections.abc import Callable
from pathlib import Path

from data.audio import Writer, blocks
from w2w.live.session import Session


class FileRun:
    """Pushes a file's chunks through a session and writes what comes out.

    In real time a chunk is pushed when a microphone would have brought it; one that is done only after the
    next one came counts as an underrun.
    """

    def __init__(self, session: Session, *, live: bool) -> None:
        self.session, self.live = session, live
        self.underruns = self.overruns = 0
        self.latency_ms: float | None = None
        """Until a chunk's last sample was converted, from its first one's coming; None when not live."""
        self.seconds = 0.0
        """Sound taken in."""

    def run(self, source: Path, out: Path, stopped: Callable[[], bool]) -> None:
        """Convert ``source`` to ``out`` unless stopped, then what came until there: whole either way."""
        session, size = self.session, self.session.chunk_samples
        began = time.monotonic()
        with Writer(out, session.rate) as writer:
            for chunk in blocks(source, session.rate, size):
                self.seconds += chunk.shape[-1] / session.rate
                self._wait(began + self.seconds)
                writer.write(session.push(chunk))
                self._judge(time.monotonic() - began - self.seconds)
                if stopped():
                    break
            writer.write(session.flush())

    def _wait(self, until: float) -> None:
        if self.live:
            time.sleep(max(until - time.monotonic(), 0.0))

    def _judge(self, late_s: float) -> None:
        if self.live:
            self.latency_ms = self.session.latency_ms + 1000 * max(late_s, 0.0)
            self.underruns += late_s > self.session.chunk_samples / self.session.rate
