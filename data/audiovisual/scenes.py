"""Audio-visual scenes, and reading of their waves and pictures."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import excerpt, info, load, resampled_length
from data.audiovisual.video import EXTENSIONS as VIDEOS
from data.audiovisual.video import FRAME_RATE, Picture, video_frames, video_sound
from engine.user_error import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""Extensions of picture files."""
MOST_PIXELS = 100_000_000
Layout = Literal["auto", "videos", "vggsound", "pairs", "hub"]


class PictureError(UserError):
    """A picture file that cannot be used."""


class Scene(NamedTuple):
    """One audio-visual scene with its metadata; its files are accessed only when needed."""

    name: str
    """Unique name within a collection."""
    audio: Path | None
    """Audio file or video with the sound; None if there is none."""
    pictures: Path | tuple[Path, ...]
    """A video, a picture, or several pictures of the same moment; () if there is none."""
    caption: str | None = None
    """The first caption."""
    label: str | None = None
    split: str | None = None
    """Split, such as train, validation or test."""
    start_s: float = 0.0
    """Start of the scene in audio and video files, in seconds."""
    duration_s: float | None = None
    """Duration in seconds; None until the end of the file."""
    extra: Mapping[str, str] = {}
    """Further columns of a manifest, including further captions."""

    @property
    def captions(self) -> list[str]:
        """All captions, from the columns ``caption`` and ``caption_1``, ``caption_2``, ..."""
        more = (self.extra[name] for name in sorted(self.extra, key=_numbered) if name.startswith("caption_"))
        return list(dict.fromkeys(caption for caption in (self.caption, *more) if caption))


def wave_of(scene: Scene, sample_rate: int) -> Float[Tensor, "1 1 samples"]:
    if scene.audio is None:
        raise UserError(f"the scene {scene.name} has no sound: leave it out, or pair it with an audio file")
    if is_video(scene.audio):
        return video_sound(scene.audio, sample_rate, start_s=scene.start_s, duration_s=scene.duration_s)
    if not scene.start_s and scene.duration_s is None:
        return load(scene.audio, sample_rate)
    start = round(scene.start_s * sample_rate)
    header = info(scene.audio)
    whole = resampled_length(header.samples, header.sample_rate, sample_rate)
    wanted = whole if scene.duration_s is None else round(scene.duration_s * sample_rate)
    if start >= whole:
        raise UserError(f"{scene.audio} ends before {scene.start_s:g} s, where the scene {scene.name} begins")
    return excerpt(scene.audio, start, min(wanted, whole - start), sample_rate)


def each_picture(scene: Scene, frame_rate: float | None = FRAME_RATE) -> Iterator[Picture]:
    """Yield the scene's pictures or its video's frames, at least one, in constant memory."""
    pictures = scene.pictures if isinstance(scene.pictures, tuple) else (scene.pictures,)
    if not pictures:
        raise UserError(f"the scene {scene.name} has no picture: leave it out, or pair it with one")
    for picture in pictures:
        if is_video(picture):
            yield from video_frames(picture, frame_rate, start_s=scene.start_s, duration_s=scene.duration_s)
        else:
            yield read_picture(picture)


def read_picture(path: Path) -> Picture:
    """Read a picture file, or the first frame of an animation, as RGB in upright orientation."""
    import numpy as np
    from PIL import Image, ImageOps

    if not path.exists():
        raise PictureError(f"{path} does not exist: there is no picture of that name")
    if not path.is_file():
        raise PictureError(f"{path} is a folder where a picture is expected")
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise PictureError(f"{path} has {picture.width}x{picture.height} pixels: scale it down first")
            pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except PictureError:
        raise
    except Exception as error:  # decoders raise many types
        reason = " ".join(str(error).split())[:120].rstrip(".").replace(str(path), "it")
        raise PictureError(f"{path} is damaged or not a picture this program can read: {reason}") from None
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def listed(cell: str) -> list[str]:
    """Split a manifest's cell: a JSON list, or parts separated by ``;`` or ``|``."""
    if cell.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):
            return [str(part) for part in json.loads(cell)]
    return [part.strip() for part in cell.replace("|", ";").split(";") if part.strip()]


def _numbered(name: str) -> tuple[int, str]:
    digits = name.rpartition("_")[2]
    return (int(digits), name) if digits.isdigit() else (1 << 30, name)
