"""Reading of audio files of any container, sample rate and number of channels."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio.checking import check_rate
from data.audio.decoding import EXTENSIONS, READ_ONLY, AudioError, Sound, opened
from data.audio.mixing import mixed
from data.audio.resampling import Frames, Resampler
from engine.outcome import leaving_out
from engine.user_error import UserError

Wave = Float[Tensor, "1 1 samples"]
MARGIN_SECONDS = 0.1
"""Context around an excerpt, longer than half of soxr's filter, so that it equals that part of the file."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """Properties of an audio file; its samples are counted by decoding if the header does not state them."""

    sample_rate: int
    """Sample rate in Hz."""
    samples: int
    """Number of samples per channel."""
    channels: int
    remarks: tuple[str, ...] = ()
    """Irregularities of the file that do not prevent reading all of it."""

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.samples / self.sample_rate


def info(path: str | Path) -> AudioInfo:
    with opened(Path(path)) as sound:
        samples = sound.samples
        if samples is None:
            samples = sum(len(frames) for frames in sound.decode())
        rate, channels = sound.sample_rate, sound.channels
        return AudioInfo(sample_rate=rate, samples=samples, channels=channels, remarks=sound.remarks)


def unreadable(paths: Iterable[Path], left_out: list[str]) -> set[Path]:
    """Decode every file; return those for which it fails, and append their messages to ``left_out``."""
    paths = list(dict.fromkeys(paths))
    bad = set(paths)
    for path in tqdm(paths, desc="reading", unit="file", delay=2.0, leave=False, disable=None):
        with leaving_out(left_out):
            load(path)
            bad.remove(path)
    return bad


def load(
    path: str | Path, sample_rate: int | None = None, *, mono: bool = True
) -> Float[Tensor, "1 channels samples"]:
    """Read a whole file, mixed to mono unless ``mono`` is false, resampled if ``sample_rate`` is given."""
    path = Path(path)
    if sample_rate is not None:
        check_rate(sample_rate)
    with opened(path) as sound:
        wave = np.concatenate(list(_resampled(sound, sample_rate, mono=mono)))
    if not len(wave):
        raise AudioError(path, "too short", f"is too short: no sample of it is left at {sample_rate} Hz")
    return torch.from_numpy(np.ascontiguousarray(wave.T))[None]


def blocks(path: str | Path, sample_rate: int | None, block_samples: int) -> Iterator[Wave]:
    """Read a file in mono blocks of ``block_samples``, of which the last may be shorter, in constant memory.

    Concatenated, they equal ``load(path, sample_rate)``. Errors on opening the file are raised by the call,
    not with the first block.
    """
    path = Path(path)
    if block_samples < 1:
        raise UserError(f"block_samples={block_samples} must be at least 1")
    if sample_rate is not None:
        check_rate(sample_rate)
    with opened(path):
        pass
    return _blocks(path, sample_rate, block_samples)


def _blocks(path: Path, sample_rate: int | None, block_samples: int) -> Iterator[Tensor]:
    with opened(path) as sound:
        waiting: list[np.ndarray] = []
        n_waiting = 0
        for part in _resampled(sound, sample_rate):
            waiting.append(part[:, 0])
            n_waiting += len(part)
            if n_waiting < block_samples:
                continue
            joined = np.concatenate(waiting)
            whole = n_waiting // block_samples * block_samples
            for start in range(0, whole, block_samples):
                yield torch.from_numpy(joined[start : start + block_samples].copy())[None, None]
            waiting, n_waiting = [joined[whole:]], n_waiting - whole
        if n_waiting:
            yield torch.from_numpy(np.concatenate(waiting))[None, None]


def excerpt(path: str | Path, start: int, samples: int, sample_rate: int | None = None) -> Wave:
    """Read ``samples`` mono samples from ``start`` on, both at ``sample_rate``, without decoding the rest.

    Equals that part of ``load(path, sample_rate)``; shorter if the file ends before.
    """
    path = Path(path)
    if start < 0 or samples < 1:
        raise UserError(f"{path}: an excerpt of {samples} samples from sample {start} is not possible")
    if sample_rate is not None:
        check_rate(sample_rate)
    with opened(path) as sound:
        file_rate = sound.sample_rate
        rate = sample_rate or file_rate
        # Begin where samples of both rates coincide, so that the resampler's phase is that of the whole file.
        common = gcd(file_rate, rate)
        file_step, step = file_rate // common, rate // common
        margin = 0 if file_rate == rate else int(MARGIN_SECONDS * file_rate) + 1
        first = max(0, start * file_step // step - margin) // file_step
        until = -(-(start + samples) * file_step // step) + margin
        parts = list(_resampled(sound, rate, (first * file_step, until)))
    offset = start - first * step
    return torch.from_numpy(np.concatenate(parts)[offset : offset + samples, 0].copy())[None, None]


def _resampled(
    sound: Sound, sample_rate: int | None, ends: tuple[int, int | None] = (0, None), *, mono: bool = True
) -> Iterator[Frames]:
    """Decode between two samples of the file, and resample if ``sample_rate`` is given."""
    rate = sound.sample_rate
    resampler = Resampler(rate, sample_rate or rate, 1 if mono else sound.channels)
    for frames in sound.decode(*ends):
        yield resampler.push(mixed(frames, sound.path) if mono else frames)
    yield resampler.flush()


def audio_files(folder: str | Path) -> list[Path]:
    """List all audio files under a folder by extension, sorted, without hidden files; links are followed.

    Folders without read permission are listed too, so that they are reported like other unusable files.
    """
    found = files_under(folder, EXTENSIONS + READ_ONLY)
    if not found:
        raise UserError(f"{folder} holds no audio files ({', '.join(e[1:] for e in EXTENSIONS)}, …)")
    return found


def named_as_audio(path: Path) -> bool:
    """Return whether a path has an audio extension, unlike unreadable folders from ``audio_files``."""
    return path.name.lower().endswith(EXTENSIONS + READ_ONLY)


def files_under(folder: str | Path, extensions: tuple[str, ...] = ("",)) -> list[Path]:
    """List all files with one of these extensions under a folder, as ``audio_files`` does."""
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file where a folder is expected")
    found: list[Path] = []
    seen: set[str] = set()
    walk = os.walk(folder, onerror=lambda error: found.append(Path(error.filename)), followlinks=True)
    for place, folders, files in walk:
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder listed already
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (name for name in files if not name.startswith("."))
        found += [Path(place, name) for name in shown if name.lower().endswith(extensions)]
    return sorted(found)
