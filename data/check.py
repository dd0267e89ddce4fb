"""What is wrong with which recording: ``python -m data.check MANIFEST|FOLDER [--write clean.csv]``.

problems:
  missing, unreadable, truncated, empty, NaN
               the file cannot be used; or it is shorter than its manifest says
  silent       no 20 ms of it reach -60 dBFS
  clipped      0.05 % of its samples or more are cut off flat at the top or bottom
  too short    under --shortest seconds
  wrong rate   the header's sample rate is not that of the samples: a rate no recording has; a duration
               in the manifest that another usual rate explains; the same samples in another file at another
               rate; a voice higher and faster, or lower, than people speak; in a collection of mostly one
               rate, a file of another whose voice lies off the others' by about the ratio of the two. Speech
               at the wrong rate can sound natural (a deep voice at twice its rate): not all is noticed
  duplicate    the same samples (to 16 bits) as an earlier file, in whatever container

Exit code: 0 if all recordings are sound, 1 if some are not, 2 if the check could not be made.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import median

from tqdm import tqdm

from data.audio import AudioError
from data.audio.listening import Heard, listen
from data.manifest import Row, check_writable, nameable, rows_from, write_manifest
from engine.arguments import Arguments
from engine.outcome import note, note_replaced
from engine.user_error import UserError, exits_cleanly, printable

SILENT_DB = -60.0
CLIPPED_SHARE = 0.0005
SHORTEST_SECONDS = 0.5
USUAL_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000)
PLAUSIBLE_RATES = range(4_000, 384_001)
TOO_SLOW_PITCH = 66.0
"""Hz. No one's median over an utterance is lower."""
TOO_FAST_PITCH, TOO_FAST_TEMPO = 260.0, 5.5
"""Hz. No one who speaks this fast keeps nine tenths of the time above that pitch.

Set on 1084 recordings of 197 speakers, one of which is wrongly called too fast and none too slow. With a
wrong rate in the header, these two notice 75 % of recordings at 3 times their rate, 53 % at twice, 30 % at
half and 53 % at a third of it (240 recordings).
"""
ODD_PITCH_OCTAVES = {"same": (0.5, 0.5), "others": (0.6, 1.0)}
"""How much higher or lower a voice at an odd rate must be than the same speaker's, or else than the others'.

Against the others, deep voices need the wider margin: the median lies near women's.
"""


@dataclass(frozen=True, kw_only=True)
class Usual:
    """The rate of more than half of a collection, and how high the voices are at it."""

    rate: int
    pitch: float
    by_speaker: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing wrong with one recording."""

    row: Row
    problem: str
    detail: str


def check(
    rows: Sequence[Row], *, shortest: float = SHORTEST_SECONDS, workers: int | None = None
) -> tuple[list[Finding], list[Row]]:
    """Listen to all recordings; return what is wrong, and the sound rows with their true durations."""
    heard = _listen_to_all(rows, workers or os.cpu_count() or 1)
    usual = _usual(rows, heard)
    originals: dict[bytes, tuple[int, Heard]] = {}
    for index, one in enumerate(heard):
        if isinstance(one, Heard):
            _, original = originals.setdefault(one.digest, (index, one))
            if usual and one.sample_rate == usual.rate != original.sample_rate:
                # Of two rates for the same samples, the usual one is right.
                originals[one.digest] = (index, one)
    findings, sound = [], []
    for index, (row, one) in enumerate(zip(rows, heard)):
        if isinstance(one, AudioError):
            problems = [(one.problem, one.detail)]
        else:
            problems = list(_problems(row, one, shortest))
            problems += _wrong_rate(row, one, usual)
            first, original = originals[one.digest]
            if first != index and one.loudest_db >= SILENT_DB:
                problems.append(_duplicate(one, rows[first], original))
            if not problems:
                sound.append(replace(row, duration=one.duration))
        findings += [Finding(row=row, problem=problem, detail=detail) for problem, detail in problems]
    return findings, sound


def _listen_to_all(rows: Sequence[Row], workers: int) -> list[Heard | AudioError]:
    def hear(row: Row) -> Heard | AudioError:
        try:
            return listen(row.path)
        except AudioError as error:
            return error

    pause = 0.1 if sys.stderr.isatty() else 10.0  # a log is not a screen
    pool = ThreadPoolExecutor(workers)
    try:
        return list(
            tqdm(pool.map(hear, rows), total=len(rows), desc="listening", unit="file", mininterval=pause)
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _problems(row: Row, heard: Heard, shortest: float) -> Iterator[tuple[str, str]]:
    if heard.loudest_db < SILENT_DB:
        level = "digital silence" if heard.peak == 0 else f"at most {heard.loudest_db:.0f} dBFS"
        yield "silent", level
    elif heard.clipped >= CLIPPED_SHARE:
        yield "clipped", f"{heard.clipped:.2%} of the samples lie flat at a peak of {heard.peak:.2f}"
    if heard.duration < shortest:
        yield "too short", f"{heard.duration:.2f} s, under {shortest:g} s"
    claimed = row.duration or 0.0
    if heard.duration < min(0.95 * claimed, claimed - 0.25) and not _explaining_rate(row, heard):
        yield "truncated", f"lasts {heard.duration:.2f} s where the manifest says {claimed:.2f} s"


def _wrong_rate(row: Row, heard: Heard, usual: Usual | None) -> list[tuple[str, str]]:
    """The signs, strongest first, that a header's rate is not that of its samples."""
    rate, voice = heard.sample_rate, heard.voice
    explaining = _explaining_rate(row, heard)
    if rate not in PLAUSIBLE_RATES:
        detail = f"the header says {rate} Hz"
    elif explaining:
        detail = f"the header says {rate} Hz; the manifest's {row.duration:.2f} s mean {explaining} Hz"
    elif voice and usual and _odd(row, rate, voice.pitch, usual):
        suggested = f"a pitch of {voice.pitch:.0f} Hz suggests {usual.rate} Hz, the rate of the others"
        detail = f"the header says {rate} Hz; {suggested}"
    elif voice and voice.low_pitch > TOO_FAST_PITCH and voice.tempo > TOO_FAST_TEMPO:
        detail = f"at the header's {rate} Hz the voice is too high ({voice.pitch:.0f} Hz) and fast for speech"
    elif voice and voice.pitch < TOO_SLOW_PITCH:
        detail = f"at the header's {rate} Hz the voice is too low ({voice.pitch:.0f} Hz) for speech"
    else:
        return []
    return [("wrong rate", detail)]


def _explaining_rate(row: Row, heard: Heard) -> int | None:
    """The usual rate that makes the samples last as long as the manifest says, if the header's does not."""
    if not row.duration or abs(heard.duration - row.duration) < max(0.2, 0.03 * row.duration):
        return None
    implied = heard.samples / row.duration
    nearest = min(USUAL_RATES, key=lambda rate: abs(math.log(rate / implied)))
    return nearest if abs(nearest / implied - 1) < 0.01 else None


def _usual(rows: Sequence[Row], heard: Sequence[Heard | AudioError]) -> Usual | None:
    counts = Counter(one.sample_rate for one in heard if isinstance(one, Heard))
    rate, count = counts.most_common(1)[0] if counts else (0, 0)
    pitches: dict[str | None, list[float]] = {}
    for row, one in zip(rows, heard):
        if isinstance(one, Heard) and one.sample_rate == rate and one.voice:
            pitches.setdefault(row.speaker, []).append(one.voice.pitch)
    if count < 3 or count <= counts.total() / 2 or not pitches:
        return None
    by_speaker = {speaker: median(found) for speaker, found in pitches.items() if speaker is not None}
    return Usual(rate=rate, pitch=median(chain.from_iterable(pitches.values())), by_speaker=by_speaker)


def _odd(row: Row, rate: int, pitch: float, usual: Usual) -> bool:
    """Whether a file's rate differs from the usual one and its voice is off accordingly."""
    own = usual.by_speaker.get(row.speaker or "")
    up, down = ODD_PITCH_OCTAVES["same" if own else "others"]
    off, expected = math.log2(pitch / (own or usual.pitch)), math.log2(rate / usual.rate)
    return (off > up or off < -down) and abs(off - expected) < abs(off)


def _duplicate(heard: Heard, original: Row, other: Heard) -> tuple[str, str]:
    if other.sample_rate != heard.sample_rate:
        rates = f"{heard.sample_rate} Hz here and {other.sample_rate} Hz there"
        return "wrong rate", f"the same samples as {original.path} with another rate in the header: {rates}"
    return "duplicate", f"the same samples as {original.path}"


def table(findings: Sequence[Finding], base: Path) -> str:
    """Lay findings out in columns; paths under ``base`` are shown relative to it."""
    lines = [("file", "problem", "detail")]
    for finding in findings:
        detail = printable(finding.detail.replace(f"{base}{os.sep}", ""))
        lines.append((_shown(finding.row.path, base), finding.problem, detail))
    wide = [max(len(line[column]) for line in lines) for column in (0, 1)]
    lines.insert(1, ("-" * wide[0], "-" * wide[1], "-" * 6))
    return "\n".join(f"{file:{wide[0]}}  {problem:{wide[1]}}  {detail}" for file, problem, detail in lines)


def _shown(path: Path, base: Path) -> str:
    return printable(str(path.relative_to(base) if path.is_relative_to(base) else path))


def summary(rows: Sequence[Row], findings: Sequence[Finding], sound: Sequence[Row]) -> str:
    """One line: how many recordings, how many sound and how long, how many of each problem."""
    hours = sum(row.duration or 0 for row in sound) / 3600
    line = f"{len(rows)} recordings: {len(sound)} sound ({hours:.2f} hours)"
    if not findings:
        return line + ", no problems"
    counts = Counter(finding.problem for finding in findings).most_common()
    bad = len(rows) - len(sound)
    return f"{line}, {bad} with problems: " + ", ".join(f"{count} {problem}" for problem, count in counts)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Check recordings, print a table, leave a clean manifest if asked."""
    parser = Arguments.described_by("data.check", __doc__)
    parser.add_argument("recordings", metavar="MANIFEST|FOLDER", type=Path)
    parser.add_argument(
        "--write", type=Path, metavar="CLEAN", help="manifest (.csv, .tsv, .jsonl) of what is sound"
    )
    parser.add_argument("--shortest", type=float, default=SHORTEST_SECONDS, help="seconds (%(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="files decoded at once (one per core)")
    given = parser.parse_args(argv)
    if not given.shortest >= 0:
        raise UserError(f"--shortest {given.shortest} is not a number of seconds")
    if given.workers is not None and given.workers < 1:
        raise UserError(f"--workers {given.workers} is not a number of workers: give 1 or more")
    if given.write is not None:
        check_writable(given.write)  # before the work, not after it
    rows = rows_from(given.recordings)
    findings, sound = check(rows, shortest=given.shortest, workers=given.workers)
    unlisted: list[str] = []
    if findings:
        base = given.recordings if given.recordings.is_dir() else given.recordings.parent
        print(table(findings, base), end="\n\n")
    print(summary(rows, findings, sound))
    if given.write is not None:
        if not sound:
            raise UserError(f"{given.write} was not written: none of the recordings is sound")
        sound = nameable(sound, unlisted)
        note(*unlisted)
        note_replaced(given.write)
        write_manifest(given.write, sound)
        print(f"wrote {given.write}: {len(sound)} recordings")
    if findings or unlisted:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
