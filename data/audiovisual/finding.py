"""Discovery of the scenes in a folder, a manifest, VGGSound or a dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.audiovisual import layouts
from data.audiovisual.layouts import CAPTION_COLUMNS, LABEL_COLUMNS, sound_scenes
from data.audiovisual.scenes import Layout, Scene
from data.corpora.hub import AUDIO_COLUMNS, cell_text, column_of, keep, sound_file, splits_of, undecoded
from engine.user_error import UserError

IMAGE_COLUMNS = ("image", "picture", "images", "pictures", "frames", "frame", "img")
"""Column names in order of preference, used if no column has the type ``Image``."""
IMAGE_HEADS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"))


def from_dataset(source: Any, out: Path) -> list[Scene]:
    """Read scenes of a dataset: an object, a folder of ``save_to_disk`` or of files, or ``hub:owner/name``.

    Files embedded in the dataset are written unchanged under ``out``; local files are referenced.
    """
    scenes = []
    for part, dataset in splits_of(source, None, None, False):
        scenes += _scenes(dataset, out / (part or "all"), part)
    if not scenes:
        raise UserError(f"the dataset {source} holds no scene with a sound and a picture")
    return sound_scenes(scenes, out)


def _scenes(dataset: Any, folder: Path, part: str | None) -> list[Scene]:
    import datasets

    features = dict(dataset.features or {})
    audio = column_of(features, datasets.Audio, AUDIO_COLUMNS)
    image = column_of(features, datasets.Image, IMAGE_COLUMNS)
    for column, missing in ((audio, "audio"), (image, "image")):
        if column is None:
            raise UserError(f"the dataset has no {missing} column among {', '.join(features)}")
    dataset = undecoded(dataset)
    scenes = []
    for index, record in enumerate(tqdm(dataset, desc=f"scenes of {part or 'all'}", disable=None)):
        sound = sound_file(record[audio], folder / f"{index:08d}")
        cells = record[image] if isinstance(record[image], list | tuple) else [record[image]]
        pictures = [_picture(cell, folder / f"{index:08d}_{number}") for number, cell in enumerate(cells)]
        texts = {
            name: word
            for name, value in record.items()
            if name not in (audio, image) and (word := cell_text(value, features.get(name)))
        }
        captions = next((c for name in CAPTION_COLUMNS if (c := _texts(record.get(name)))), [])
        label = next((texts.pop(name) for name in LABEL_COLUMNS if name in texts), None)
        extra = {name: word for name, word in texts.items() if name not in CAPTION_COLUMNS}
        extra |= {f"caption_{n}": text for n, text in enumerate(captions[1:], start=1)}
        caption = captions[0] if captions else None
        if sound and any(pictures):
            name, files = f"{part or 'all'}_{index:08d}", tuple(filter(None, pictures))
            scenes.append(Scene(name, sound, files, caption=caption, label=label, split=part, extra=extra))
    return scenes


def _picture(cell: Any, stem: Path) -> Path | None:
    """Return the path of a record's picture, after writing it if it is embedded; None if there is none."""
    if isinstance(cell, str | Path):
        cell = {"path": str(cell)}
    if not isinstance(cell, Mapping):
        return None
    content, place = cell.get("bytes"), cell.get("path")
    if content is None:
        return None if place is None else Path(place).absolute()
    known = next((extension for head, extension in IMAGE_HEADS if content.startswith(head)), None)
    return keep(content, stem.with_suffix(known or Path(place or "").suffix.lower() or ".png"))


def _texts(cell: Any) -> list[str]:
    if isinstance(cell, str):
        return [cell] if cell else []
    return [text for text in cell if isinstance(text, str)] if isinstance(cell, list | tuple) else []


def scenes_from(path: str | Path, layout: Layout = "auto", *, split: str | None = None) -> list[Scene]:
    """Find the scenes of a folder, a manifest, VGGSound's csv or a dataset (``layout`` "hub").

    Scenes without audio or picture are skipped and listed in one warning; ``data.audiovisual.layouts``
    describes the layouts. ``split`` selects the scenes of a split. Files embedded in a dataset are written to
    ``runs/scenes/NAME``.
    """
    path = Path(path)
    match layouts.layout_of(path) if layout == "auto" else layout:
        case "videos":
            scenes = layouts.from_videos(path)
        case "vggsound":
            scenes = layouts.from_vggsound(path)
        case "pairs":
            scenes = layouts.from_pairs(path)
        case "hub":
            scenes = from_dataset(str(path), Path("runs/scenes") / path.name)
        case unknown:
            known = "auto, videos, vggsound, pairs, hub"
            raise UserError(f"there is no layout {unknown!r} of scenes; choose one of {known}")
    if split is None:
        return scenes
    kept = [scene for scene in scenes if scene.split == split]
    if not kept:
        splits = ", ".join(sorted({scene.split for scene in scenes if scene.split})) or "none"
        raise UserError(f"{path} holds no scene of the split {split!r} (it has: {splits})")
    return kept
