"""The evaluation as a function: scores row by row, and per system with confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from engine.user_error import UserError
from eval import intelligibility, pitch, quality, similarity
from eval.cache import Cache, content_hash
from eval.hearing import Heard, Judge, hear, listen
from eval.pairs import Pair

Metric = Literal["similarity", "pitch", "intelligibility", "quality"]
METRICS: tuple[Metric, ...] = ("similarity", "pitch", "intelligibility", "quality")
FAST: tuple[Metric, ...] = ("similarity", "pitch")
"""What tells within a minute whether a converter converts."""
COLUMNS: dict[Metric, tuple[str, ...]] = {
    "similarity": ("to_target", "to_source", "difference", "nearer_to_target"),
    "pitch": ("f0_correlation", "f0_distance", "f0_offset", "f0_within_2", "duration_ratio"),
    "intelligibility": ("cer", "wer", "cer_above_source", "phones_changed"),
    "quality": ("dnsmos", "dnsmos_speech", "dnsmos_background", "dnsmos_above_source"),
}
OF_THE_SAME_WORDS = (
    "f0_correlation",
    "duration_ratio",
    *("cer", "wer", "cer_above_source", "phones_changed"),
    "dnsmos_above_source",
)
"""Columns that mean nothing where the output is another utterance."""
VOICE, TEXT = similarity.Resemblyzer(), intelligibility.Sphinx()
MELODY, SOUND = pitch.Pitch(), quality.DNSMOS()
N_RESAMPLES, SEED = 2000, 20_211_017

Row = dict[str, str | float]
Summary = dict[str, dict[str, dict[str, float]]]
"""By system, then column: mean, bounds low and high of its 95 % interval, and n, the rows with a value."""


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Who judges what."""

    voice: Judge = VOICE
    text: Judge = TEXT
    melody: Judge = MELODY
    sound: Judge = SOUND

    def of(self, metrics: Sequence[Metric]) -> list[Judge]:
        """The judges that some metrics need."""
        by_metric = {
            "similarity": self.voice,
            "pitch": self.melody,
            "intelligibility": self.text,
            "quality": self.sound,
        }
        unknown = [metric for metric in metrics if metric not in by_metric]
        if unknown:
            raise UserError(f"there is no metric {unknown[0]!r}; choose from {', '.join(METRICS)}")
        return [by_metric[metric] for metric in METRICS if metric in metrics]


def score_pairs(
    pairs: Sequence[Pair],
    metrics: Sequence[Metric] = METRICS,
    *,
    judges: Judges | None = None,
    cache: Cache | Path | str | None = None,
    jobs: int = 0,
) -> tuple[list[Row], Summary]:
    """Score every pair's output; rows come in the order of the pairs.

    Features are cached per file content, so a second call costs seconds. With several ``jobs`` (0: one per
    core, up to 8) a script that calls this needs the usual ``if __name__ == "__main__"`` guard.
    """
    judges = judges or Judges()
    cache = cache if isinstance(cache, Cache) else Cache(cache)
    needed = judges.of(metrics)
    for judge in needed:
        judge.check()
    check_pairs(pairs, cache)
    heard = hear(wanted_by(pairs, metrics, judges), cache, jobs=jobs)
    rows = [score(pair, heard, metrics, judges) for pair in pairs]
    return rows, summarise(rows)


def check_pairs(pairs: Sequence[Pair], cache: Cache) -> None:
    """Refuse pairs without outputs, and files that ``check_files`` refuses."""
    if not pairs:
        raise UserError("there are no pairs to score")
    for pair in pairs:
        if pair.output is None:
            raise UserError(f"{pair.where or pair.source} has no output; give a converter to make it")
    check_files(pairs, cache)


def check_files(pairs: Sequence[Pair], cache: Cache) -> None:
    """Refuse files that are missing, broken, silent or too short, naming file and line, before any work."""
    seen = set()
    for pair in pairs:
        for column, path in pair.files.items():
            if path in seen:
                continue
            seen.add(path)
            if not path.is_file():
                kind = "is a folder" if path.is_dir() else "does not exist"
                raise UserError(f"{pair.where}: the {column} {path} {kind}")
            # A file once found good need not be decoded again to know it.
            if cache.get("sound", content_hash(path)) is None:
                wave = listen(path, pair.where)
                cache.put("sound", content_hash(path), {"samples": np.array(wave.shape[-1])})


def wanted_by(
    pairs: Sequence[Pair], metrics: Sequence[Metric], judges: Judges
) -> list[tuple[Path, list[Judge]]]:
    """Which files must be heard by which judges."""
    wanted = []
    voice_and_pitch = judges.of([metric for metric in metrics if metric in FAST])
    for pair in pairs:
        assert pair.output is not None
        wanted += [(pair.output, judges.of(metrics)), (pair.source, judges.of(metrics))]
        wanted += [(pair.target, voice_and_pitch)]
    return wanted


def score(pair: Pair, heard: Heard, metrics: Sequence[Metric], judges: Judges) -> Row:
    """One row: what was compared, and its scores."""
    assert pair.output is not None
    source, target, output = heard[pair.source], heard[pair.target], heard[pair.output]
    row: Row = {"system": pair.system, "source": str(pair.source), "target": str(pair.target)}
    row |= {"output": str(pair.output)}
    if "similarity" in metrics:
        voice = judges.voice.kind
        a, b, c = (features[voice]["embedding"] for features in (source, target, output))
        to_target, to_source = similarity.cosine(c, b), similarity.cosine(c, a)
        row |= {"to_target": to_target, "to_source": to_source, "difference": to_target - to_source}
        row |= {"nearer_to_target": float(to_target > to_source)}
    if "pitch" in metrics:
        melody = judges.melody.kind
        row |= pitch.compare(source[melody], output[melody], target[melody])
    if "intelligibility" in metrics:
        said, meant = output[judges.text.kind], source[judges.text.kind]
        rates = intelligibility.error_rates(pair.text, said)
        row |= rates | {
            "cer_above_source": rates["cer"] - intelligibility.error_rates(pair.text, meant)["cer"]
        }
        row["phones_changed"] = intelligibility.phones_changed(meant, said) if "phones" in said else math.nan
    if "quality" in metrics:
        rated, own = (quality.opinions(features[judges.sound.kind]) for features in (output, source))
        row |= rated | {"dnsmos_above_source": rated["dnsmos"] - own["dnsmos"]}
    if pair.output == pair.target_other:  # other words, so nothing that compares with what the source says
        row |= {name: math.nan for name in OF_THE_SAME_WORDS if name in row}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def summarise(rows: Sequence[Row]) -> Summary:
    """Means per system with bootstrap 95 % intervals over rows, seeded."""
    systems = dict.fromkeys(str(row["system"]) for row in rows)
    columns = [name for names in COLUMNS.values() for name in names]
    summary: Summary = {}
    for system in systems:
        own = [row for row in rows if row["system"] == system]
        summary[system] = {}
        for column in columns:
            values = np.array([row.get(column, math.nan) for row in own], dtype=float)
            values = values[~np.isnan(values)]
            if len(values):
                summary[system][column] = interval(values)
    return summary


def interval(values: np.ndarray) -> dict[str, float]:
    """The mean and the percentile bootstrap's 95 % bounds."""
    drawn = np.random.default_rng(SEED).integers(len(values), size=(N_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return {
        "mean": round(float(values.mean()), 6),
        "low": round(float(low), 6),
        "high": round(float(high), 6),
        "n": len(values),
    }
