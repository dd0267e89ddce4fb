"""Finding the scenes of a folder, a manifest, VGGSound or a dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.audiovisual import layouts
from data.audiovisual.layouts import CAPTION_COLUMNS, LABEL_COLUMNS, sound_scenes
from data.audiovisual.scenes import Layout, Scene
from data.corpora.hub import AUDIO_COLUMNS, _file, _parts, _word
from engine.files import atomic
from engine.user_error import UserError

IMAGE_COLUMNS = ("image", "picture", "images", "pictures", "frames", "frame", "img")
"""Names tried, in this order, where no column is of the ``Image`` type."""
IMAGE_HEADS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"))


def from_dataset(source: Any, out: Path, *, split: str | None = None, streaming: bool = False) -> list[Scene]:
    """Scenes of a dataset object, a folder of ``save_to_disk``, a folder of files, or ``hub:owner/name``.

    What is stored inside the dataset is written under ``out`` as it is; files that are here are referred to.
    """
    scenes = []
    for part, dataset in _parts(source, split, None, streaming):
        scenes += _scenes(dataset, out / (part or "all"), part)
    if not scenes:
        raise UserError(f"the dataset {source} holds no scene with a sound and a picture")
    return sound_scenes(scenes, out)


def _scenes(dataset: Any, folder: Path, part: str | None) -> list[Scene]:
    import datasets

    features = dict(dataset.features or {})
    audio = _column(features, datasets.Audio, AUDIO_COLUMNS)
    image = _column(features, datasets.Image, IMAGE_COLUMNS)
    for column, missing in ((audio, "audio"), (image, "image")):
        if column is None:
            raise UserError(f"the dataset has no {missing} column among {', '.join(features)}")
    for column, feature in features.items():
        # Decoding audio would need torchcodec; and pictures are kept as they were packed.
        if isinstance(feature, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            dataset = dataset.cast_column(column, datasets.List(datasets.Image(decode=False)))
    scenes = []
    for index, record in enumerate(tqdm(dataset, desc=f"scenes of {part or 'all'}", disable=None)):
        sound = _file(record[audio], folder / f"{index:08d}")
        cells = record[image] if isinstance(record[image], list | tuple) else [record[image]]
        pictures = [_picture(cell, folder / f"{index:08d}_{number}") for number, cell in enumerate(cells)]
        cells_as_text = {
            name: word
            for name, value in record.items()
            if name not in (audio, image) and (word := _word(value, features.get(name)))
        }
        captions = next((c for name in CAPTION_COLUMNS if (c := _texts(record.get(name)))), [])
        label = next((cells_as_text.pop(name) for name in LABEL_COLUMNS if name in cells_as_text), None)
        extra = {name: word for name, word in cells_as_text.items() if name not in CAPTION_COLUMNS}
        scenes.append(
            Scene(
                name=f"{part or 'all'}_{index:08d}",
                audio=sound,
                pictures=tuple(picture for picture in pictures if picture),
                caption=captions[0] if captions else None,
                label=label,
                split=part,
                extra=extra | {f"caption_{n}": text for n, text in enumerate(captions[1:], start=1)},
            )
        )
    return [scene for scene in scenes if scene.audio and scene.pictures]


def _column(features: Mapping[str, Any], wanted: type, names: tuple[str, ...]) -> str | None:
    typed = (
        name
        for name, feature in features.items()
        if isinstance(feature, wanted) or isinstance(getattr(feature, "feature", None), wanted)
    )
    return next(typed, None) or next((name for name in names if name in features), None)


def _picture(cell: Any, stem: Path) -> Path | None:
    """Where a record's picture is, after writing it if it was inside the dataset; None if there is none."""
    if isinstance(cell, str | Path):
        cell = {"path": str(cell)}
    if not isinstance(cell, Mapping):
        return None
    content, place = cell.get("bytes"), cell.get("path")
    if content is None:
        return None if place is None else Path(place).absolute()
    known = next((extension for head, extension in IMAGE_HEADS if content.startswith(head)), None)
    path = stem.with_suffix(known or Path(place or "").suffix.lower() or ".png")
    if not path.exists() or path.read_bytes() != content:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    return path


def _texts(cell: Any) -> list[str]:
    if isinstance(cell, str):
        return [cell] if cell else []
    return [text for text in cell if isinstance(text, str)] if isinstance(cell, list | tuple) else []


def scenes_from(
    path: str | Path, layout: Layout = "auto", *, split: str | None = None, out: str | Path | None = None
) -> list[Scene]:
    """Find the scenes of a folder, a manifest, VGGSound's csv or a dataset (``layout`` "hub").

    Scenes that lack a sound or a picture are left out, counted and named in one warning; the layouts are told
    in ``data.audiovisual.layouts``. ``split`` keeps only those of a split. ``out`` is where sounds and
    pictures stored inside a dataset are written (``runs/scenes/NAME`` by default).
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
            scenes = from_dataset(str(path), Path(out) if out else Path("runs/scenes") / path.name)
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
