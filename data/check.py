"""Find problems in recordings: ``python -m data.check MANIFEST|FOLDER [--write clean.csv]``.

problems:
  missing, unreadable, truncated, empty, NaN
               the file cannot be used, or is shorter than its manifest states
  silent       no 20 ms frame reaches -60 dBFS
  clipped      0.05 % of the samples or more are clipped
  over full scale
               floats beyond ±1 by more than decoders overshoot, which would be clipped
  offset       a DC offset of .02 or more
  hum          mains hum (50 or 60 Hz and harmonics) less than 20 dB below the speech
  too short    shorter than --shortest seconds
  wrong rate   the sample rate in the header is not that of the samples. Signs are: an implausible rate; a
               duration in the manifest that matches another usual rate; the same samples in another file at
               another rate; a voice that is too high and fast, or too low, for speech; in a collection with
               mostly one rate, a file with another rate whose pitch deviates by about the ratio of the rates.
               Speech at a wrong rate can sound natural (a deep voice at twice its rate), so not every case
               is found
  duplicate    the same samples (to 16 bits) as an earlier file, in any container
  unlike the others
               with --voice, where all recordings are references of one voice: pitch and timbre differ
               strongly from those of the others, so that it would impair the voice embedding

The output ends with the levels and the largest offset, hum and peak, even if they are no problem.

Exit code: 0 without problems, 1 with problems, 2 if the check could not be made.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tqdm import tqdm

from data.audio import AudioError
from data.audio.checking import INTEGER_PEAK, LOUDEST_PEAK
from data.audio.listening import Measurements, measure
from data.manifest import Row, check_writable, rows_from, write_manifest
from data.plausibility import compare, explaining_rate, usual_rate, wrong_rate
from engine.arguments import Arguments
from engine.outcome import note, note_replaced
from engine.user_error import UserError, exits_cleanly, printable

SILENT_DB = -60.0
CLIPPED_SHARE = 0.0005
OFFSET = 0.02
HUM_DB, LOUDEST_HUM = -20.0, -60.0
"""Hum is a problem above both: dB relative to the speech, and dBFS."""
SHORTEST_SECONDS = 0.5
Measured = Sequence[Measurements | AudioError]
"""The measurements of each recording, or the error because of which it cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    row: Row
    problem: str
    detail: str


def check(
    rows: Sequence[Row], measured: Measured, *, shortest: float = SHORTEST_SECONDS, voice: bool = False
) -> tuple[list[Finding], list[Row]]:
    """Check recordings by the result of ``measure_all``; with ``voice``, all rows are of one voice.

    Returns the problems, and the rows without problems with their real durations.
    """
    unlike = _unlike(measured) if voice else {}
    usual = usual_rate(rows, measured)
    originals: dict[bytes, tuple[int, Measurements]] = {}
    for index, one in enumerate(measured):
        if isinstance(one, Measurements):
            _, original = originals.setdefault(one.digest, (index, one))
            if usual and one.sample_rate == usual.rate != original.sample_rate:
                # If the same samples have two rates, the usual one is correct.
                originals[one.digest] = (index, one)
    findings, sound = [], []
    for index, (row, one) in enumerate(zip(rows, measured)):
        if isinstance(one, AudioError):
            problems = [(one.problem, one.detail)]
        else:
            problems = list(_problems(row, one, shortest))
            problems += wrong_rate(row, one, usual)
            first, original = originals[one.digest]
            if first != index and one.loudest_db >= SILENT_DB:
                problems.append(_duplicate(one, rows[first], original))
            if index in unlike:
                problems.append(("unlike the others", unlike[index]))
            if not problems:
                sound.append(replace(row, duration=one.duration))
        findings += [Finding(row=row, problem=problem, detail=detail) for problem, detail in problems]
    return findings, sound


def _unlike(measured: Measured) -> dict[int, str]:
    """Return a description of each reference that is unlike the others, by index."""
    audible = {
        index: one
        for index, one in enumerate(measured)
        if isinstance(one, Measurements) and one.loudest_db >= SILENT_DB
    }
    if len(audible) < 3:
        raise UserError(f"--voice needs at least three audible recordings, not {len(audible)}")
    compared = zip(audible, compare(list(audible.values())))
    return {index: likeness.detail for index, likeness in compared if likeness.unlike}


def measure_all(rows: Sequence[Row], workers: int | None = None) -> Measured:
    """Measure all recordings, or return their errors, with ``workers`` threads (None: one per core)."""

    def measured(row: Row) -> Measurements | AudioError:
        try:
            return measure(row.path)
        except AudioError as error:
            return error

    pause = 0.1 if sys.stderr.isatty() else 10.0  # fewer lines in a log file
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        found = pool.map(measured, rows)
        return [*tqdm(found, total=len(rows), desc="measuring", unit="file", mininterval=pause)]
    finally:
        pool.shutdown(cancel_futures=True)


def _problems(row: Row, measured: Measurements, shortest: float) -> Iterator[tuple[str, str]]:
    if measured.peak == 0:
        yield "silent", "digital silence"
    elif measured.loudest_db < SILENT_DB:
        yield "silent", f"at most {measured.loudest_db:.0f} dBFS"
    else:
        yield from _signal_problems(measured)
    if measured.duration < shortest:
        yield "too short", f"{measured.duration:.2f} s, under {shortest:g} s"
    claimed = row.duration or 0.0
    if measured.duration < min(0.95 * claimed, claimed - 0.25) and not explaining_rate(row, measured):
        yield "truncated", f"lasts {measured.duration:.2f} s, but the manifest states {claimed:.2f} s"


def _signal_problems(measured: Measurements) -> Iterator[tuple[str, str]]:
    if measured.clipped >= CLIPPED_SHARE:
        yield "clipped", f"{measured.clipped:.2%} of the samples are clipped at a peak of {measured.peak:.2f}"
    if measured.peak > LOUDEST_PEAK:
        kind = "floats over 1, to be clipped" if measured.peak < INTEGER_PEAK else "integers stored as floats"
        yield "over full scale", f"peak {measured.peak:.2f}: {kind}"
    if abs(measured.offset) >= OFFSET * max(1.0, measured.peak):
        yield "offset", f"the mean of its samples is {measured.offset:.3f}"
    if measured.hum and measured.hum[0] > max(measured.level_db + HUM_DB, LOUDEST_HUM):
        level, mains = measured.hum
        yield "hum", f"{level:.0f} dBFS at {mains} Hz and above, the speech {measured.level_db:.0f} dBFS"


def _duplicate(measured: Measurements, original: Row, other: Measurements) -> tuple[str, str]:
    if other.sample_rate != measured.sample_rate:
        rates = f"{measured.sample_rate} Hz here and {other.sample_rate} Hz there"
        return "wrong rate", f"the same samples as {original.path} with another rate in the header: {rates}"
    return "duplicate", f"the same samples as {original.path}"


def table(findings: Sequence[Finding], base: Path) -> str:
    """Format findings as a table; paths under ``base`` are shown relative to it."""
    lines = [("file", "problem", "detail")]
    for finding in findings:
        detail = printable(finding.detail.replace(f"{base}{os.sep}", ""))
        lines.append((_shown(finding.row.path, base), finding.problem, detail))
    wide = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ("-" * wide[0], "-" * wide[1], "-" * 6))
    return "\n".join(f"{file:{wide[0]}}  {problem:{wide[1]}}  {detail}" for file, problem, detail in lines)


def _shown(path: Path, base: Path) -> str:
    return printable(str(path.relative_to(base) if path.is_relative_to(base) else path))


def summary(rows: Sequence[Row], findings: Sequence[Finding], sound: Sequence[Row]) -> str:
    """Return one line with the number and duration of good recordings, and the number of each problem."""
    hours = sum(row.duration or 0 for row in sound) / 3600
    line = f"{len(rows)} recordings: {len(sound)} sound ({hours:.2f} hours)"
    if not findings:
        return line + ", no problems"
    counts = Counter(finding.problem for finding in findings).most_common()
    bad = len(rows) - len(sound)
    return f"{line}, {bad} with problems: " + ", ".join(f"{count} {problem}" for problem, count in counts)


def levels(rows: Sequence[Row], measured: Measured, base: Path) -> str:
    """Return the levels of the recordings, and the largest offset, hum and peak with their files."""
    pairs = zip(rows, measured)
    audible = [(row, one) for row, one in pairs if isinstance(one, Measurements) and one.peak > 0]
    if not audible:
        return ""

    def most(value: Callable[[Measurements], float], shown: str) -> str:
        row, one = max(audible, key=lambda pair: value(pair[1]))
        return f"{shown.format(value(one))} ({_shown(row.path, base)})"

    speech, noise = ([getattr(one, name) for _, one in audible] for name in ("level_db", "noise_db"))
    lines = [
        f"levels: speech {median(speech):.0f} dBFS ({min(speech):.0f} to {max(speech):.0f}),"
        f" quietest tenth {median(noise):.0f} dBFS ({min(noise):.0f} to {max(noise):.0f})",
        "greatest offset " + most(lambda one: abs(one.offset) / max(1.0, one.peak), "{:.4f}"),
        "greatest peak " + most(lambda one: one.peak, "{:.3f}"),
    ]
    if any(one.hum for _, one in audible):
        lines.insert(2, "greatest hum " + most(lambda one: (one.hum or (-240.0, 0))[0], "{:.0f} dBFS"))
    return "\n".join(lines)


def nameable(rows: Iterable[Row], left_out: list[str]) -> list[Row]:
    """Return the rows whose file names are valid UTF-8; messages about others go to ``left_out``."""
    good = []
    for row in rows:
        try:
            os.path.abspath(row.path).encode()
            good.append(row)
        except UnicodeEncodeError:
            left_out.append(f"{row.path} has a name that is not valid text (UTF-8): rename it")
    return good


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("data.check", __doc__)
    option = parser.add_argument
    option("recordings", metavar="MANIFEST|FOLDER", type=Path)
    option("--write", type=Path, metavar="CLEAN", help="manifest (.csv, .tsv, .jsonl) of the good recordings")
    option("--shortest", type=float, default=SHORTEST_SECONDS, help="minimum duration in s (%(default)s)")
    option("--workers", type=int, default=None, help="files decoded at once (one per core)")
    voice = "treat all as references of one voice, and report those that are unlike the others"
    option("--voice", action="store_true", help=voice)
    given = parser.parse_args(argv)
    if not given.shortest >= 0:
        raise UserError(f"--shortest {given.shortest} is not a number of seconds")
    if given.workers is not None and given.workers < 1:
        raise UserError(f"--workers {given.workers} is not a number of workers: give 1 or more")
    if given.write is not None:
        check_writable(given.write)
    rows = rows_from(given.recordings)
    measured = measure_all(rows, given.workers)
    findings, sound = check(rows, measured, shortest=given.shortest, voice=given.voice)
    base = given.recordings if given.recordings.is_dir() else given.recordings.parent
    unlisted: list[str] = []
    if findings:
        print(table(findings, base), end="\n\n")
    print(summary(rows, findings, sound))
    if text := levels(rows, measured, base):
        print(text)
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
