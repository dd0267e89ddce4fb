"""Errors of a fine-tuned recogniser: characters or phones, and words."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pretrain.ctc_score import edit_distance
from pretrain.speech.beam import DecodeConfig, UnitLM, beam_search
from pretrain.speech.finetuned import SpeechRecogniser, greedy, load_speech_recogniser
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech, labelled_rows
from pretrain.speech.units import Units


class Errors(NamedTuple):
    """Units and words said, and the edits that turn what was heard into them."""

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


def total(errors: Iterable[Errors]) -> Errors:
    """Add up errors."""
    each = list(errors)
    return Errors(*(sum(parts) for parts in zip(*each))) if each else Errors(0, 0, 0, 0)


def language_model(config: DecodeConfig, units: Units) -> UnitLM | None:
    """Count the runs of units in the training texts."""
    if not config.lm_paths:
        return None
    labels = units.labels(labelled_rows(config.lm_paths, LabelledConfig().split))
    return UnitLM([label for label in labels if label], len(units), config.lm_order)


@torch.no_grad()
def transcripts(
    recogniser: SpeechRecogniser, speech: LabelledSpeech, decode: DecodeConfig | None = None
) -> dict[int, list[int]]:
    """Return the tokens heard in each labelled row."""
    decode = decode or DecodeConfig()
    lm = language_model(decode, recogniser.units)
    device, training = next(recogniser.parameters()).device, recogniser.training
    recogniser.eval()
    heard: dict[int, list[int]] = {}
    for indices, batch in speech.in_order():
        encoded = recogniser.encoder(batch.wave.to(device), batch.samples.to(device))
        log_probs = recogniser.read(encoded.features)
        if decode.beam == 1:
            heard.update(zip(indices, greedy(log_probs, encoded.valid)))
            continue
        for index, row, valid in zip(indices, log_probs.cpu(), encoded.valid.cpu()):
            found = beam_search(
                row[valid].numpy(), decode.beam, lm, lm_weight=decode.lm_weight,
                bonus=decode.lm_bonus if lm else 0.0,
            )  # fmt: skip
            heard[index] = list(found[0].tokens)
    recogniser.train(training)
    return heard


def error_rates(
    recogniser: SpeechRecogniser, speech: LabelledSpeech, decode: DecodeConfig | None = None
) -> dict[int, Errors]:
    """Return the errors in each labelled row."""
    units = recogniser.units
    return {
        index: errors_between(units, speech.tokens[index], tokens)
        for index, tokens in transcripts(recogniser, speech, decode).items()
    }


def errors_between(units: Units, said: Sequence[int], heard: Sequence[int]) -> Errors:
    """Compare two transcripts; words count where the units are characters, a space among them."""
    words = ([], [])
    if units.between == "" and " " in units.symbols:
        words = (units.text(said).split(), units.text(heard).split())
    return Errors(edit_distance(said, heard), len(said), edit_distance(*words), len(words[0]))


def print_scores(folder: Path, data: LabelledConfig, decode: DecodeConfig) -> None:
    """Print a recogniser's error rates by corpus."""
    recogniser = load_speech_recogniser(folder)
    name = recogniser.units.name
    speech = LabelledSpeech(data, recogniser.units, sample_rate=recogniser.sample_rate)
    errors = error_rates(recogniser, speech, decode)
    corpora: dict[str, list[Errors]] = defaultdict(list)
    for index, error in errors.items():
        row = speech.rows[index]
        corpora[row.extra.get("corpus") or row.path.parent.name].append(error)
    head = f"{'corpus':<28} {'utterances':>10} {name + 's':>10} {name + ' error rate':>20}"
    print(f"{head} {'word error rate':>16}")
    for corpus, group in [*sorted(corpora.items()), ("all", list(errors.values()))]:
        rate = total(group)
        words = f"{100 * rate.word_rate:>14.1f} %" if rate.words else f"{'-':>16}"
        print(f"{corpus:<28} {len(group):>10} {rate.units:>10} {100 * rate.rate:>18.1f} % {words}")
