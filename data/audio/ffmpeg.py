"""Decoding by PyAV of formats that libsndfile does not support: AAC, WMA, WebM, MP3 of unknown length …"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

import av
import numpy as np

from data.audio.resampling import Frames
from engine.user_error import reason

CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,loas,matroska,webm,mov,mp4,mp3,mpc,mpc8,"
    "mpeg,mpegts,ogg,rm,tta,voc,w64,wav,wv"
)
"""Containers that may be opened; others, such as playlists, can refer to further files and hosts."""
SHORTFALL_SECONDS = 1.0
"""A stream that is shorter by more than this than its header states counts as truncated."""


class FFmpegSound:
    """The first audio stream of an open file; its length is known after it was decoded once."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        options = {"format_whitelist": CONTAINERS}
        with _failures():
            self._container: Any = av.open(file, metadata_errors="replace", container_options=options)
        stream = next(iter(self._container.streams.audio), None)
        if stream is None or stream.codec_context is None:
            self._container.close()
            raise ValueError("it has no audio stream" if stream is None else "its codec is not known")
        self._stream: Any = stream
        self.sample_rate = int(stream.sample_rate)
        self.channels = int(stream.codec_context.layout.nb_channels)
        self.samples: int | None = None
        self._padded, self._stated = self._lengths()
        self._begun = False

    def _lengths(self) -> tuple[int | None, int | None]:
        """Return the samples before the padding, and those that the header states; None where unknown."""
        name, stream, whole = self._container.format.name, self._stream, self._container.duration
        if "mp4" in name and stream.duration:
            length = round(stream.duration * stream.time_base * self.sample_rate)
            return length, length
        known = ("matroska" in name or "asf" in name) and len(self._container.streams) == 1
        return None, round(whole * self.sample_rate / 1_000_000) if known and whole else None

    def decode(self, start: int = 0, until: int | None = None) -> Iterator[Frames]:
        """Decode from ``start`` to ``until``, internally from the beginning, because seeking is inexact."""
        if self._begun:
            self._container.seek(0)
        self._begun, place = True, 0
        for frame in self._frames():
            if frame.sample_rate != self.sample_rate or frame.layout.nb_channels != self.channels:
                raise ValueError("its rate or channels change within the stream")
            samples = samples_of(frame)
            if self._padded is not None:
                samples = samples[: max(0, self._padded - place)]
            kept = samples[max(0, start - place) : None if until is None else max(0, until - place)]
            place += len(samples)
            if len(kept):
                yield kept
            if until is not None and place >= until:
                return
        self.samples = place
        if self._stated is not None and self._stated - place > SHORTFALL_SECONDS * self.sample_rate:
            raise ValueError(f"its header states {self._stated / self.sample_rate:.2f} s")

    def _frames(self) -> Iterator[Any]:
        with _failures():
            yield from self._container.decode(self._stream)

    def close(self) -> None:
        self._container.close()
        self._file.close()


@contextmanager
def _failures() -> Iterator[None]:
    """Convert FFmpeg's errors to ``ValueError``."""
    try:
        yield
    except av.FFmpegError as error:
        raise ValueError(reason(error)) from None


def samples_of(frame: Any) -> Frames:
    """Convert a decoded frame to float32 samples in [-1, 1]."""
    samples, n_channels = frame.to_ndarray(), len(frame.layout.channels)
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, n_channels)
    if samples.dtype == np.uint8:
        return ((samples.astype(np.float32) - 128) / 128).astype(np.float32)
    if samples.dtype.kind == "i":
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return np.ascontiguousarray(samples, np.float32)
