"""Print a recogniser's error rates by corpus: python -m pretrain.ctc_score --data.paths MANIFEST…

``--decode.beam 16`` searches for the likeliest text instead of taking the likeliest token of each frame, and
``--decode.lm-paths MANIFEST…`` adds a language model of units, learned from those manifests' texts.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.augment import pitch_and_formant_shift
from engine.config import cli
from engine.table import table
from engine.user_error import exits_cleanly
from pretrain.recogniser import RELEASED, Recogniser, load_recogniser
from pretrain.speech.beam import DecodeConfig, UnitLM, beam_search
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech, labelled_rows
from pretrain.units import RecogniserOutput, Units, greedy


class Errors(NamedTuple):
    """Units and words of the labels, and the edits that turn what was recognised into them."""

    edits: int
    units: int
    word_edits: int
    words: int

    @property
    def rate(self) -> float:
        """Edits per unit."""
        return self.edits / max(self.units, 1)

    @property
    def word_rate(self) -> float:
        """Edits per word."""
        return self.word_edits / max(self.words, 1)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Error rates of a recogniser by corpus: of its units, and of words where it writes letters."""

    recogniser: Path = RELEASED
    """Exported folder; by default the one that comes with the code."""
    data: LabelledConfig = field(
        default_factory=lambda: LabelledConfig(split="validation", longest_seconds=60.0)
    )
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    threads: int = 1
    """CPU threads."""


def edit_distance(label: Sequence[object], recognised: Sequence[object]) -> int:
    """Return the fewest insertions, deletions and substitutions from one to the other (Levenshtein)."""
    found = jiwer.process_words(" ".join(map(str, label)), " ".join(map(str, recognised)))
    return found.insertions + found.deletions + found.substitutions


@torch.no_grad()
def transcripts(
    recogniser: Any, speech: LabelledSpeech, decode: DecodeConfig | None = None
) -> dict[int, list[int]]:
    """Return the tokens recognised in each labelled row."""
    decode = decode or DecodeConfig()
    lm = _language_model(decode, recogniser.units)
    device, training = next(recogniser.parameters()).device, recogniser.training
    recogniser.eval()
    found: dict[int, list[int]] = {}
    for indices, batch in speech.in_order():
        output = recogniser(batch.wave.to(device), batch.samples.to(device))
        tokens = greedy(output) if decode.beam == 1 else _by_beam(output, decode, lm)
        found.update(zip(indices, tokens))
    recogniser.train(training)
    return found


def _by_beam(output: RecogniserOutput, decode: DecodeConfig, lm: UnitLM | None) -> list[list[int]]:
    assert output.valid is not None
    bonus = decode.lm_bonus if lm else 0.0
    rows = [row[valid].numpy() for row, valid in zip(output.log_probs.cpu(), output.valid.cpu())]
    found = [beam_search(row, decode.beam, lm, lm_weight=decode.lm_weight, bonus=bonus) for row in rows]
    return [list(hypotheses[0].tokens) for hypotheses in found]


def _language_model(config: DecodeConfig, units: Units) -> UnitLM | None:
    if not config.lm_paths:
        return None
    labels = units.labels(labelled_rows(config.lm_paths, LabelledConfig().split))
    return UnitLM([label for label in labels if label], len(units), config.lm_order)


def error_rates(
    recogniser: Any, speech: LabelledSpeech, decode: DecodeConfig | None = None
) -> dict[int, Errors]:
    """Return the errors in each labelled row."""
    found = transcripts(recogniser, speech, decode)
    return {i: errors_between(recogniser.units, speech.tokens[i], tokens) for i, tokens in found.items()}


def errors_between(units: Units, label: Sequence[int], recognised: Sequence[int]) -> Errors:
    """Compare two transcripts; words count where the units are characters, a space among them."""
    words = ([], [])
    if units.between == "" and " " in units.symbols:
        words = (units.text(label).split(), units.text(recognised).split())
    return Errors(edit_distance(label, recognised), len(label), edit_distance(*words), len(words[0]))


def total(errors: Iterable[Errors]) -> Errors:
    """Add up errors."""
    return Errors(*(sum(parts) for parts in zip(*errors))) if (errors := list(errors)) else Errors(0, 0, 0, 0)


@torch.no_grad()
def voice_shares(recogniser: Any, speech: LabelledSpeech, *, n_utterances: int = 24) -> list[float]:
    """Return how far another voice moves each layer's output, over how far another phone does.

    The other voice is the utterance with pitch and formants moved; the other phones are the utterance's own,
    half of its length later. Below 1, a layer tells content better than voice. Before the layers stand a
    small recogniser's log-mels.
    """
    every = max(1, len(speech.order) // n_utterances)
    moved, other = [], []
    for index in speech.order[::every][:n_utterances]:
        wave = speech.collate([index]).wave
        rng = torch.Generator().manual_seed(index)
        shifted = pitch_and_formant_shift(wave, rng, sample_rate=speech.sample_rate)
        layers, shifted_layers = (_layers(recogniser, w) for w in (wave, shifted))
        moved.append([_distance(a, b) for a, b in zip(layers, shifted_layers)])
        other.append([_distance(a, a.roll(a.shape[1] // 2, 1)) for a in layers])
    return (torch.tensor(moved).mean(0) / torch.tensor(other).mean(0)).tolist()


def _layers(
    recogniser: Any, wave: Float[Tensor, "batch 1 samples"]
) -> list[Float[Tensor, "batch frames dim"]]:
    """Return all layers' outputs, standardised over their channels."""
    layers = recogniser(wave).features
    if isinstance(recogniser, Recogniser):
        layers = [recogniser.normalise(recogniser.log_mel(wave)), *layers]
    return [F.layer_norm(layer.transpose(1, 2), layer.shape[1:2]) for layer in layers]


def _distance(a: Float[Tensor, "batch frames dim"], b: Float[Tensor, "batch frames dim"]) -> float:
    frames = min(a.shape[1], b.shape[1])
    return float((a[:, :frames] - b[:, :frames]).abs().mean())


@exits_cleanly
def main() -> None:
    config = cli({"default": ScoreConfig()})
    torch.set_num_threads(config.threads)
    recogniser = load_recogniser(config.recogniser)
    speech = LabelledSpeech(config.data, recogniser.units, sample_rate=recogniser.sample_rate)
    errors = error_rates(recogniser, speech, config.decode)
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
    shares = "  ".join(f"{share:.2f}" for share in voice_shares(recogniser, speech))
    print("\nchange with the voice over change with the phone, by layer (log-mels first where there are):")
    print(shares)


if __name__ == "__main__":
    main()
