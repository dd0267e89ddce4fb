"""Scores per output, and means per system with confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from engine.user_error import UserError
from eval import error_rates, pitch, quality, similarity
from eval.features import Cache, Features, FeaturesByFile, Judge, compute_features
from eval.pairs import Pair, scorable
from eval.recognisers import Moonshine, Pocketsphinx, Recogniser

Metric = Literal["similarity", "pitch", "intelligibility", "quality"]
METRICS: tuple[Metric, ...] = ("similarity", "pitch", "intelligibility", "quality")
FAST: tuple[Metric, ...] = ("similarity", "pitch")
"""Metrics for a quick check that a converter works (about a minute)."""
COLUMNS: dict[Metric, tuple[str, ...]] = {
    "similarity": ("to_target", "to_source", "difference", "nearer_to_target"),
    "pitch": (
        *("f0_correlation", "f0_distance", "f0_offset", "f0_within_2", "duration_ratio"),
        *("pause_level", "pause_above_source"),
    ),
    "intelligibility": ("cer", "wer", "cer_above_source", "phones_changed"),
    "quality": ("dnsmos", "dnsmos_speech", "dnsmos_background", "dnsmos_above_source"),
}
"""Columns by metric; those of further recognisers are prefixed with their names: ``pocketsphinx_cer``."""
OF_THE_SAME_WORDS = (
    *("f0_correlation", "duration_ratio", "pause_level", "pause_above_source", "dnsmos_above_source"),
    *COLUMNS["intelligibility"],
)
"""Columns that are undefined if the output is a different utterance from the source."""
N_RESAMPLES, SEED = 2000, 20_211_017

Row = dict[str, str | float]
Summary = dict[str, dict[str, dict[str, float]]]
"""Scores by system and column: mean, bounds of its 95 % interval (low, high) and n, the rows with a value."""


@dataclass(frozen=True, kw_only=True)
class Judges:
    voice: Judge = field(default_factory=similarity.Resemblyzer)
    recognisers: tuple[Recogniser, ...] = field(default_factory=lambda: (Moonshine(), Pocketsphinx()))
    """A gain in intelligibility counts only if all of them agree."""
    melody: Judge = field(default_factory=pitch.Pitch)
    sound: Judge = field(default_factory=quality.DNSMOS)

    def by_metric(self, metrics: Sequence[Metric]) -> dict[Metric, tuple[Judge, ...]]:
        judges: dict[Metric, tuple[Judge, ...]] = {
            "similarity": (self.voice,),
            "pitch": (self.melody,),
            "intelligibility": self.recognisers,
            "quality": (self.sound,),
        }
        unknown = [metric for metric in metrics if metric not in judges]
        if unknown:
            raise UserError(f"there is no metric {unknown[0]!r}; choose from {', '.join(METRICS)}")
        return {metric: judges[metric] for metric in METRICS if metric in metrics}

    def of(self, metrics: Sequence[Metric]) -> list[Judge]:
        return [judge for judges in self.by_metric(metrics).values() for judge in judges]

    def check(self, metrics: Sequence[Metric]) -> None:
        """Raise ``UserError`` if a package or model that the metrics need is absent."""
        for judge in self.of(metrics):
            judge.check()
        if "intelligibility" in metrics:
            error_rates.check()


def score_pairs(
    pairs: Sequence[Pair],
    metrics: Sequence[Metric] = METRICS,
    *,
    judges: Judges | None = None,
    cache: Cache | Path | str | None = None,
    jobs: int = 0,
) -> tuple[list[Row], Summary]:
    """Score every pair's output, one row per pair in the same order; raise ``UserError`` for unusable files.

    Features are cached by file content, so a second call takes seconds. With several ``jobs`` (0: one per
    core, up to 8) the calling script needs an ``if __name__ == "__main__"`` guard.
    """
    judges = judges or Judges()
    cache = cache if isinstance(cache, Cache) else Cache(cache)
    judges.check(metrics)
    if not pairs:
        raise UserError("there are no pairs to score")
    for pair in pairs:
        if pair.output is None:
            raise UserError(f"{pair.where or pair.source} has no output; give a converter to generate it")
    _, faults = scorable(pairs, cache)
    if faults:
        raise UserError(faults[0])
    features = compute_features(needed_features(pairs, metrics, judges), cache, jobs=jobs)
    rows = [score(pair, features, metrics, judges) for pair in pairs]
    return rows, summarise(rows)


def needed_features(
    pairs: Sequence[Pair], metrics: Sequence[Metric], judges: Judges
) -> list[tuple[Path, list[Judge]]]:
    wanted = []
    every, voice_and_pitch = judges.of(metrics), judges.of([m for m in metrics if m in FAST])
    for pair in pairs:
        assert pair.output is not None
        wanted += [(pair.output, every), (pair.source, every), (pair.target, voice_and_pitch)]
    return wanted


def score(pair: Pair, features: FeaturesByFile, metrics: Sequence[Metric], judges: Judges) -> Row:
    """Return a row with the pair's files and scores."""
    assert pair.output is not None
    source, target, output = (features[path] for path in (pair.source, pair.target, pair.output))
    row: Row = {"system": pair.system, "source": str(pair.source), "target": str(pair.target)}
    row |= {"output": str(pair.output)}
    if "similarity" in metrics:
        voice = judges.voice.kind
        a, b, c = (file[voice]["embedding"] for file in (source, target, output))
        to_target, to_source = similarity.cosine(c, b), similarity.cosine(c, a)
        row |= {"to_target": to_target, "to_source": to_source, "difference": to_target - to_source}
        row |= {"nearer_to_target": float(to_target > to_source)}
    if "pitch" in metrics:
        melody = judges.melody.kind
        row |= pitch.compare(source[melody], output[melody], target[melody])
        row |= pitch.compare_pauses(source[melody], output[melody])
    if "intelligibility" in metrics:
        for number, recogniser in enumerate(judges.recognisers):
            rates = word_scores(pair.text, source[recogniser.kind], output[recogniser.kind], recogniser)
            before = f"{recogniser.name}_" if number else ""
            row |= {before + name: value for name, value in rates.items()}
    if "quality" in metrics:
        opinions, of_source = (quality.opinions(file[judges.sound.kind]) for file in (output, source))
        row |= opinions | {"dnsmos_above_source": opinions["dnsmos"] - of_source["dnsmos"]}
    if pair.output == pair.target_other:  # other words than the source's
        row |= {name: math.nan for name in row if name.endswith(OF_THE_SAME_WORDS)}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def word_scores(text: str, source: Features, output: Features, recogniser: Recogniser) -> dict[str, float]:
    """Return one recogniser's columns; NaN for a text in a script that it does not support."""
    if not readable_by(recogniser, text):
        text = ""
    rates, of_source = (error_rates.error_rates(text, features) for features in (output, source))
    changed = error_rates.phones_changed(source, output) if "phones" in output else math.nan
    return rates | {"cer_above_source": rates["cer"] - of_source["cer"], "phones_changed": changed}


def readable_by(recogniser: Recogniser, text: str) -> bool:
    """Whether a recogniser supports a text's script."""
    return not recogniser.english_only or error_rates.in_latin_letters(text)


def summarise(rows: Sequence[Row], columns: Sequence[str] = (), *, drawn: str = "") -> Summary:
    """Return means per system with seeded bootstrap 95 % intervals.

    Rows are resampled singly, or in groups of equal values in the column ``drawn``. ``columns`` defaults to
    the numeric columns of the first row.
    """
    columns = columns or [name for name, value in rows[0].items() if not isinstance(value, str)]
    summary: Summary = {}
    for system in dict.fromkeys(str(row["system"]) for row in rows):
        of_system = [row for row in rows if row["system"] == system]
        groups = np.array([row[drawn] for row in of_system]) if drawn else np.arange(len(of_system))
        summary[system] = {}
        for column in columns:
            values = np.array([row.get(column, math.nan) for row in of_system], dtype=float)
            known = ~np.isnan(values)
            if known.any():
                summary[system][column] = interval(values[known], groups[known])
    return summary


def interval(values: np.ndarray, groups: np.ndarray | None = None) -> dict[str, float]:
    """Return the mean and its 95 % percentile bootstrap interval; ``groups`` are resampled whole."""
    _, group = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    totals, counts = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng(SEED).integers(len(totals), size=(N_RESAMPLES, len(totals)))
    low, high = np.percentile(totals[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    found = {"mean": values.mean(), "low": low, "high": high}
    return {name: round(float(value), 6) for name, value in found.items()} | {"n": len(values)}
