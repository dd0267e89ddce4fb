"""Conversions for whoever asks: voices and results by file, within limits, one after another."""

import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from app.limits import BusyError, Limits
from data.audio import excerpt
from engine.checkpoint import weights_digest
from engine.user_error import UserError
from w2w.convert import MOST_SEMITONES, convert, job_of
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork
from w2w.voices import HEARD_S
from w2w.weights import RELEASED_LIVE

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
        return min(self._inside, self.workers)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return max(0, self._inside - self.workers)

    @property
    def full(self) -> bool:
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


Voice = Float[Tensor, "1 dim"]


class Conversions:
    """One converter shared by all users; every call waits its turn, and may be made from any thread.

    A recording that cannot be used is a ``UserError`` that calls it by its file name, never by its folder.
    """

    def __init__(
        self,
        converter: Converter,
        limits: Limits | None = None,
        marked: bool = True,
        *,
        folder: Path | None = None,
    ) -> None:
        self.converter, self.limits = converter, limits or Limits()
        self.marked = marked
        """Whether results carry the watermark that `python -m w2w.watermark` finds."""
        self.folder = folder or Path(tempfile.mkdtemp(prefix="timbre-"))
        """Where results are written; whoever asked for one deletes it."""
        self._owns_folder = folder is None
        self.jobs = JobQueue(self.limits.workers, self.limits.queue)

    @cached_property
    def key(self) -> str:
        """What tells this converter's voices from another's."""
        return weights_digest(self.converter.network)

    @cached_property
    def live(self) -> "Conversions":
        """What speaks live: these, or, where they need whole recordings, those of `released_live`."""
        network = self.converter.network
        if network.streams or not isinstance(network, ConverterNetwork):
            return self
        live = copy(self)
        live.converter = Converter.from_pretrained(RELEASED_LIVE)
        return live

    def voice(self, paths: Sequence[Path], weights: Sequence[float] | None = None) -> Voice:
        """Take a voice from recordings: their average, or a blend in proportion to ``weights``."""
        paths = [Path(path) for path in paths]
        if len(paths) > self.limits.max_references:
            raise UserError(
                f"{len(paths)} references were given, at most {self.limits.max_references} are allowed"
            )
        if not paths:
            raise UserError("no reference was given; a voice needs at least one recording")
        if weights is not None and len(weights) != len(paths):
            raise UserError(f"{len(weights)} weights were given for {len(paths)} references: one for each")
        return self.jobs.run(lambda: self._voice(paths, weights))

    def convert(
        self,
        source: Path,
        voice: Voice,
        *,
        semitones: float = 0.0,
        rate: int | None = None,
        out: Path | None = None,
        done: Callable[[float], object] = lambda seconds: None,
    ) -> Path:
        """Speak a recording with a voice and return the result's file, as long as the source.

        ``rate`` in Hz is the result's (0: the source's, None: the converter's); ``out`` its file (.wav or
        .flac), else a new one in ``folder``. ``done`` hears of every few seconds, and may raise to stop.
        """
        if not abs(semitones) <= MOST_SEMITONES:
            raise UserError(f"pitch {semitones} must be within {MOST_SEMITONES:.0f} semitones of 0")
        out = out or self.folder / f"{uuid.uuid4().hex}.wav"
        self.jobs.run(lambda: self._convert(Path(source), voice, out, semitones, rate, done))
        return out

    def warm(self) -> None:
        """Convert a moment of noise, so that what is compiled once is compiled before the first visitor."""
        noise = 0.1 * torch.randn(1, 1, self.converter.sample_rate // 2)
        self.jobs.submit(lambda: self.converter.convert(noise, self.converter.embed(noise)))

    def close(self) -> None:
        self.jobs.close()
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Conversions":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _voice(self, paths: Sequence[Path], weights: Sequence[float] | None) -> Voice:
        rate, voices = self.converter.sample_rate, []
        with _called_by_name(paths):
            for path in paths:
                self.limits.measure(path)
                clip = excerpt(path, 0, round(HEARD_S * rate), rate)
                voices.append(self.converter.embed(clip, names=[str(path)]))
        if weights is None:
            return torch.stack(voices).mean(0)
        return self.converter.blend(voices, weights)

    def _convert(
        self,
        source: Path,
        voice: Voice,
        out: Path,
        semitones: float,
        rate: int | None,
        done: Callable[[float], object],
    ) -> None:
        with _called_by_name([source]):
            self.limits.measure(source)
            job = job_of(source, out)
            marked = self.marked
            convert(self.converter, voice, job, rate=rate, semitones=semitones, marked=marked, done=done)


@contextmanager
def _called_by_name(paths: Sequence[Path]) -> Iterator[None]:
    """Call files by their names in what is complained about: folders are no business of the users."""
    try:
        yield
    except UserError as mistake:
        for path in paths:
            message = str(mistake)
            if str(path) in message and str(path) != path.name:
                raise _retold(mistake, path) from None
        raise


def _retold(mistake: UserError, path: Path) -> UserError:
    """The same complaint, of the same kind, with a file's name for its path."""
    if hasattr(mistake, "path"):
        mistake.path = Path(path.name)  # type: ignore[attr-defined]
        return mistake
    return type(mistake)(str(mistake).replace(str(path), path.name))
