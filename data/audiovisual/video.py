"""Sequential decoding of video frames and audio by PyAV, with one-sentence errors for unusable files."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.audio.mixing import mixed_whole
from data.audio.reading import files_under
from data.audio.resampling import Resampler
from engine.user_error import FileError, UserError, reason

Picture = UInt8[Tensor, "3 height width"]
EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".ts")
"""Extensions of video files."""
FRAME_RATE = 1.0
"""Default number of frames used per second of video; adjacent frames differ little."""
SHORTFALL_SECONDS, SHORTFALL_SHARE = 1.0, 0.1
"""A stream that is shorter by more than both of these than its header states counts as truncated."""

Problem = Literal["missing", "unreadable", "truncated", "empty", "no sound", "no picture"]


class VideoError(FileError[Problem]):
    """A video that cannot be used, with the kind of problem for statistics."""


def video_streams(path: Path) -> tuple[bool, bool]:
    """Return whether a video has sound, and whether it has pictures, from its header."""
    with _opened(path) as container:
        sounds, pictures = container.streams.audio[:1], container.streams.video[:1]
        return any(stream.sample_rate for stream in sounds), any(stream.height for stream in pictures)


def video_frames(
    path: str | Path,
    frame_rate: float | None = FRAME_RATE,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> Iterator[Picture]:
    """Yield the frame in the middle of each interval of 1 / ``frame_rate`` seconds, or all frames for None.

    A segment shorter than an interval gives the frame in its middle. One frame is in memory at a time. Errors
    about the file are raised with the first frame.
    """
    if frame_rate is not None and not 0 < frame_rate < math.inf:
        raise ValueError(f"frame_rate={frame_rate} must be a positive number of frames per second")
    path, step = Path(path), None if frame_rate is None else 1 / frame_rate
    with _opened(path) as container:
        stream = _first(path, container.streams.video, "no picture", "pictures")
        stream.thread_type = "AUTO"
        stop_s = math.inf if duration_s is None else start_s + duration_s
        wanted = start_s if step is None else start_s + min(step, stop_s - start_s) / 2
        shown: Any = None
        end_s = 0.0
        n_yielded = 0
        for frame, at_s, lasts_s in _decoded(path, container, stream, start_s):
            # The previous frame is displayed until the time of this one.
            while step is not None and shown is not None and wanted < min(at_s, stop_s):
                yield _pixels(shown)
                n_yielded, wanted = n_yielded + 1, start_s + (n_yielded + 1.5) * step
            if at_s >= stop_s:
                end_s = at_s
                break
            if step is None and at_s >= start_s:
                yield _pixels(frame)
                n_yielded += 1
            shown, end_s = frame, at_s + lasts_s
        else:
            _whole(path, stream, container, end_s, "pictures")
        until = min(end_s, stop_s)
        while step is not None and shown is not None and (wanted < until or not n_yielded):
            if not n_yielded and until <= start_s:
                break
            yield _pixels(shown)
            n_yielded, wanted = n_yielded + 1, start_s + (n_yielded + 1.5) * step
        if not n_yielded:
            raise _nothing(path, "picture", start_s)


def video_sound(
    path: str | Path, sample_rate: int, *, start_s: float = 0.0, duration_s: float | None = None
) -> Float[Tensor, "1 1 samples"]:
    """Read a segment of the audio, mixed to mono and resampled; shorter if the file ends before.

    Only the returned segment is held in memory.
    """
    path = Path(path)
    with _opened(path) as container:
        from data.audio.ffmpeg import samples_of

        stream = _first(path, container.streams.audio, "no sound", "sound")
        rate = int(stream.sample_rate)
        first = round(start_s * rate)
        last = None if duration_s is None else first + round(duration_s * rate)
        resampler = Resampler(rate, sample_rate, int(stream.codec_context.layout.nb_channels))
        parts, place = [], None
        end_s = 0.0
        for frame, at_s, _ in _decoded(path, container, stream, start_s):
            frames = samples_of(frame)
            # Time stamps are rounded, so only the first one is used; later positions are counted.
            place = round(at_s * rate) if place is None else place
            end_s = (place + len(frames)) / rate
            kept = frames[max(0, first - place) : None if last is None else max(0, last - place)]
            place += len(frames)
            parts.append(resampler.push(kept))
            if last is not None and place >= last:
                break
        else:
            _whole(path, stream, container, end_s, "sound")
        parts.append(resampler.flush())
    frames = np.concatenate(parts)
    if not len(frames):
        raise _nothing(path, "sound", start_s)
    wave = mixed_whole(frames)[:, 0]
    if not np.isfinite(wave).all():
        raise VideoError(path, "unreadable", "holds sound that is not finite numbers (NaN or infinity)")
    return torch.from_numpy(np.ascontiguousarray(wave))[None, None]


def video_files(folder: str | Path) -> list[Path]:
    """List all video files under a folder by extension, sorted, without hidden files; links are followed."""
    return files_under(folder, EXTENSIONS)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import av
    except ImportError:
        raise UserError(f"{path} is a video, which needs PyAV: pip install av") from None
    if not path.exists():
        raise VideoError(path, "missing", "does not exist")
    if not path.is_file():
        raise VideoError(path, "unreadable", "is not a file")
    if path.stat().st_size == 0:
        raise VideoError(path, "empty", "is empty (0 bytes)")
    try:
        container = av.open(f"file:{path}", metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        detail = f"is not a supported video, or its end is missing: {reason(error)}"
        raise VideoError(path, "unreadable", detail) from None
    try:
        yield container
    finally:
        container.close()


def _decoded(path: Path, container: Any, stream: Any, start_s: float) -> Iterator[tuple[Any, float, float]]:
    """Yield decoded frames with start and duration, from some position before ``start_s`` on."""
    import av

    begin = (container.start_time or 0) / 1_000_000
    usual = 1 / stream.average_rate if stream.type == "video" and stream.average_rate else Fraction(0)
    try:
        if start_s > 0:
            try:
                container.seek(int((start_s + begin) / stream.time_base), stream=stream, backward=True)
            except av.FFmpegError:  # past the end, or not supported by the container
                container.seek(0)
        next_s = start_s
        for frame in container.decode(stream):
            at_s = next_s if frame.pts is None else float(frame.pts * stream.time_base) - begin
            if stream.type == "audio":
                lasts = frame.samples / frame.sample_rate
            else:
                lasts = float(frame.duration * stream.time_base if frame.duration else usual)
            yield frame, at_s, lasts
            next_s = at_s + lasts
    except av.FFmpegError as error:
        what = "sound" if stream.type == "audio" else "pictures"
        detail = f"is truncated or damaged: its {what} cannot be decoded ({reason(error)})"
        raise VideoError(path, "truncated", detail) from None


def _whole(path: Path, stream: Any, container: Any, end_s: float, what: str) -> None:
    """Raise if a stream is shorter than its header states."""
    if not stream.duration or not end_s:
        return
    begin = (container.start_time or 0) / 1_000_000
    first = (stream.start_time or 0) * stream.time_base
    stated = float(first + stream.duration * stream.time_base) - begin
    if stated - end_s > max(SHORTFALL_SECONDS, SHORTFALL_SHARE * stated):
        detail = f"is truncated: its {what} end after {end_s:.2f} of {stated:.2f} s"
        raise VideoError(path, "truncated", detail.replace("sound end", "sound ends"))


def _pixels(frame: Any) -> Picture:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store rotation as metadata
    if turns:
        pixels = np.rot90(pixels, turns)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _first(path: Path, streams: Any, problem: Problem, what: str) -> Any:
    """Return the first stream; raise if there is none, or none that can be decoded."""
    if not len(streams):
        raise VideoError(path, problem, f"has no {what}: leave it out, or pair it with a file that has")
    if streams[0].codec_context is None:
        raise VideoError(
            path, "unreadable", f"has {what} in a codec that this PyAV cannot decode: convert it"
        )
    return streams[0]


def _nothing(path: Path, what: str, start_s: float) -> VideoError:
    return VideoError(path, "empty", f"has no {what} at {start_s:g} s or later")
