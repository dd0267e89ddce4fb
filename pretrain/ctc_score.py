"""Print what a recogniser gets wrong: python -m pretrain.ctc_score --data.paths MANIFEST…

Of a recogniser on a speech encoder (``--recogniser runs/asr/export``) also with ``--decode.beam 16``, and
with a language model of its units that learns the texts of ``--decode.lm-paths MANIFEST…``.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.augment import pitch_and_formant_shift
from engine.config import cli
from engine.user_error import exits_cleanly
from pretrain.phone_batches import PhoneSpeech, TranscribedConfig
from pretrain.recogniser import RELEASED, Recogniser, load_recogniser
from pretrain.speech.beam import DecodeConfig


class Errors(NamedTuple):
    """Phones said, and edits that turn what was heard into them."""

    edits: int
    phones: int

    @property
    def rate(self) -> float:
        """Edits per phone."""
        return self.edits / max(self.phones, 1)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Phone error rate (greedy) by corpus."""

    recogniser: Path = RELEASED
    """Exported folder; by default the one that comes with the code."""
    data: TranscribedConfig = field(
        default_factory=lambda: TranscribedConfig(split="validation", longest_seconds=60.0)
    )
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    threads: int = 1


def edit_distance(said: Sequence[object], heard: Sequence[object]) -> int:
    """Return the fewest insertions, deletions and substitutions from one to the other (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, s in enumerate(said, start=1):
        diagonal, row[0] = row[0], i
        for j, h in enumerate(heard, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (s != h))
    return row[-1]


@torch.no_grad()
def error_rates(recogniser: Recogniser, speech: PhoneSpeech) -> dict[int, Errors]:
    """Return the errors in each row of the speech."""
    device, training, phones = (
        next(recogniser.parameters()).device,
        recogniser.training,
        recogniser.config.phones,
    )
    recogniser.eval()
    errors = {}
    for indices, batch in speech.in_order():
        mel = recogniser.log_mel(batch.wave.to(device))
        lengths = (batch.samples // recogniser.config.mel.hop).clamp(1, mel.shape[-1]).to(device)
        valid = torch.arange(mel.shape[-1], device=device) < lengths[:, None]
        heard = recogniser.from_normalised(recogniser.normalise(mel, valid), valid)
        for row, index in enumerate(indices):
            n_frames = (int(lengths[row]) + 1) // 2
            decoded = recogniser.decode(heard.log_probs[row : row + 1, :n_frames])[0]
            said = [phones[token - 1] for token in speech.tokens[index]]
            errors[index] = Errors(edit_distance(said, decoded), len(said))
    recogniser.train(training)
    return errors


@torch.no_grad()
def voice_shares(recogniser: Recogniser, speech: PhoneSpeech, *, n_utterances: int = 24) -> list[float]:
    """Return how far another voice moves the input and each block's output, over how far another phone does.

    The other voice is the utterance with pitch and formants moved; the other phones are the utterance's own,
    half of its length later. Below 1, a layer tells content better than voice.
    """
    every = max(1, len(speech.order) // n_utterances)
    moved, other = [], []
    for index in speech.order[::every][:n_utterances]:
        wave = speech.collate([index]).wave
        rng = torch.Generator().manual_seed(index)
        voice = pitch_and_formant_shift(wave, rng, sample_rate=speech.sample_rate)
        here, there = (_layers(recogniser, w) for w in (wave, voice))
        moved.append([_distance(a, b) for a, b in zip(here, there)])
        other.append([_distance(a, a.roll(a.shape[1] // 2, 1)) for a in here])
    return (torch.tensor(moved).mean(0) / torch.tensor(other).mean(0)).tolist()


def _layers(
    recogniser: Recogniser, wave: Float[Tensor, "batch 1 samples"]
) -> list[Float[Tensor, "batch frames dim"]]:
    """Return the normalised log-mels and the features, standardised over their channels."""
    layers = [recogniser.normalise(recogniser.log_mel(wave)), *recogniser(wave).features]
    return [F.layer_norm(layer.transpose(1, 2), layer.shape[1:2]) for layer in layers]


def _distance(a: Float[Tensor, "batch frames dim"], b: Float[Tensor, "batch frames dim"]) -> float:
    frames = min(a.shape[1], b.shape[1])
    return float((a[:, :frames] - b[:, :frames]).abs().mean())


def total(errors: dict[int, Errors] | Iterable[Errors]) -> Errors:
    """Add up errors."""
    each = list(errors.values() if isinstance(errors, dict) else errors)
    return Errors(sum(e.edits for e in each), sum(e.phones for e in each))


def _has_encoder(folder: Path) -> bool:
    """Tell a recogniser on a speech encoder from the small one."""
    try:
        return "encoder" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False  # loading it will complain


@exits_cleanly
def main() -> None:
    config = cli({"default": ScoreConfig()})
    torch.set_num_threads(config.threads)
    if _has_encoder(config.recogniser):
        from pretrain.speech.finetune_score import print_scores
        from pretrain.speech.labelled import LabelledConfig

        data = {f.name: getattr(config.data, f.name) for f in fields(config.data)}
        return print_scores(config.recogniser, LabelledConfig(**data), config.decode)
    recogniser = load_recogniser(config.recogniser)
    speech = PhoneSpeech(config.data, recogniser.config.phones, sample_rate=recogniser.sample_rate)
    errors = error_rates(recogniser, speech)
    corpora: dict[str, list[Errors]] = defaultdict(list)
    for index, error in errors.items():
        corpora[speech.rows[index].extra.get("corpus") or speech.rows[index].path.parent.name].append(error)
    print(f"{'corpus':<28} {'utterances':>10} {'phones':>8} {'phone error rate':>17}")
    for name, group in [*sorted(corpora.items()), ("all", list(errors.values()))]:
        rate = total(group)
        print(f"{name:<28} {len(group):>10} {rate.phones:>8} {100 * rate.rate:>15.1f} %")
    shares = "  ".join(f"{share:.2f}" for share in voice_shares(recogniser, speech))
    print("\nchange with the voice over change with the phone, of log-mels and after each block:")
    print(shares)


if __name__ == "__main__":
    main()
