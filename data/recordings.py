"""The waves of a corpus at one sample rate, cached or read from disk, and the choice of crop positions."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.audio import AudioError, excerpt, info, load, resample, resampled_length
from data.audio.checking import INTEGER_PEAK
from data.manifest import Row
from engine.outcome import end, note, summary
from engine.user_error import UserError

CHUNK = 64
"""Files decoded between two checks of the memory used."""
CHECKED, CHECKED_SECONDS = 8, 10
"""Number of recordings, and seconds of each, in which a voice is searched."""
FULL_SCALE = 32_767


class Recordings:
    """The waves of manifest rows; unusable ones are reported after reading and skipped.

    Waves are cached as 16-bit integers up to ``cache_gib``; of further rows only the length is determined,
    and crops are read from disk. This happens before worker processes fork, so that they share the memory. If
    a manifest is read as a table and contains all durations, files are opened only when they are used.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        sample_rate: int,
        cache_gib: float = 8.0,
        silence_db: float = -60.0,
        progress: bool = True,
    ) -> None:
        self.rows = rows if hasattr(rows, "durations") else list(rows)
        self.sample_rate, self.silence_db = sample_rate, silence_db
        self.lengths = np.zeros(len(self.rows), np.int64)
        """Length of each row in samples; 0 for unusable ones."""
        self.problems: dict[int, str] = {}
        """Error messages of unusable rows."""
        self._cached: dict[int, tuple[np.ndarray, float]] = {}
        read_durations = getattr(rows, "durations", None)  # of a manifest read as a table
        durations = read_durations() if read_durations else None
        if durations is None:
            self._fill(cache_gib * 2**30, progress)
        else:  # durations are rounded to a tenth of a millisecond
            self.lengths = np.maximum((durations - 0.001) * sample_rate, 1).astype(np.int64)
        left_out = self.left_out
        if progress or left_out:
            done = len(self.rows) - len(left_out)
            print(summary(done, left_out, "recordings read"), file=sys.stderr)
        if not self.lengths.any():
            row, problem = next(iter(self.problems.items()))
            count = len(self.rows)
            raise UserError(f"none of the {count} recordings can be used: {self.rows[row].path} {problem}")

    @property
    def left_out(self) -> list[str]:
        return [f"{self.rows[index].path} {self.problems[index]}" for index in sorted(self.problems)]

    @property
    def usable(self) -> np.ndarray:
        return np.flatnonzero(self.lengths)

    def read(self, index: int, start: int, samples: int) -> np.ndarray:
        """Return float32 ``samples`` of a row from ``start`` on; a shorter row is repeated cyclically.

        Not padded with zeros, so that networks do not learn digital silence, which microphones do not record.
        Raises ``AudioError`` if the file can no longer be read.
        """
        n_samples = int(self.lengths[index])
        if samples > n_samples:
            return np.resize(np.roll(self.read(index, 0, n_samples), -start), samples)
        if index in self._cached:
            wave, scale = self._cached[index]
            return wave[start : start + samples].astype(np.float32) * np.float32(scale)
        wave = excerpt(self.rows[index].path, start, samples, self.sample_rate)[0, 0].numpy()
        if len(wave) < samples:
            raise AudioError(self.rows[index].path, "truncated", "is shorter than its header states")
        return wave

    def drop(self, index: int, problem: str) -> None:
        """Mark a row as unusable after an error, with a note the first time."""
        if index not in self.problems:
            self.problems[index] = problem
            note(f"{self.rows[index].path} {problem}: it is left out from now on")

    def warn_unless_speech(self) -> None:
        """Print a note if no voice is found in any of some recordings spread over all."""
        from data.audio.listening import VOICE_RATE, voice_in

        checked = self.usable[:: -(-len(self.usable) // CHECKED)]
        for index in checked:
            samples = min(int(self.lengths[index]), CHECKED_SECONDS * self.sample_rate)
            try:
                wave = torch.from_numpy(self.read(int(index), 0, samples))[None, None]
            except AudioError:
                return
            resampled = resample(wave, self.sample_rate, VOICE_RATE)[0, 0].numpy()
            if len(resampled) < 2 * VOICE_RATE or voice_in(resampled):  # too short for a decision, or speech
                return
        what = f"no voice was found in any of {len(checked)} recordings examined"
        note(f"{what}, such as {self.rows[checked[0]].path}: is this speech?")

    def _fill(self, limit: float, progress: bool) -> None:
        used = 0
        bar = tqdm(total=len(self.rows), desc="reading audio", unit="file", delay=1.0, disable=not progress)
        # Decoding releases the interpreter's lock, so threads run in parallel.
        with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for first in range(0, len(self.rows), CHUNK):
                chunk = range(first, min(first + CHUNK, len(self.rows)))
                read = self._decode if used < limit else self._measure
                for index, found in zip(chunk, pool.map(read, chunk)):
                    if isinstance(found, str):
                        self.problems[index] = found
                    elif isinstance(found, int):
                        self.lengths[index] = found
                    else:
                        self._cached[index] = found
                        self.lengths[index] = len(found[0])
                        used += found[0].nbytes
                bar.update(len(chunk))

    def _decode(self, index: int) -> tuple[np.ndarray, float] | str:
        try:
            wave = load(self.rows[index].path, self.sample_rate)[0, 0]
        except AudioError as error:
            return error.detail
        peak = wave.abs().max().item()
        if peak < 10 ** (self.silence_db / 20):
            return f"is silent (no sample above {self.silence_db:g} dBFS)"
        if peak > INTEGER_PEAK:
            return f"seems to hold integers stored as floats (peak {peak:.0f}): divide them by 32768"
        if (wave - wave.mean()).abs().max() < 10 ** (self.silence_db / 20):
            return f"is silent except for an offset of {wave.mean():.2f}"
        # Floating-point files may exceed full scale; they keep their level but lose resolution.
        scale = max(1.0, peak) / FULL_SCALE
        return (wave / scale).round().to(torch.int16).numpy(), scale

    def _measure(self, index: int) -> int | str:
        try:
            header = info(self.rows[index].path)
        except AudioError as error:
            return error.detail
        samples = resampled_length(header.samples, header.sample_rate, self.sample_rate)
        return samples or f"is too short: no sample of it is left at {self.sample_rate} Hz"


def recordings_of(rows: Sequence[Row], config: Any, progress: bool) -> Recordings:
    """Make the recordings of rows with the settings of a ``CropConfig``."""
    wanted = {name: getattr(config, name) for name in ("sample_rate", "cache_gib", "silence_db")}
    return Recordings(rows, **wanted, progress=progress)


def end_training(crops: Any) -> None:
    """If recordings were skipped in training, list them again and exit with code 1.

    ``crops`` is the data set of the batches, or has it as an attribute.
    """
    parts = [getattr(part, "recordings", None) for part in (crops, *getattr(crops, "__dict__", {}).values())]
    read = [part for part in parts if isinstance(part, Recordings)]
    left_out = [one for recordings in read for one in recordings.left_out]
    if left_out:
        end(sum(len(recordings.usable) for recordings in read), left_out, "recordings learned from")


DRAWS = 6
"""Maximum number of positions drawn per crop; if all are below the level, the loudest one is used."""
Places = list[tuple[int, int]]
"""Ranges of start positions of a crop, both ends included; a range that ends before it begins is empty."""


def loud_crop(
    rng: np.random.Generator, recordings: Recordings, index: int, samples: int, places: Places
) -> tuple[np.ndarray, int]:
    """Draw a crop of a row that begins in ``places``, if possible not below ``silence_db`` (RMS).

    Returns its samples and its start. Raises ``AudioError`` if the file can no longer be read.
    """
    places = [(first, last) for first, last in places if first <= last]
    # A recording shorter than the crop is repeated, from any position on.
    places = places or [(0, int(recordings.lengths[index]) - 1)]
    floor, best, best_start, best_power = 10 ** (recordings.silence_db / 10), np.empty(0), 0, -1.0
    for _ in range(DRAWS):
        draw = int(rng.integers(sum(last - first + 1 for first, last in places)))
        for first, last in places:
            if draw <= last - first:
                break
            draw -= last - first + 1
        crop = recordings.read(index, first + draw, samples)
        power = float(np.square(crop).mean())
        if power > best_power:
            best, best_start, best_power = crop, first + draw, power
        if power >= floor:
            break
    return best, best_start


def crop_and_reference(
    rng: np.random.Generator, recordings: Recordings, index: int, other: int | None, config: Any
) -> tuple[np.ndarray, int, np.ndarray]:
    """Draw a crop of a row, with its start, and a reference crop of row ``other`` or else of the same row.

    ``config`` is a ``CropConfig``, with which the recordings were made.
    """
    n_samples, samples = int(recordings.lengths[index]), config.crop_samples
    reference_samples = config.reference_samples or samples
    if other is None:
        places = leaving_room(n_samples, samples, reference_samples)
        crop, start = loud_crop(rng, recordings, index, samples, places)
        places = without_overlap(start, n_samples, samples, reference_samples)
    else:
        crop, start = loud_crop(rng, recordings, index, samples, [(0, n_samples - samples)])
        places = [(0, int(recordings.lengths[other]) - reference_samples)]
    reference, _ = loud_crop(rng, recordings, index if other is None else other, reference_samples, places)
    return crop, start, reference


def leaving_room(n_samples: int, samples: int, reference_samples: int) -> Places:
    """Return start positions of a crop that leave room for a reference crop in the same recording."""
    room = n_samples - samples - reference_samples
    if 0 <= room < reference_samples:  # a crop in the middle would leave neither side long enough
        return [(0, room), (reference_samples, n_samples - samples)]
    return [(0, n_samples - samples)]


def without_overlap(start: int, n_samples: int, samples: int, reference_samples: int) -> Places:
    """Return start positions of the reference crop without overlap, or with minimal overlap."""
    if n_samples >= samples + reference_samples:
        return [(0, start - reference_samples), (start + samples, n_samples - reference_samples)]
    if n_samples < reference_samples:
        return []
    far = 0 if 2 * start > n_samples - samples else n_samples - reference_samples
    return [(far, far)]
