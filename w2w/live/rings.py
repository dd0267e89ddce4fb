"""Bounded queues of samples between the sound card's thread and the one that converts."""

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
        """Samples inside."""
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
