"""Layouts of scene collections on disk: video folders, VGGSound, and pairs of picture and audio files."""

import csv
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.audio.decoding import EXTENSIONS, READ_ONLY
from data.audio.reading import files_under
from data.audiovisual.scenes import Layout, Scene, is_picture, is_video, listed
from data.audiovisual.video import VideoError, video_files, video_streams
from data.manifest import METADATA, Row, rows_from
from engine.hub import hint, repository
from engine.outcome import NAMED_AT_MOST
from engine.user_error import UserError

SOUNDS = EXTENSIONS + READ_ONLY
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "eval": "test",
}
"""Names of splits in folders and columns, mapped to ours."""
PICTURE_COLUMNS = ("picture", "pictures", "image", "images", "image_path", "picture_path", "video", "frames")
"""Accepted names of a manifest's picture column, ours first."""
CAPTION_COLUMNS = ("caption", "captions", "description")
LABEL_COLUMNS = ("label", "category", "class", "class_name")
VGGSOUND_SECONDS = 10.0
VGGSOUND_CELLS = 4
"""Columns of VGGSound's csv: YouTube id, start in seconds, label, split."""


def is_sound(path: Path) -> bool:
    return path.suffix.lower() in SOUNDS and not is_video(path)


def layout_of(path: Path) -> Layout:
    if repository(str(path)) is not None:
        return "hub"
    if not path.exists():
        raise UserError(f"there is no folder, manifest or csv {path}{hint(str(path))}")
    if path.is_file():
        return "vggsound" if path.suffix.lower() == ".csv" and _is_vggsound(path) else "pairs"
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return "hub"
    if any((path / name).is_file() and not _is_vggsound(path / name) for name in METADATA):
        return "pairs"
    if _vggsound_csv(path):
        return "vggsound"
    files = files_under(path)
    return "pairs" if any(map(is_picture, files)) and any(map(is_sound, files)) else "videos"


def from_videos(folder: Path) -> list[Scene]:
    """Make one scene per video; sub-folders are labels, or splits if they have the name of one."""
    files = video_files(folder)
    if not files:
        known = "videos, a manifest, or pictures and sounds of equal names"
        raise UserError(f"{folder} holds no scenes: neither {known}")
    # Unreadable folders are listed in place of their videos.
    parts = [file.relative_to(folder).parts[: -1 if is_video(file) else None] for file in files]
    with_splits = all(p and p[0].lower() in SPLITS for p in parts)
    splits = [SPLITS[p[0].lower()] if with_splits else None for p in parts]
    rest = [p[1:] if with_splits else p for p in parts]
    labelled = all(rest) and len({p[0] for p in rest}) > 1
    labels = [p[0] if labelled else None for p in rest]
    scenes = [
        Scene(file.relative_to(folder).as_posix(), audio=file, pictures=file, label=label, split=split)
        for file, label, split in zip(files, labels, splits)
    ]
    return sound_scenes(scenes, folder)


def from_vggsound(path: Path) -> list[Scene]:
    """Read VGGSound: a csv of (id, start, label, split) next to videos named ``<id>_<start:06d>``.

    ``<id>_<start>`` is accepted too, and ``<id>`` for whole videos, of which 10 s from the start are used.
    """
    file = _vggsound_csv(path) if path.is_dir() else path
    if file is None or not file.is_file():
        raise UserError(f"{path} is not VGGSound: it needs a csv with lines of id,start,label,split")
    rows = [row for row in _csv_rows(file) if row]
    for line, row in enumerate(rows, start=1):
        if len(row) != VGGSOUND_CELLS or not row[1].strip().isdigit():
            raise UserError(f"{file}, line {line}: expected id,start seconds,label,split, found {row!r:.80}")
    videos = {video.stem: video for video in reversed(video_files(file.parent))}
    scenes, missing = [], []
    for video_id, start, label, split in ([cell.strip() for cell in row] for row in rows):
        seconds = int(start)
        name = f"{video_id}_{seconds:06d}"
        cut = videos.get(name) or videos.get(f"{video_id}_{seconds}")
        video = cut or videos.get(video_id)
        if video is None:
            missing.append(name)
            continue
        scene = Scene(name, audio=video, pictures=video, label=label, split=SPLITS.get(split, split))
        if not cut:
            scene = scene._replace(start_s=float(seconds), duration_s=VGGSOUND_SECONDS)
        scenes.append(scene)
    if not scenes:
        raise UserError(f"none of the {len(rows)} videos in {file} is under {file.parent}")
    _warn(missing, len(rows), f"videos of {file} are not there")
    return sound_scenes(scenes, file)


def from_pairs(path: Path) -> list[Scene]:
    """Pair pictures and audio files, by a manifest with columns path and picture, or by equal names."""
    if path.is_file() or any((path / name).is_file() for name in METADATA):
        return _from_manifest(path)
    sounds, pictures = defaultdict(list), defaultdict(list)
    for file in files_under(path):
        if is_sound(file):
            sounds[file.relative_to(path).with_suffix("")].append(file)
        elif is_picture(file):
            pictures[file.relative_to(path).with_suffix("")].append(file)
        elif file.is_dir():
            _warn([file], 1, f"folders in {path} cannot be read")
    if not set(sounds) & set(pictures):  # in separate folders, such as audio/a.wav and images/a.png
        sounds, pictures = _by_stem(sounds), _by_stem(pictures)
    names = sorted(set(sounds) & set(pictures))
    if not names:
        raise UserError(
            f"{path} holds no picture and sound of equal name: name them alike (a.wav, a.png), or write a"
            " manifest with columns path and picture"
        )
    alone = sorted(set(sounds) ^ set(pictures))
    total = len(names) + len(alone)
    _warn(alone, total, f"names in {path} have a sound or a picture, not both; these are left out")
    return [
        Scene(
            name=name.as_posix(),
            audio=sounds[name][0],
            pictures=tuple(sorted(pictures[name])),
            split=SPLITS.get(name.parts[0].lower()) if len(name.parts) > 1 else None,
        )
        for name in names
    ]


def _from_manifest(path: Path) -> list[Scene]:
    """Read a manifest: path (audio or video), optionally picture, caption, label, split, start, duration."""
    folder = path.parent if path.is_file() else path
    every = [_scene(row, folder, index) for index, row in enumerate(rows_from(path))]
    scenes = [scene for scene in every if scene.pictures != ()]
    if not scenes:
        raise UserError(f"{path} has no pictures for its sounds: add a column picture, or list videos")
    bare = [scene.name for scene in every if scene.pictures == ()]
    _warn(bare, len(every), f"rows of {path} have no picture and are left out")
    return sound_scenes(scenes, path)


def _scene(row: Row, folder: Path, index: int) -> Scene:
    extra = dict(row.extra)

    def take(columns: Iterable[str]) -> str | None:
        return next((extra.pop(name) for name in columns if name in extra), None)

    pictures: Path | tuple[Path, ...] = tuple(folder / part for part in listed(take(PICTURE_COLUMNS) or ""))
    if len(pictures) == 1:
        (pictures,) = pictures
        if pictures.is_dir():
            pictures = tuple(sorted(file for file in pictures.iterdir() if is_picture(file)))
    if pictures == () and is_video(row.path):
        pictures = row.path
    captions = [text for text in (take(CAPTION_COLUMNS), row.text) if text]
    if captions and captions[0].lstrip().startswith("["):
        captions = listed(captions[0])
    extra.update({f"caption_{number}": text for number, text in enumerate(captions[1:], start=1)})
    start = take(("start", "start_s", "onset"))
    try:
        start_s = float(start or 0)
    except ValueError:
        raise UserError(f"the start {start!r} of {row.path} is not a number of seconds") from None
    cut = start is not None or (is_video(row.path) and row.duration is not None)
    return Scene(
        name=f"{index:06d}_{row.path.stem}",
        audio=row.path,
        pictures=pictures,
        caption=captions[0] if captions else None,
        label=take(LABEL_COLUMNS),
        split=SPLITS.get(row.split or "", row.split),
        start_s=start_s,
        duration_s=row.duration if cut else None,
        extra=extra,
    )


def sound_scenes(scenes: list[Scene], where: Path) -> list[Scene]:
    """Skip videos without audio or picture, and files that do not exist, with one warning that counts them.

    Only headers are read; errors further inside a file are raised when it is used.
    """
    options: dict[str, Any] = {"desc": "looking at files", "unit": "file", "delay": 2.0, "disable": None}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(tqdm(pool.map(_problem, scenes), total=len(scenes), **options))
    bad = [problem for problem in found if problem]
    if len(bad) == len(scenes):
        raise UserError(f"none of the {len(scenes)} scenes of {where} can be used: {bad[0]}")
    _warn(bad, len(scenes), f"scenes of {where} are left out")
    return [scene for scene, problem in zip(scenes, found) if not problem]


def _problem(scene: Scene) -> str | None:
    pictures = scene.pictures if isinstance(scene.pictures, tuple) else (scene.pictures,)
    try:
        for file in dict.fromkeys((scene.audio, *pictures)):
            if file is None:
                return f"{scene.name} has no sound"
            if not is_video(file):
                if not file.is_file():
                    return f"{file} does not exist"
                continue
            has_sound, has_picture = video_streams(file)
            if file == scene.audio and not has_sound:
                return f"{file} has no sound"
            if file in pictures and not has_picture:
                return f"{file} has no picture"
    except VideoError as error:
        return str(error)
    return None


def _by_stem(files: dict[Path, list[Path]]) -> dict[Path, list[Path]]:
    merged = defaultdict(list)
    for name, same in files.items():
        merged[Path(name.name)] += same
    return merged


def _vggsound_csv(folder: Path) -> Path | None:
    return next((file for file in sorted(folder.glob("*.csv")) if _is_vggsound(file)), None)


def _is_vggsound(file: Path) -> bool:
    try:
        first = next(iter(_csv_rows(file)), [])
    except UserError:
        return False
    return len(first) == VGGSOUND_CELLS and first[1].strip().isdigit()


def _csv_rows(file: Path) -> Iterable[list[str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.reader(lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as csv: {error}") from None


def _warn(bad: list, total: int, what: str) -> None:
    if bad:
        named = "; ".join(str(one) for one in bad[:NAMED_AT_MOST])
        more = f"; and {len(bad) - NAMED_AT_MOST} more" if len(bad) > NAMED_AT_MOST else ""
        warnings.warn(f"{len(bad)} of {total} {what}: {named}{more}", stacklevel=3)
