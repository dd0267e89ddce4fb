"""Evaluation pairs of source and target, read from a CSV file or drawn from a corpus split."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.audio import AudioError, info, load
from data.manifest import Row, rows_from
from engine.user_error import UserError
from eval.features import SAMPLE_RATE, SHORTEST_SECONDS, SILENT, Cache, Features, content_hash

COLUMNS = ("source", "target", "output", "text", "system")
"""Required columns of a pairs CSV; ``output`` may be empty if a converter generates the outputs."""
SEED = 20_211_017
"""Seed of the fixed evaluation list; scores with different seeds are not comparable."""
MAX_PAIRS = 90
N_SCORED = 4
"""Utterances per speaker used as sources and scored targets; the others serve as references."""
SCORED_SECONDS = (2.5, 11.0)
MAX_REFERENCES = 3
REFERENCE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A source to convert to the target's voice, and one system's output if it exists."""

    source: Path
    target: Path
    """Target utterance that outputs are compared with; preferably not one of the references."""
    output: Path | None = None
    text: str = ""
    """Transcript of the source; empty if unknown."""
    system: str = "system"
    target_other: Path | None = None
    """Another utterance of the target speaker, for the topline."""
    references: tuple[Path, ...] = ()
    """Reference clips given to the converter; if empty, the target itself."""
    where: str = ""
    """Origin (file and line) for error messages."""

    @property
    def voice_clips(self) -> tuple[Path, ...]:
        """Clips from which a converter embeds the voice."""
        return self.references or (self.target,)

    @property
    def files(self) -> dict[str, Path]:
        named = {"source": self.source, "target": self.target}
        named |= {"output": self.output} if self.output else {}
        named |= {"target_other": self.target_other} if self.target_other else {}
        return named | {f"references[{i}]": path for i, path in enumerate(self.references)}


def read_pairs(path: Path | str) -> list[Pair]:
    """Read a pairs CSV; relative paths start from its folder."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; --pairs needs a CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if absent:
                needed = ", ".join(COLUMNS)
                raise UserError(f"{path} line 1 lacks the column {absent[0]!r}; required are {needed}")
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
        raise UserError(f"{where} has no {'target' if source else 'source'}")
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
    """Write pairs as a CSV for ``read_pairs``, with paths relative to its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def relative(file: Path | None) -> str:
        return Path(os.path.relpath(file, path.parent)).as_posix() if file else ""

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, "target_other", "references"))
        for pair in pairs:
            audio = (relative(pair.source), relative(pair.target), relative(pair.output))
            references = ";".join(relative(clip) for clip in pair.references)
            writer.writerow((*audio, pair.text, pair.system, relative(pair.target_other), references))


def fixed_pairs(folder: Path | str, split: str = "test", *, max_pairs: int = MAX_PAIRS) -> list[Pair]:
    """Draw a corpus's fixed evaluation list of ordered speaker pairs.

    Ten speakers give all their 90 ordered pairs. With more speakers, each is source and target equally often;
    with fewer, pairs repeat with other utterances. Each speaker's utterances are divided once: up to four of
    2.5 to 11 s serve as sources and scored targets, the others as references (up to three clips, up to 20 s),
    so a converter is never given the utterance its output is compared with.
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
    """Split a speaker's utterances into scored ones and references."""
    shuffled = [rows[i] for i in np.random.default_rng([SEED, 1, speaker]).permutation(len(rows))]
    low, high = SCORED_SECONDS
    # A stable sort: utterances of suitable length come first, in their drawn order.
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
    except AudioError:  # reported by ``scorable``
        return 0.0


def scorable(pairs: Sequence[Pair], cache: Cache) -> tuple[list[Pair], list[str]]:
    """Return the pairs whose files can be scored, and one error message for each of the others.

    A silent output is scored: leaving it out would flatter its system.
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
    """Return a note for each silent output of pairs that passed ``scorable``."""
    return [
        f"{pair.where}: {pair.output} is silent and gets the worst scores for intelligibility and similarity"
        for pair in pairs
        if pair.output and _peak(pair.output, "output", cache) < SILENT
    ]


def _peak(path: Path, column: str, cache: Cache) -> float:
    """Return a file's peak at 16 kHz, cached so that a valid file is decoded only once."""
    if not path.is_file():
        raise UserError(f"the {column} {path} {'is a folder' if path.is_dir() else 'does not exist'}")

    def compute() -> Features:
        wave = load(path, SAMPLE_RATE)
        seconds = wave.shape[-1] / SAMPLE_RATE
        if seconds < SHORTEST_SECONDS:
            raise UserError(
                f"the {column} {path} lasts {seconds:.3f} s; scoring needs {SHORTEST_SECONDS} s or more"
            )
        return {"peak": np.array(float(wave.abs().max()))}

    return float(cache.remember("peak", content_hash(path), compute)["peak"])
