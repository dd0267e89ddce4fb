"""Recordings for image generation, from files or corpora, and output of the images as HTML or a grid."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.audio import audio_files, load
from data.audio.resampling import resample
from engine.files import atomic
from engine.user_error import UserError
from pretrain.clip.towers import Towers
from pretrain.probe.clips import clips_from

STEMS = ("mixture", "drums", "bass", "other", "vocals")
"""Stems of MUSDB18, in the order of the streams in its files."""
GRID = 12
"""Images per row of a grid."""


class Recording(NamedTuple):
    """A recording, or one stem of it, with a caption."""

    path: Path
    caption: str
    stream: int | None = None
    """Index of the audio stream in a file with several; None: the file has one."""


def recordings(given: Sequence[Path]) -> list[Recording]:
    """Return the recordings of files, folders, UrbanSound8K, ESC-50 or MUSDB18 (stems and mix)."""
    return [recording for path in given for recording in _recordings(path)]


def _recordings(path: Path) -> list[Recording]:
    if path.is_dir():
        if any((path / table).is_file() for table in ("meta/esc50.csv", "metadata/UrbanSound8K.csv")):
            return [Recording(clip.path, f"{clip.labels[0]}: {clip.path.stem}") for clip in clips_from(path)]
        if songs := sorted({mix.parent for mix in path.rglob("mixture.wav")}):
            return [
                Recording(file, f"{song.name}: {stem}")
                for song in songs
                for stem in STEMS
                if (file := song / f"{stem}.wav").is_file()
            ]
        files = sorted(path.rglob("*.stem.mp4")) or audio_files(path)
        return [recording for file in files for recording in _recordings(file)]
    if path.name.endswith(".stem.mp4"):
        title = path.name.removesuffix(".stem.mp4")
        return [Recording(path, f"{title}: {stem}", number) for number, stem in enumerate(STEMS)]
    return [Recording(path, path.stem)]


def wave_of(recording: Recording, sample_rate: int) -> Float[Tensor, "1 1 samples"]:
    """Return a recording or stem in mono at a sample rate."""
    if recording.stream is None:
        return load(recording.path, sample_rate)
    import av

    from data.audio.ffmpeg import samples_of

    try:
        with av.open(str(recording.path)) as container:
            track = container.streams.audio[recording.stream]
            frames = [torch.from_numpy(samples_of(frame)) for frame in container.decode(track)]
            return resample(torch.cat(frames).mean(1)[None, None], track.rate, sample_rate)
    except (OSError, IndexError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        where = f"{recording.path} has no stream {recording.stream}"
        raise UserError(f"{where} that can be read ({why})") from None


def write_page(
    out: Path, name: str, rows: Sequence[tuple[str, Sequence[tuple[str, UInt8[Tensor, "3 height width"]]]]]
) -> Path:
    """Write ``OUT/NAME.html`` and its images: a heading and a row of captioned images per recording."""
    from PIL import Image

    lines = []
    for number, (caption, pictures) in enumerate(rows):
        cells = []
        for column, (below, picture) in enumerate(pictures):
            file = out / name / f"{number:04d}_{column}.png"
            with atomic(file) as temporary:
                Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
            alt = html.escape(f"{caption}: {below}", quote=True)
            cells.append(
                f'<figure><img src="{name}/{file.name}" alt="{alt}" width="192">'
                f"<figcaption>{html.escape(below)}</figcaption></figure>"
            )
        lines.append(f"<h2>{html.escape(caption)}</h2>\n<div>{''.join(cells)}</div>")
    style = "div{display:flex;flex-wrap:wrap}figure{margin:.5em}h2{font:1em sans-serif}"
    head = f'<!doctype html><meta charset="utf-8"><title>{name}</title><style>{style}</style>'
    with atomic(out / f"{name}.html") as temporary:
        temporary.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return out / f"{name}.html"


def save_grid(place: Path, rows: Mapping[str, UInt8[Tensor, "n 3 height width"]], towers: Towers) -> None:
    """Write an image with one row of evenly chosen generated images per encoder."""
    from PIL import Image, ImageDraw

    n = min(GRID, min(len(row) for row in rows.values()))
    side = 96 if towers.height <= 96 else 160
    left, gap = 110, 4
    sheet = Image.new("RGB", (left + n * (side + gap), len(rows) * (side + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (name, pictures) in enumerate(rows.items()):
        pen.text((4, line * (side + gap) + side // 2), name[:18], fill="black")
        chosen = np.linspace(0, len(pictures) - 1, n).round().astype(int)
        for column, index in enumerate(chosen):
            picture = Image.fromarray(pictures[index].permute(1, 2, 0).numpy()).resize((side, side))
            sheet.paste(picture, (left + column * (side + gap), line * (side + gap)))
    with atomic(place) as temporary:
        sheet.save(temporary)
