"""Print a recogniser's error rates by corpus: python -m pretrain.ctc_score --data.paths MANIFEST…

``--decode.beam 16`` decodes by beam search instead of greedily.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import torch
from jaxtyping import Float

from engine.config import cli
from engine.table import table
from engine.user_error import at_least, exits_cleanly
from pretrain.recogniser import RELEASED, load_recogniser
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech
from pretrain.units import BLANK, RecogniserOutput, Units, greedy

MIN_LOG_PROB = -12.0
"""Log-probability below which beam search ignores a token at a frame."""


class Errors(NamedTuple):
    """Numbers of units and words in the labels, and their edit distances to the recognised text."""

    edits: int
    units: int
    word_edits: int
    words: int

    @property
    def rate(self) -> float:
        return self.edits / max(self.units, 1)

    @property
    def word_rate(self) -> float:
        return self.word_edits / max(self.words, 1)


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Decoding of posteriors into text."""

    beam: int = 1
    """Beam width; 1: greedy decoding."""

    def __post_init__(self) -> None:
        at_least(1, self, "beam", prefix="decode.")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Error rates of a recogniser by corpus: of its units and, if these are characters, of words."""

    recogniser: Path = RELEASED
    """Exported recogniser; by default the packaged one."""
    data: LabelledConfig = field(
        default_factory=lambda: LabelledConfig(split="validation", longest_seconds=60.0)
    )
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    threads: int = 1
    """CPU threads."""


def edit_distance(label: Sequence[object], recognised: Sequence[object]) -> int:
    """Return the Levenshtein distance: the minimum number of insertions, deletions and substitutions."""
    edits = jiwer.process_words(" ".join(map(str, label)), " ".join(map(str, recognised)))
    return edits.insertions + edits.deletions + edits.substitutions


def beam_search(log_probs: Float[np.ndarray, "frames tokens"], width: int) -> dict[tuple[int, ...], float]:
    """Decode by CTC prefix beam search (Graves 2012).

    Returns the hypotheses' tokens, best first, with the log-probability of their paths in the beam.
    """
    # For each prefix, the log-probability of the paths that end with a blank, and of the others.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probs.astype(np.float64):
        tried = [int(t) for t in np.flatnonzero(frame > MIN_LOG_PROB) if t != BLANK]
        grown: dict[tuple[int, ...], tuple[float, float]] = defaultdict(lambda: (-math.inf, -math.inf))
        for prefix, (blank, other) in beams.items():
            both, last = np.logaddexp(blank, other), prefix[-1] if prefix else BLANK
            ends_blank, ends_other = grown[prefix]
            repeated = other + frame[last] if prefix else -math.inf
            grown[prefix] = np.logaddexp(ends_blank, both + frame[BLANK]), np.logaddexp(ends_other, repeated)
            for token in tried:
                before = blank if token == last else both  # equal tokens must be separated by a blank
                if before > -math.inf:
                    ends_blank, ends_other = grown[*prefix, token]
                    grown[*prefix, token] = ends_blank, np.logaddexp(ends_other, before + frame[token])
        beams = {p: grown[p] for p in nlargest(width, grown, key=lambda p: np.logaddexp(*grown[p]))}
    return {prefix: float(np.logaddexp(*paths)) for prefix, paths in beams.items()}


@torch.no_grad()
def error_rates(recogniser: Any, speech: LabelledSpeech, beam: int = 1) -> dict[int, Errors]:
    """Return the errors of each labelled row, decoded greedily or with a beam of this width."""
    device, training = next(recogniser.parameters()).device, recogniser.training
    recogniser.eval()
    errors: dict[int, Errors] = {}
    for indices, batch in speech.in_order():
        output = recogniser(batch.wave.to(device), batch.samples.to(device))
        for index, tokens in zip(indices, greedy(output) if beam == 1 else _by_beam(output, beam)):
            errors[index] = errors_between(recogniser.units, speech.tokens[index], tokens)
    recogniser.train(training)
    return errors


def _by_beam(output: RecogniserOutput, width: int) -> list[list[int]]:
    assert output.valid is not None
    rows = [row[valid].numpy() for row, valid in zip(output.log_probs.cpu(), output.valid.cpu())]
    return [list(next(iter(beam_search(row, width)))) for row in rows]


def errors_between(units: Units, label: Sequence[int], recognised: Sequence[int]) -> Errors:
    """Compare two transcripts; words are counted if the units are characters that include the space."""
    words = ([], [])
    if units.between == "" and " " in units.symbols:
        words = (units.text(label).split(), units.text(recognised).split())
    return Errors(edit_distance(label, recognised), len(label), edit_distance(*words), len(words[0]))


def total(errors: Iterable[Errors]) -> Errors:
    return Errors(*map(sum, zip(*errors)))


@exits_cleanly
def main() -> None:
    config = cli({"default": ScoreConfig()})
    torch.set_num_threads(config.threads)
    recogniser = load_recogniser(config.recogniser)
    speech = LabelledSpeech(config.data, recogniser.units, sample_rate=recogniser.sample_rate)
    errors = error_rates(recogniser, speech, config.decode.beam)
    corpora: dict[str, list[Errors]] = defaultdict(list)
    for index, error in errors.items():
        row = speech.rows[index]
        corpora[row.extra.get("corpus") or row.path.parent.name].append(error)
    name, rows = recogniser.units.name, []
    for corpus, group in [*sorted(corpora.items()), ("all", list(errors.values()))]:
        rate = total(group)
        words = f"{100 * rate.word_rate:.1f} %" if rate.words else "-"
        rows.append([corpus, len(group), rate.units, f"{100 * rate.rate:.1f} %", words])
    print(table(["corpus", "utterances", f"{name}s", f"{name} error rate", "word error rate"], rows))


if __name__ == "__main__":
    main()
