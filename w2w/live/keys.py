"""Single keys from a terminal, where there is one."""

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any


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
