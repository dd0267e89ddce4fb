"""Write the manifest of a corpus: ``python -m data.corpora KIND FOLDER --write manifest.csv``.

kinds of folder:
  plain-folder     recordings anywhere under the folder, without speakers
  speaker-folders  one folder per speaker, recordings anywhere under it
  librispeech, libritts, vctk, jvs, common-voice
                   the corpus as its archive unpacks
  hf-dataset       a Hugging Face dataset: hub:owner/name, or a folder of save_to_disk

For the first two, a text file next to a recording (a.wav, a.txt) is its transcript.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data.audio import AudioError, audio_files, info
from data.audio.reading import named_as_audio
from data.check import nameable
from data.corpora.hub import hf_dataset
from data.corpora.published import common_voice, jvs, librispeech, libritts, vctk
from data.manifest import Row, check_writable, write_manifest
from engine.arguments import Arguments
from engine.files import read_text
from engine.outcome import end, leaving_out, note, note_replaced
from engine.user_error import UserError, exits_cleanly, nearest


def plain_folder(folder: str | Path, left_out: list[str]) -> list[Row]:
    """List recordings under a folder, without speakers; ``left_out`` gets messages about unusable ones."""
    return _rows(Path(folder), lambda place: None, left_out)


def speaker_folders(folder: str | Path, left_out: list[str]) -> list[Row]:
    """List the recordings of one folder per speaker, at any depth; ``left_out`` as for ``plain_folder``."""

    def speaker(place: Path) -> str:
        if len(place.parts) == 1:
            way = "move it into one, or use kind plain-folder"
            raise UserError(f"{folder / place} is in no speaker's folder: {way}")
        return place.parts[0]

    return _rows(Path(folder), speaker, left_out)


def _rows(folder: Path, speaker: Callable[[Path], str | None], left_out: list[str]) -> list[Row]:
    rows = []
    for file in audio_files(folder):
        with leaving_out(left_out):
            _refuse_folder(file)
            beside = file.with_suffix(".txt")
            text = " ".join(read_text(beside).split()) or None if beside.is_file() else None
            rows.append(Row(path=file, speaker=speaker(file.relative_to(folder)), text=text))
    return rows


def _refuse_folder(listed: Path) -> None:
    """Raise for an unreadable folder, which ``audio_files`` lists too."""
    if not named_as_audio(listed):
        info(listed)


KINDS: Mapping[str, Callable[..., list[Row]]] = {
    "plain-folder": plain_folder,
    "speaker-folders": speaker_folders,
    "librispeech": librispeech,
    "libritts": libritts,
    "vctk": vctk,
    "jvs": jvs,
    "common-voice": common_voice,
    "hf-dataset": hf_dataset,
}
ANY = ("plain-folder", "speaker-folders")
UNLIKE = {"librispeech": "has no text in a .trans.txt", "libritts": "is not named as LibriTTS names files"}
"""Errors for recordings without a row; in other corpora, such recordings are left out on purpose."""
OWN_OPTIONS = {"vctk": ("microphone",), "jvs": ("styles",), "common-voice": ("tables",)}
OWN_OPTIONS |= {"hf-dataset": ("out", "split", "name", "streaming", "limit")}


def _with_duration(row: Row) -> Row:
    try:
        return replace(row, duration=info(row.path).duration)
    except AudioError:  # data.check reports it
        return row


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("data.corpora", __doc__)
    option = parser.add_argument
    kinds = sorted({*KINDS, *(kind.replace("-", "_") for kind in KINDS)})
    option("kind", metavar="KIND", help="one of the kinds above")
    option("folder", metavar="FOLDER")
    option("--write", required=True, type=Path, metavar="MANIFEST", help=".csv, .tsv or .jsonl")
    option("--durations", action="store_true", help="add each file's duration (reads every header)")
    option("--microphone", choices=("mic1", "mic2", "both"), help="vctk: microphone (mic1)")
    option("--styles", nargs="+", help="jvs: sub-folders of each speaker (parallel100 nonpara30)")
    option("--tables", nargs="+", help="common-voice: tables without .tsv (train dev test)")
    option("--name", help="hf-dataset: the configuration on the hub, such as a language")
    option("--split", help="hf-dataset: split to use (all)")
    option("--out", type=Path, help="hf-dataset: folder for its audio (MANIFEST's name + _audio)")
    option("--limit", type=int, help="hf-dataset: maximum number of recordings per split")
    option("--streaming", action="store_true", default=None, help="hf-dataset: do not download all of it")
    given = parser.parse_args(argv)
    kind = given.kind.replace("_", "-")
    if kind not in KINDS:
        known = f"{nearest(given.kind, kinds)}; choose from {', '.join(KINDS)}"
        parser.error(f"there is no kind {given.kind!r}{known}")
    options = {option: getattr(given, option) for options in OWN_OPTIONS.values() for option in options}
    options = {option: value for option, value in options.items() if value is not None}
    for option in options:
        if option not in OWN_OPTIONS.get(kind, ()):
            raise UserError(f"--{option} is not an option of kind {kind}")
    check_writable(given.write)
    if kind == "hf-dataset":
        options.setdefault("out", given.write.with_name(f"{given.write.stem}_audio"))
    left_out: list[str] = []
    rows = KINDS[kind](given.folder, **options, **({"left_out": left_out} if kind in ANY else {}))
    if kind not in (*ANY, "hf-dataset"):
        rows = account(kind, given.folder, rows, left_out)
    rows = nameable(rows, left_out)
    if given.durations:
        rows = [_with_duration(row) for row in tqdm(rows, desc="reading headers", unit="file", disable=None)]
    if rows:
        note_replaced(given.write)
        write_manifest(given.write, rows)
        print(f"{given.write}: {_summary(rows)}")
    end(len(rows), left_out, "listed")


def account(kind: str, folder: str, rows: list[Row], left_out: list[str]) -> list[Row]:
    """Report files in a corpus' folder that are not among its rows; return the rows of audio files."""
    taken, others = {row.path for row in rows}, []
    for path in audio_files(folder):
        with leaving_out(left_out):
            _refuse_folder(path)
            if path not in taken and kind in UNLIKE:
                raise UserError(f"{path} {UNLIKE[kind]}")
            others += [path] if path not in taken else []
    if others:
        note(f"{len(others)} recordings in {folder} are not listed, such as {others[0]}")
    return [row for row in rows if named_as_audio(row.path)]


def _summary(rows: Sequence[Row]) -> str:
    speakers = {row.speaker for row in rows} - {None}
    n_texts, seconds = sum(bool(row.text) for row in rows), sum(row.duration or 0 for row in rows)
    splits = sorted({row.split for row in rows if row.split})
    text = f"{len(rows)} recordings, {len(speakers)} speakers, {n_texts} with text"
    text += f", {seconds / 3600:.2f} hours" if seconds else ""
    return text + (f", splits {', '.join(splits)}" if splits else "")


if __name__ == "__main__":
    main()
