"""Recordings in the formats of browsers, phones and recorders."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

RECORDERS = {
    "stereo.webm": (2, 48_000, "webm", "libopus"),
    "mono.webm": (1, 48_000, "webm", "libopus"),
    "sound.weba": (2, 48_000, "webm", "libopus"),
    "memo.M4A": (1, 44_100, "ipod", "aac"),
    "film.mp4": (2, 48_000, "mp4", "aac"),
    "old.wma": (1, 44_100, "asf", "wmav2"),
}
"""By file name: channels, Hz, container and codec."""


def put_av(path: Path, wave: np.ndarray, rate: int, container: str, codec: str, **options: str) -> None:
    """Write with PyAV, whose timestamps mark the end of the encoder's padding."""
    av = pytest.importorskip("av")
    layout = {1: "mono", 2: "stereo"}[wave.shape[1]]
    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, bit_rate=64_000 * wave.shape[1])
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate, frame_size=size
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            for packet in stream.encode(part):
                file.mux(packet)
