"""A bounded queue of jobs: a few threads that work, first come first served."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from app.limits import BusyError

T = TypeVar("T")


class JobQueue:
    """Jobs worked on in the order they came, ``workers`` at a time, at most ``capacity`` waiting."""

    def __init__(self, workers: int, capacity: int) -> None:
        self.workers, self.capacity = workers, capacity
        self._lock = threading.Lock()
        self._inside = 0
        self._here = threading.local()
        self._pool = ThreadPoolExecutor(workers, "conversion", initializer=self._begin)

    @property
    def working(self) -> int:
        """Jobs worked on now."""
        return min(self._inside, self.workers)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return max(0, self._inside - self.workers)

    @property
    def full(self) -> bool:
        """Whether the next job would be refused."""
        return self._inside >= self.workers + self.capacity

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue a job; one that has not begun can still be cancelled."""
        with self._lock:
            if self.full:
                raise BusyError(f"{self.waiting} others are waiting already; try again in some seconds")
            self._inside += 1
        future = self._pool.submit(job)
        future.add_done_callback(self._leave)
        return future

    def run(self, job: Callable[[], T]) -> T:
        """Queue a job and wait for its result; at once for a job that is part of the one worked on."""
        if getattr(self._here, "working", False):
            return job()
        return self.submit(job).result()

    def close(self) -> None:
        """Send those who wait away and let what is worked on end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        self._here.working = True
        torch.set_num_threads(1)  # counted for each thread that calls: workers must not fight over the cores

    def _leave(self, _: Future) -> None:
        with self._lock:
            self._inside -= 1
