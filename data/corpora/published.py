"""Manifest rows of published speech corpora, from the folders of their unpacked archives.

Nothing is downloaded. Each function raises a one-sentence error if a folder does not look like its corpus. It
accepts the corpus' folder or its parent folder, and incomplete corpora.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from data.audio import audio_files
from data.manifest import Row, gender_of
from engine.files import read_text
from engine.outcome import note
from engine.user_error import UserError

SUBSETS = {"train": "train", "dev": "validation", "test": "test"}
"""Names of splits in LibriSpeech, LibriTTS and Common Voice, mapped to ours."""


def librispeech(folder: str | Path) -> list[Row]:
    """LibriSpeech: 1000 hours of 2484 English readers at 16 kHz, https://www.openslr.org/12, CC BY 4.0.

    ``train-clean-100/19/198/19-198-0000.flac``, ``19-198.trans.txt``; genders from ``SPEAKERS.TXT``.
    """
    folder = _folder(folder)
    texts = {}
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for name, text in _pairs(transcript, " "):
            texts[transcript.parent / name] = text
    files = [file for file in audio_files(folder) if file.with_suffix("") in texts] if texts else []
    if not files:
        raise _unlike(folder, "LibriSpeech", "no SPEAKER-CHAPTER.trans.txt with recordings next to it")
    return _readers(folder, files, lambda file: texts[file.with_suffix("")], "-")


def libritts(folder: str | Path) -> list[Row]:
    """LibriTTS and LibriTTS-R: 585 hours of 2456 English readers at 24 kHz, CC BY 4.0.

    https://www.openslr.org/60, https://www.openslr.org/141.
    ``train-clean-100/19/198/19_198_000000_000000.wav``; the text is in ``….normalized.txt``.
    """
    folder = _folder(folder)
    files = [file for file in audio_files(folder) if re.fullmatch(r"\d+_\d+_\d+_\d+", file.stem)]
    texts = {file: _text(file.with_suffix(".normalized.txt")) for file in files}
    if not any(texts.values()):
        raise _unlike(folder, "LibriTTS", "no recording with SPEAKER_CHAPTER_PART_SENTENCE.normalized.txt")
    return _readers(folder, files, texts.__getitem__, "_")


def vctk(folder: str | Path, microphone: Literal["mic1", "mic2", "both"] = "mic1") -> list[Row]:
    """VCTK 0.92: 44 hours of 110 English speakers at 48 kHz, CC BY 4.0.

    https://datashare.ed.ac.uk/handle/10283/3443. ``wav48_silence_trimmed/p225/p225_001_mic1.flac``,
    ``txt/p225/p225_001.txt``, ``speaker-info.txt``. Where the second microphone failed (p280, p315), the
    first one is used instead; ``wav48`` of version 0.80 is read too. The corpus defines no splits.
    """
    folder = _folder(folder)
    root = _beneath(folder, "wav48_silence_trimmed") or _beneath(folder, "wav48")
    if root is None:
        raise _unlike(folder, "VCTK", "no folder wav48_silence_trimmed")
    utterances: dict[str, dict[str, Path]] = {}
    for file in audio_files(root):
        name, _, which = file.stem.partition("_mic")
        utterances.setdefault(name, {})[f"mic{which or 1}"] = file
    line = r"^p?(?P<speaker>\w\d+|\d+)\s+\d*\s*(?P<gender>[FM])\b"
    genders = _genders(root.parent / "speaker-info.txt", line)
    rows = []
    for name, files in sorted(utterances.items()):
        if microphone != "both":
            files = {microphone: files.get(microphone) or files["mic1" if "mic1" in files else "mic2"]}
        speaker = name.split("_")[0]
        text = _text(root.parent / "txt" / speaker / f"{name}.txt")
        row = Row(path=root, speaker=speaker, text=text, gender=genders.get(speaker.removeprefix("p")))
        rows += [replace(row, path=file) for _, file in sorted(files.items())]
    return rows


def jvs(folder: str | Path, styles: Iterable[str] = ("parallel100", "nonpara30")) -> list[Row]:
    """JVS: 30 hours of 100 Japanese voice professionals at 24 kHz; audio for research and personal use only.

    https://sites.google.com/site/shinnosuketakamichi/research-topics/jvs_corpus; texts CC BY-SA 4.0.
    ``jvs001/parallel100/wav24kHz16bit/VOICEACTRESS100_001.wav`` with ``transcripts_utf8.txt`` and
    ``gender_f0range.txt``. ``styles`` may add ``whisper10`` and ``falset10``; the column ``style`` has the
    style of each row. The corpus defines no splits.
    """
    folder = _folder(folder)
    roots = [root for root in (folder, *_children(folder)) if _jvs_speakers(root)]
    if not roots:
        raise _unlike(folder, "JVS", "no folders jvs001, jvs002, …")
    genders = _genders(roots[0] / "gender_f0range.txt", r"^(?P<speaker>jvs\d+)\s+(?P<gender>[FM])\b")
    rows = []
    for speaker in _jvs_speakers(roots[0]):
        for style in styles:
            place = speaker / style / "wav24kHz16bit"
            if not place.is_dir():
                continue
            transcript = speaker / style / "transcripts_utf8.txt"
            texts = dict(_pairs(transcript, ":")) if transcript.is_file() else {}
            gender, extra = genders.get(speaker.name), {"style": style}
            for file in sorted(place.glob("*.wav")):
                row = Row(path=file, speaker=speaker.name, gender=gender, extra=extra)
                rows.append(replace(row, text=texts.get(file.stem)))
    if not rows:
        raise _unlike(folder, "JVS", f"no recordings in {', '.join(styles)} under any speaker")
    return rows


def common_voice(folder: str | Path, tables: Iterable[str] = ("train", "dev", "test")) -> list[Row]:
    """Mozilla Common Voice: sentences read by volunteers in 100+ languages, mp3, CC0.

    https://commonvoice.mozilla.org. ``train.tsv``, ``dev.tsv``, ``test.tsv`` and ``clips/`` in the folder of
    one language. ``tables`` may be ``("validated",)``: many more clips, without splits. A speaker is a
    ``client_id``, which occurs in only one split.
    """
    folder = _folder(folder)
    places = (folder, *_children(folder), *folder.glob("*/*/"))
    roots = [place for place in places if (place / "clips").is_dir()]
    if not roots:
        raise _unlike(folder, "Common Voice", "no folder clips")
    if roots[0] != folder and len(roots) > 1:
        languages = f"several languages of Common Voice ({', '.join(sorted(r.name for r in roots)[:8])})"
        raise UserError(f"{folder} holds {languages}: give the folder of one")
    root = roots[0]
    found = [table for table in tables if (root / f"{table}.tsv").is_file()]
    if not found:
        raise _unlike(folder, "Common Voice", f"none of {', '.join(f'{table}.tsv' for table in tables)}")
    present = {file.name: file for file in audio_files(root / "clips")}
    rows, absent = [], []
    csv.field_size_limit(1 << 30)
    # Quotation marks are part of the sentences and never quote a cell.
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "restval": ""}
    for table in found:
        for record in csv.DictReader(_lines(root / f"{table}.tsv"), **options):
            name = record.get("path") or ""
            file = present.get(name) or present.get(f"{name}.mp3")  # the first releases omitted .mp3
            if file is None:
                absent.append(name)
                continue
            speaker, text = record.get("client_id") or None, record.get("sentence") or None
            split, gender = SUBSETS.get(table), gender_of(record.get("gender"))
            rows.append(Row(path=file, speaker=speaker, text=text, split=split, gender=gender))
    if not rows:
        raise _unlike(folder, "Common Voice", f"no file that {found[0]}.tsv lists is in clips")
    if absent:
        note(f"{len(absent)} clips that the tables of {root} list are not in clips, such as {absent[0]}")
    return rows


def _readers(folder: Path, files: list[Path], text: Callable[[Path], str | None], mark: str) -> list[Row]:
    """Make rows of LibriSpeech and LibriTTS, in which a file's name begins with its speaker's number."""
    genders: dict[str, str | None] = {}
    for place in (folder.parent, *_children(folder), folder):
        for name in ("SPEAKERS.TXT", "SPEAKERS.txt", "speakers.tsv"):
            genders |= _genders(place / name, r"^(?P<speaker>\d+)\s*[|\t]\s*(?P<gender>[FM])\b")
    rows = []
    for file in files:
        speaker = file.stem.split(mark)[0]
        subsets = [re.fullmatch(r"(train|dev|test)(-.*)?", part) for part in file.absolute().parts[-4:-1]]
        split, gender = next((SUBSETS[s[1]] for s in subsets if s), None), genders.get(speaker)
        rows.append(Row(path=file, speaker=speaker, text=text(file), split=split, gender=gender))
    return rows


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}")
    return folder


def _unlike(folder: Path, corpus: str, why: str) -> UserError:
    return UserError(f"{folder} does not look like {corpus}: {why}")


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _beneath(folder: Path, name: str) -> Path | None:
    return next((place / name for place in (folder, *_children(folder)) if (place / name).is_dir()), None)


def _jvs_speakers(root: Path) -> list[Path]:
    return [child for child in _children(root) if re.fullmatch(r"jvs\d{3}", child.name)]


def _lines(path: Path) -> list[str]:
    # Not splitlines, which also splits at rare characters in sentences.
    return read_text(path).split("\n")


def _text(path: Path) -> str | None:
    return " ".join(_lines(path)).strip() or None if path.is_file() else None


def _pairs(path: Path, mark: str) -> Iterable[tuple[str, str]]:
    for line in _lines(path):
        name, _, text = line.partition(mark)
        if text.strip():
            yield name.strip(), text.strip()


def _genders(path: Path, pattern: str) -> Mapping[str, str | None]:
    """Read speakers' genders from a table, whose lines match ``pattern``; empty if the file is missing."""
    if not path.is_file():
        return {}
    found = (re.match(pattern, line) for line in _lines(path))
    return {match["speaker"]: gender_of(match["gender"]) for match in found if match}
