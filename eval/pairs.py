"""What is scored: pairs of a source and a target, of a CSV or a corpus' split, whose files can be judged."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.audio import AudioError, info, load
from data.manifest import Row, rows_from
from engine.user_error import UserError
from eval.features import SAMPLE_RATE, SHORTEST_SECONDS, SILENT, Cache, content_hash

COLUMNS = ("source", "target", "output", "text", "system")
"""Columns a CSV of pairs must have; cells of ``output`` may be empty where a converter will fill them."""
OPTIONAL = ("target_other", "references")
SEED = 20_211_017
"""Of the fixed evaluation list; changing it makes figures incomparable."""
MAX_PAIRS = 90
N_SCORED = 4
"""Utterances of a speaker that serve as sources and scored targets; the others are left for references."""
SCORED_SECONDS = (2.5, 11.0)
MAX_REFERENCES = 3
REFERENCE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A source to be spoken by the target's voice, and the output of one system where it exists."""

    source: Path
    target: Path
    """The target's utterance that outputs are compared with; best one that no converter hears."""
    output: Path | None = None
    text: str = ""
    """What the source says; empty where unknown."""
    system: str = "system"
    target_other: Path | None = None
    """Another utterance of the target, for the topline."""
    references: tuple[Path, ...] = ()
    """Clips a converter hears; empty means the target itself."""
    where: str = ""
    """File and line, for complaints."""

    @property
    def voice_clips(self) -> tuple[Path, ...]:
        """What a converter is given as the voice."""
        return self.references or (self.target,)

    @property
    def files(self) -> dict[str, Path]:
        named = {"source": self.source, "target": self.target}
        named |= {"output": self.output} if self.output else {}
        named |= {"target_other": self.target_other} if self.target_other else {}
        return named | {f"references[{i}]": path for i, path in enumerate(self.references)}


def read_pairs(path: Path | str) -> list[Pair]:
    """Read a CSV of pairs; its relative paths start from its folder."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; --pairs wants a CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if absent:
                needed = ", ".join(COLUMNS)
                raise UserError(f"{path} line 1 lacks the column {absent[0]!r}; a CSV of pairs has {needed}")
            pairs = [_pair(record, path, reader.line_num) for record in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if not pairs:
        raise UserError(f"{path} lists no pairs")
    return pairs


def _pair(record: dict[str, str | None], path: Path, line: int) -> Pair:
    where = f"{path} line {line}"

    def file(name: str) -> Path | None:
        cell = (record.get(name) or "").strip()
        return path.parent / cell if cell else None

    source, target = file("source"), file("target")
    if source is None or target is None:
        raise UserError(f"{where} has no {'source' if source is None else 'target'}")
    references = [cell.strip() for cell in (record.get("references") or "").split(";")]
    return Pair(
        source=source,
        target=target,
        output=file("output"),
        text=(record["text"] or "").strip(),
        system=(record["system"] or "").strip() or "system",
        target_other=file("target_other"),
        references=tuple(path.parent / cell for cell in references if cell),
        where=where,
    )


def write_pairs(path: Path | str, pairs: Iterable[Pair]) -> None:
    """Write pairs as a CSV that ``read_pairs`` reads, with paths relative to it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def relative(file: Path | None) -> str:
        return Path(os.path.relpath(file, path.parent)).as_posix() if file else ""

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, *OPTIONAL))
        for pair in pairs:
            audio = (relative(pair.source), relative(pair.target), relative(pair.output))
            references = ";".join(relative(clip) for clip in pair.references)
            writer.writerow((*audio, pair.text, pair.system, relative(pair.target_other), references))


def fixed_pairs(folder: Path | str, split: str = "test", *, max_pairs: int = MAX_PAIRS) -> list[Pair]:
    """Draw the evaluation list of a corpus: ordered pairs of its speakers, the same list every time.

    Ten speakers give all their 90 ordered pairs. Of more speakers each is source and target equally often; of
    fewer, pairs are repeated with other utterances. Each speaker's utterances are divided once: up to four of
    2.5 to 11 s serve as sources and scored targets, the others as references (up to three clips, up to 20 s):
    a converter never hears the utterance its output is compared with.
    """
    by_speaker = _utterances(folder, split)
    order = np.random.default_rng(SEED).permutation(sorted(by_speaker)).tolist()
    divided = {name: _divide(by_speaker[name], i) for i, name in enumerate(order)}
    pairs = []
    for number in range(max_pairs):
        step, i = divmod(number, len(order))
        shift = 1 + step % (len(order) - 1)
        source, target = order[i], order[(i + shift) % len(order)]
        sources, _ = divided[source]
        scored, others = divided[target]
        row, at = sources[step % len(sources)], number % len(scored)
        pairs.append(
            Pair(
                source=row.path,
                target=scored[at].path,
                text=row.text or "",
                target_other=scored[(at + 1) % len(scored)].path if len(scored) > 1 else None,
                references=_references(others, number),
                where=f"pair {number + 1} of {folder}",
            )
        )
    return pairs


def _utterances(folder: Path | str, split: str) -> dict[str, list[Row]]:
    rows = rows_from(folder)
    chosen = [row for row in rows if (row.split or "train") == split and row.speaker]
    if not chosen:
        known = ", ".join(sorted({row.split or "train" for row in rows}))
        raise UserError(f"{folder} has no labelled speakers in split {split!r}; it has {known}")
    by_speaker: dict[str, list[Row]] = {}
    for row in sorted(chosen, key=lambda row: row.path.as_posix()):
        by_speaker.setdefault(row.speaker or "", []).append(row)
    by_speaker = {name: rows for name, rows in by_speaker.items() if len(rows) >= 3}
    if len(by_speaker) < 2:
        raise UserError(f"{folder} split {split!r} needs two speakers with three utterances each or more")
    return by_speaker


def _divide(rows: Sequence[Row], speaker: int) -> tuple[list[Row], list[Row]]:
    """Part a speaker's utterances into those that are scored and those that serve as references."""
    shuffled = [rows[i] for i in np.random.default_rng([SEED, 1, speaker]).permutation(len(rows))]
    low, high = SCORED_SECONDS
    # Stable: utterances of a fitting length come first, in their drawn order.
    shuffled.sort(key=lambda row: not low <= _seconds(row) <= high)
    n_scored = min(N_SCORED, len(rows) - 1)
    return shuffled[:n_scored], shuffled[n_scored:]


def _references(rows: Sequence[Row], number: int) -> tuple[Path, ...]:
    shuffled = [rows[i] for i in np.random.default_rng([SEED, 2, number]).permutation(len(rows))]
    taken, total = [shuffled[0].path], _seconds(shuffled[0])
    for row in shuffled[1:]:
        if len(taken) < MAX_REFERENCES and total + _seconds(row) <= REFERENCE_SECONDS:
            taken.append(row.path)
            total += _seconds(row)
    return tuple(taken)


def _seconds(row: Row) -> float:
    try:
        return row.duration if row.duration is not None else info(row.path).duration
    except AudioError:  # told where the pair is to be scored
        return 0.0


def scorable(pairs: Sequence[Pair], cache: Cache) -> tuple[list[Pair], list[str]]:
    """Part pairs into those whose files can be judged, and one sentence on each of the others.

    An output may be silent: that is a result, and leaving it out would flatter its system.
    """
    good, faults = [], []
    for pair in pairs:
        try:
            for column, path in pair.files.items():
                if _peak(path, column, cache) < SILENT and column != "output":
                    raise UserError(f"the {column} {path} is silent")
            good.append(pair)
        except UserError as fault:
            faults.append(f"{pair.where}: {fault}" if pair.where else str(fault))
    return good, faults


def silent_outputs(pairs: Sequence[Pair], cache: Cache) -> list[str]:
    """One sentence on each output in which nothing is to be heard; the files must be good."""
    return [
        f"{pair.where}: {pair.output} is silent: it counts as understood by nobody and like nobody"
        for pair in pairs
        if pair.output and _peak(pair.output, "output", cache) < SILENT
    ]


def _peak(path: Path, column: str, cache: Cache) -> float:
    """Return a file's peak at 16 kHz; a file once found good need not be decoded again."""
    if not path.is_file():
        raise UserError(f"the {column} {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    known = cache.get("peak", content_hash(path))
    if known is None:
        wave = load(path, SAMPLE_RATE)
        seconds = wave.shape[-1] / SAMPLE_RATE
        if seconds < SHORTEST_SECONDS:
            raise UserError(
                f"the {column} {path} lasts {seconds:.3f} s; scoring needs {SHORTEST_SECONDS} s or more"
            )
        known = {"peak": np.array(float(wave.abs().max()))}
        cache.put("peak", content_hash(path), known)
    return float(known["peak"])
