"""Queued conversion of files within limits, shared by the page and the HTTP interface."""

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

from app.limits import BusyError, Limits
from data.audio import excerpt
from engine.checkpoint import weights_digest
from engine.user_error import UserError
from w2w.convert import convert, job_of
from w2w.converter import Converter, Voice
from w2w.networks.network import ConverterNetwork
from w2w.networks.wave_network import MOST_SEMITONES
from w2w.voices import HEARD_S
from w2w.weights import RELEASED_LIVE

T = TypeVar("T")


class JobQueue:
    """A first-in, first-out queue: ``workers`` jobs run in parallel and at most ``capacity`` wait."""

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
        """Jobs that have not started."""
        return max(0, self._inside - self.workers)

    @property
    def full(self) -> bool:
        return self._inside >= self.workers + self.capacity

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue a job, which can be cancelled until it starts; raise ``BusyError`` if the queue is full."""
        with self._lock:
            if self.full:
                raise BusyError(f"{self.waiting} others are waiting; try again in a few seconds")
            self._inside += 1
        future = self._pool.submit(job)
        future.add_done_callback(self._leave)
        return future

    def run(self, job: Callable[[], T]) -> T:
        """Queue a job and wait for its result; a call from within a job runs at once."""
        if getattr(self._here, "working", False):
            return job()
        return self.submit(job).result()

    def close(self) -> None:
        """Cancel waiting jobs and wait for running ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        self._here.working = True
        torch.set_num_threads(1)  # per thread, so that workers do not compete for cores

    def _leave(self, _: Future) -> None:
        with self._lock:
            self._inside -= 1


class Conversions:
    """One converter shared by all users; its thread-safe methods queue their work.

    An unusable recording raises a ``UserError`` that contains its file name but not its folder.
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
        """Whether results carry the watermark that `python -m w2w.watermark` detects."""
        self.folder = folder or Path(tempfile.mkdtemp(prefix="timbre-"))
        """Folder of the results; callers delete them."""
        self._owns_folder = folder is None
        self.jobs = JobQueue(self.limits.workers, self.limits.queue)

    @cached_property
    def key(self) -> str:
        """Digest of the weights, which identifies the converter that made a voice."""
        return weights_digest(self.converter.network)

    @cached_property
    def live(self) -> "Conversions":
        """Conversions for live speech: these, or those of `released_live` if this converter cannot stream."""
        network = self.converter.network
        if network.streams or not isinstance(network, ConverterNetwork):
            return self
        live = copy(self)
        live.converter = Converter.from_pretrained(RELEASED_LIVE)
        return live

    def voice(self, paths: Sequence[Path], weights: Sequence[float] | None = None) -> Voice:
        """Embed a voice from recordings: their average, or a blend with ``weights``."""
        paths = [Path(path) for path in paths]
        if len(paths) > self.limits.max_references:
            raise UserError(
                f"{len(paths)} references were given, at most {self.limits.max_references} are allowed"
            )
        if not paths:
            raise UserError("no reference was given; a voice needs at least one recording")
        if weights is not None and len(weights) != len(paths):
            raise UserError(f"{len(weights)} weights for {len(paths)} references: give one for each")
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
        """Convert a recording to a voice and return the result's file, which is as long as the source.

        ``rate`` is the result's sample rate in Hz (0: the source's, None: the converter's); ``out`` its file
        (.wav or .flac), by default a new one in ``folder``. ``done`` is called with the number of seconds
        converted since its last call, and may raise an exception to stop.
        """
        if not abs(semitones) <= MOST_SEMITONES:
            raise UserError(f"pitch {semitones} must be within {MOST_SEMITONES:.0f} semitones of 0")
        out = out or self.folder / f"{uuid.uuid4().hex}.wav"
        self.jobs.run(lambda: self._convert(Path(source), voice, out, semitones, rate, done))
        return out

    def warm(self) -> None:
        """Convert half a second of noise, to compile before the first request."""
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
        with _file_names_only(paths):
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
        with _file_names_only([source]):
            self.limits.measure(source)
            job = job_of(source, out)
            marked = self.marked
            convert(self.converter, voice, job, rate=rate, semitones=semitones, marked=marked, done=done)


@contextmanager
def _file_names_only(paths: Sequence[Path]) -> Iterator[None]:
    """Replace paths by file names in error messages, to hide the server's folders from users."""
    try:
        yield
    except UserError as mistake:
        for path in paths:
            message = str(mistake)
            if str(path) in message and str(path) != path.name:
                raise _with_name(mistake, path) from None
        raise


def _with_name(mistake: UserError, path: Path) -> UserError:
    """Return the same error with a file's name in place of its path."""
    if hasattr(mistake, "path"):
        mistake.path = Path(path.name)  # type: ignore[attr-defined]
        return mistake
    return type(mistake)(str(mistake).replace(str(path), path.name))
