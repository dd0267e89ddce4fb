"""Atomic writing of audio files, at once or in pieces."""

import os
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.checking import check_floats
from data.audio.containers import rf64
from data.audio.resampling import Resampler
from engine.files import atomic, disk_errors
from engine.user_error import UserError

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
"""libsndfile's format and default subtype by extension."""
INTEGER_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
CODEC_RATES = {
    "OPUS": (8_000, 12_000, 16_000, 24_000, 48_000),
    "MPEG_LAYER_III": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
"""Sample rates in Hz of codecs that support only some; other audio is resampled to the next higher one."""
CLIPPED_SHARE = 0.0005
"""Fraction of clipped samples above which a warning is printed."""
MOST_WAV_BYTES = 0xFFFFFFFF
# libvorbis copies each write to the stack, which large ones would overflow.
WRITE_FRAMES = 16_384


def save(
    path: str | Path, wave: Float[Tensor, "... samples"], sample_rate: int, subtype: str | None = None
) -> None:
    """Write a wave, shaped ``1 channels samples``, atomically in the format of the path's extension.

    16 bits by default; ``subtype`` is libsndfile's name, such as ``PCM_24`` or ``FLOAT``. Missing folders are
    created. Samples outside [-1, 1] are clipped unless the subtype is floating-point.
    """
    check_floats(wave, f"the wave for {path}")
    if wave.ndim > 3 or (wave.ndim == 3 and wave.shape[0] != 1):
        raise ValueError(f"a wave to save is shaped (1, channels, samples), not {tuple(wave.shape)}")
    channels = wave.shape[-2] if wave.ndim > 1 else 1
    with Writer(path, sample_rate, subtype, channels=channels) as writer:
        writer.write(wave)


class Writer:
    """An audio file written in pieces, which appears under its name only if the ``with`` block succeeds."""

    def __init__(
        self, path: str | Path, sample_rate: int, subtype: str | None = None, *, channels: int = 1
    ) -> None:
        self.path, self.channels = Path(path), channels
        self.format, default = _format(self.path)
        self.subtype = subtype or default
        self.sample_rate = file_rate(self.path, sample_rate, self.subtype)
        self.written = self.clipped = 0
        """Number of samples so far, and of those that were clipped."""
        self.resampler = Resampler(sample_rate, self.sample_rate, channels)
        if not soundfile.check_format(self.format, self.subtype):
            known = ", ".join(soundfile.available_subtypes(self.format))
            raise UserError(f"{self.path} cannot hold subtype {self.subtype!r}; choose one of {known}")

    def __enter__(self) -> "Writer":
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; give the name of a file to write")
        with ExitStack() as ending:
            self._temporary = ending.enter_context(atomic(self.path))
            self.file = soundfile.SoundFile(
                os.fsencode(self._temporary),  # pyright: ignore[reportArgumentType] - bytes are taken
                "w",
                self.sample_rate,
                self.channels,
                self.subtype,
                format=self.format,
            )
            ending.push(self._widen)
            ending.callback(self.file.close)
            ending.push(self._flush)
            self._ending = ending.pop_all()
        return self

    def write(self, wave: Float[Tensor, "... samples"]) -> None:
        """Append a piece, shaped ``1 channels samples`` (or fewer axes)."""
        check_floats(wave, f"the wave for {self.path}")
        channels = wave.shape[-2] if wave.ndim > 1 else 1
        frames = wave.detach().to("cpu", torch.float32).reshape(channels, wave.shape[-1]).T.numpy()
        if channels != self.channels:
            raise ValueError(f"{self.path} is being written with {self.channels} channels, not {channels}")
        if not np.isfinite(frames).all():
            raise UserError(f"{self.path} was not written: the wave holds NaN or infinite samples")
        self.written += frames.size
        self.clipped += int((np.abs(frames) > 1).sum()) if self.subtype not in ("FLOAT", "DOUBLE") else 0
        self._append(self.resampler.push(frames))

    def _append(self, frames: np.ndarray) -> None:
        encoded = _encode(frames, self.subtype)
        with disk_errors(self._temporary, self.path):
            for start in range(0, len(encoded), WRITE_FRAMES):
                self.file.write(np.ascontiguousarray(encoded[start : start + WRITE_FRAMES]))

    def _flush(self, kind, error, traceback) -> None:
        if kind is None:
            self._append(self.resampler.flush())
            share = self.clipped / max(self.written, 1)
            if share > CLIPPED_SHARE:
                clipped = f"{share:.2%} of its samples exceeded full scale and were clipped"
                warnings.warn(f"{self.path}: {clipped}: make it quieter, or write floats", stacklevel=4)

    def _widen(self, kind, error, traceback) -> None:
        """Replace the header of a WAV that is too long for it by an RF64 header."""
        if kind is None and self.format == "WAV" and self._temporary.stat().st_size > MOST_WAV_BYTES:
            with rf64(self._temporary) as wide, atomic(self._temporary) as whole, whole.open("wb") as file:
                shutil.copyfileobj(wide, file, 1 << 24)

    def __exit__(self, kind, error, traceback) -> None:
        self._ending.__exit__(kind, error, traceback)


def file_rate(path: str | Path, sample_rate: int, subtype: str | None = None) -> int:
    """Return the sample rate of a file to write: the requested one, or the next higher of its codec."""
    rates = CODEC_RATES.get(subtype or _format(Path(path))[1])
    if sample_rate < 1:
        raise UserError(f"{path} cannot be written at {sample_rate} Hz; give a positive sample rate")
    return sample_rate if rates is None else min((r for r in rates if r >= sample_rate), default=rates[-1])


def _format(path: Path) -> tuple[str, str]:
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path} cannot be written: name it with one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _encode(frames: np.ndarray, subtype: str) -> np.ndarray:
    """Clip, and round to the nearest value of an integer subtype (libsndfile would truncate)."""
    if subtype in ("FLOAT", "DOUBLE"):
        return frames
    if subtype not in INTEGER_BITS:
        return frames.clip(-1, 1)
    bits = INTEGER_BITS[subtype]
    top = 2 ** (bits - 1)
    steps = np.rint(frames.astype(np.float64) * top).clip(-top, top - 1)
    return (steps * 2 ** (32 - bits)).astype(np.int32)
