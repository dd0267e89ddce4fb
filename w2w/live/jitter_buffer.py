"""What waits to be played: never missed, never waited for long; and the queues between the threads."""

import sys

import numpy as np
from jaxtyping import Float

Samples = Float[np.ndarray, "samples"]


class Ring:
    """A queue of samples of fixed size, for one thread that writes and one that reads; neither ever waits."""

    def __init__(self, size: int) -> None:
        self.memory = np.zeros(size, np.float32)
        # Counts of all time: each is changed by one thread only, hence no lock.
        self.written = self.taken = 0

    @property
    def level(self) -> int:
        return self.written - self.taken

    def write(self, samples: Samples) -> int:
        """Take in what there is room for, from the front; return how many samples that were."""
        count = min(len(samples), len(self.memory) - self.level)
        first, second = self._places(self.written, count)
        self.memory[first] = samples[: first.stop - first.start]
        self.memory[second] = samples[first.stop - first.start : count]
        self.written += count
        return count

    def peek(self, out: Samples) -> int:
        """Copy the oldest samples into ``out`` and keep them; return how many there were."""
        count = min(len(out), self.level)
        first, second = self._places(self.taken, count)
        out[: first.stop - first.start] = self.memory[first]
        out[first.stop - first.start : count] = self.memory[second]
        return count

    def read(self, out: Samples) -> int:
        """Move the oldest samples into ``out``; return how many there were."""
        count = self.peek(out)
        self.taken += count
        return count

    def drop(self, count: int) -> int:
        """Forget up to ``count`` of the oldest samples; return how many that were."""
        count = min(count, self.level)
        self.taken += count
        return count

    def _places(self, position: int, count: int) -> tuple[slice, slice]:
        """The stretches of memory that hold ``count`` samples from ``position`` on."""
        start = position % len(self.memory)
        until = min(start + count, len(self.memory))
        return slice(start, until), slice(0, start + count - until)


HELD_S = 1.0
"""Seconds that wait at most: what a computer that stood still may fall behind."""
WATCHED_S = 2.0
"""Seconds in which the queue never ran low, after which its surplus is left out."""
SURPLUS_S = 0.003
"""Seconds that are not worth leaving out."""
FADE_S = 0.005
STEP_S, MOST_S = 0.005, 0.1
"""Seconds by which the depth grows at an underrun, and its most."""


class JitterBuffer:
    """A queue that one thread fills in bursts and the sound card's thread empties steadily.

    It begins to play when ``depth`` samples are in it. Running dry is an underrun: silence until these, then
    some more, are there again. What lies above the depth for seconds is left out by a short fade, so
    that neither lateness piles up nor the drift between two cards' clocks.
    """

    def __init__(self, rate: int, depth: int) -> None:
        self.rate, self.depth = rate, depth
        """Hz, and the samples that are to be there before one is needed."""
        self.ring = Ring(round(HELD_S * rate))
        self.playing = False
        self.underruns = self.overruns = self.skips = 0
        """Times that it ran dry, that it was full, and that a surplus was left out."""
        self._watch()

    @property
    def seconds(self) -> float:
        return self.ring.level / self.rate

    def write(self, samples: Samples) -> None:
        """Add what was converted."""
        self.overruns += self.ring.write(samples) < len(samples)

    def read(self, out: Samples) -> None:
        """Fill ``out`` with what is next."""
        if not self.playing and self.ring.level >= len(out) + self.depth:
            self.playing = True
            self._watch()
        if not self.playing:
            out.fill(0)
            return
        if self.watched > WATCHED_S * self.rate:
            self._leave_out(out, self.lowest - self.depth)
            self._watch()
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
            self.depth = min(self.depth + round(STEP_S * self.rate), round(MOST_S * self.rate))

    def _leave_out(self, out: Samples, surplus: int) -> None:
        """Go over from what is next to what follows a surplus later."""
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

    def _watch(self) -> None:
        self.lowest, self.watched = sys.maxsize, 0
