"""Videos of plain grey frames and a ramp as sound, which identify the position of each frame and sample."""

from fractions import Fraction
from pathlib import Path

import numpy as np

RATE = 8_000


def write_video(
    path: Path,
    *,
    seconds: float = 4.0,
    frame_rate: int = 10,
    size: tuple[int, int] = (32, 48),
    pictures: bool = True,
    sound: bool = True,
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
) -> Path:
    """Frame n has the grey value ``4 * n``; the sound is a ramp from -0.5 to 0.5."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        streams = []
        if pictures:
            stream = container.add_stream(codec, rate=frame_rate)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.gop_size = 5
            streams.append(stream)
        if sound:
            lossless = path.suffix in (".mkv", ".avi")
            track = container.add_stream("pcm_s16le" if lossless else "aac", rate=RATE, layout="mono")
            streams.append(track)
        if pictures:
            for index in range(round(seconds * frame_rate)):
                grey = np.full((*size, 3), 4 * index % 256, np.uint8)
                for packet in streams[0].encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                    container.mux(packet)
        if sound:
            ramp = (np.linspace(-0.5, 0.5, round(seconds * RATE)) * 32768).astype(np.int16)
            for start in range(0, len(ramp), 1024):
                frame = av.AudioFrame.from_ndarray(ramp[None, start : start + 1024], "s16", "mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                for packet in streams[-1].encode(frame):
                    container.mux(packet)
        for stream in streams:
            for packet in stream.encode():
                container.mux(packet)
    return path
