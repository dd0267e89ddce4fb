"""The jitter buffer before the loudspeaker, and the lock-free queue between two threads."""

import sys

import numpy as np
from jaxtyping import Float

Samples = Float[np.ndarray, "samples"]


class Ring:
    """A lock-free ring buffer of samples for one writing and one reading thread."""

    def __init__(self, size: int) -> None:
        self.memory = np.zeros(size, np.float32)
        # Totals since the start: each is changed by only one thread, so no lock is needed.
        self.written = self.taken = 0

    @property
    def level(self) -> int:
        return self.written - self.taken

    def write(self, samples: Samples) -> int:
        """Append the first samples, as many as there is room for; return their number."""
        count = min(len(samples), len(self.memory) - self.level)
        first, second = self._places(self.written, count)
        self.memory[first] = samples[: first.stop - first.start]
        self.memory[second] = samples[first.stop - first.start : count]
        self.written += count
        return count

    def peek(self, out: Samples) -> int:
        """Copy the oldest samples into ``out`` without removing them; return their number."""
        count = min(len(out), self.level)
        first, second = self._places(self.taken, count)
        out[: first.stop - first.start] = self.memory[first]
        out[first.stop - first.start : count] = self.memory[second]
        return count

    def read(self, out: Samples) -> int:
        """Move the oldest samples into ``out``; return their number."""
        count = self.peek(out)
        self.taken += count
        return count

    def drop(self, count: int) -> int:
        """Remove up to ``count`` of the oldest samples; return their number."""
        count = min(count, self.level)
        self.taken += count
        return count

    def _places(self, position: int, count: int) -> tuple[slice, slice]:
        """The two slices of memory that hold ``count`` samples from ``position`` on."""
        start = position % len(self.memory)
        until = min(start + count, len(self.memory))
        return slice(start, until), slice(0, start + count - until)


CAPACITY_S = 1.0
"""Capacity of the queues in seconds; bounds the delay after a pause of the computer."""
WATCHED_S = 2.0
"""Seconds over which the lowest level is measured before a surplus is skipped."""
SURPLUS_S = 0.003
"""Shortest surplus, in seconds, that is skipped."""
FADE_S = 0.005
"""Length of the cross-fade where a surplus is skipped, in seconds."""
DEPTH_STEP_S, MAX_DEPTH_S = 0.005, 0.1
"""Seconds by which each underrun increases the depth, and the largest depth."""


class JitterBuffer:
    """A queue that one thread fills in bursts and the audio callback empties steadily.

    Playback starts when ``depth`` samples are buffered. An underrun plays silence until the buffer is filled
    again, to a depth increased by ``DEPTH_STEP_S``. A surplus above the depth that persists for
    ``WATCHED_S`` is skipped with a short cross-fade, so that neither delays nor the drift between the clocks
    of two devices accumulate.
    """

    def __init__(self, rate: int, depth: int) -> None:
        self.rate, self.depth = rate, depth
        """Sample rate in Hz, and the samples to buffer before playback starts."""
        self.ring = Ring(round(CAPACITY_S * rate))
        self.playing = False
        self.underruns = self.overruns = self.skips = 0
        """Numbers of underruns, of writes to a full buffer, and of skipped surpluses."""
        self._restart_watch()

    @property
    def seconds(self) -> float:
        return self.ring.level / self.rate

    def write(self, samples: Samples) -> None:
        self.overruns += self.ring.write(samples) < len(samples)

    def read(self, out: Samples) -> None:
        """Fill ``out`` with the next samples, or with silence."""
        if not self.playing and self.ring.level >= len(out) + self.depth:
            self.playing = True
            self._restart_watch()
        if not self.playing:
            out.fill(0)
            return
        if self.watched > WATCHED_S * self.rate:
            self._skip(out, self.lowest - self.depth)
            self._restart_watch()
        else:
            self._take(out)
        self.lowest = min(self.lowest, self.ring.level)
        self.watched += len(out)

    def _take(self, out: Samples) -> None:
        count = self.ring.read(out)
        if count < len(out):
            out[count:] = 0
            self.playing = False
            self.underruns += 1
            deeper = min(self.depth + round(DEPTH_STEP_S * self.rate), round(MAX_DEPTH_S * self.rate))
            self.depth = max(self.depth, deeper)  # which the user may have chosen above the limit

    def _skip(self, out: Samples, surplus: int) -> None:
        """Fill ``out`` with a cross-fade from the next samples to those ``surplus`` samples later."""
        if surplus < SURPLUS_S * self.rate or self.ring.level < len(out) + surplus:
            self._take(out)
            return
        before = np.zeros_like(out)
        self.ring.peek(before)
        self.ring.drop(surplus)
        self.ring.read(out)
        fade = np.minimum(np.arange(1, len(out) + 1, dtype=np.float32) / (FADE_S * self.rate), 1.0)
        out[:] = fade * out + (1 - fade) * before
        self.skips += 1

    def _restart_watch(self) -> None:
        self.lowest, self.watched = sys.maxsize, 0
