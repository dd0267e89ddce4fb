"""What recognisers write: letters or phones, as the tokens of CTC; greedy decoding, and CTC's loss."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.manifest import Row
from engine.user_error import UserError
from pretrain.phones import PHONES, phones_of

BLANK = 0
"""The token of CTC that stands for nothing; unit ``i`` is token ``i + 1``."""
_APOSTROPHES = str.maketrans("’‘`´", "''''")


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Letters in lower case, without accents and punctuation."""

    alphabet: str = " 'abcdefghijklmnopqrstuvwxyz"
    """Every character a transcript may have, once; a space parts words."""

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet) or not self.alphabet.strip():
            raise UserError(f"the alphabet {self.alphabet!r} must list each character once, and one at least")


@dataclass(frozen=True, kw_only=True)
class Phonemes:
    """English phones: the column ``phonemes`` of a manifest, or what espeak reads in its text."""

    inventory: tuple[str, ...] = PHONES
    """Phones that are told apart."""


UnitsConfig = Characters | Phonemes


class RecogniserOutput(NamedTuple):
    """What a recogniser computes of a batch of waves, frame by frame."""

    features: list[Float[Tensor, "batch dim frames"]]
    """After each block or layer."""
    log_probs: Float[Tensor, "batch frames tokens"]
    """Of the blank, then of each unit."""
    valid: Bool[Tensor, "batch frames"] | None = None
    """Which frames lie within their wave; none: all."""


class Units:
    """Transcripts to tokens and back."""

    def __init__(self, config: UnitsConfig) -> None:
        self.config = config
        match config:
            case Characters(alphabet=alphabet):
                self.symbols, self.between, self.name = tuple(alphabet), "", "character"
            case Phonemes(inventory=inventory):
                self.symbols, self.between, self.name = inventory, " ", "phone"
        self._number = {symbol: token for token, symbol in enumerate(self.symbols, start=1)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, symbols: Iterable[str]) -> list[int]:
        """Return the tokens of units; one that is not known is refused."""
        try:
            return [self._number[symbol] for symbol in symbols]
        except KeyError as unknown:
            known = self.between.join(self.symbols)
            raise UserError(f"{unknown.args[0]!r} is not among the {self.name}s {known!r}") from None

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, without the blanks."""
        return self.between.join(self.symbols[token - 1] for token in tokens if token != BLANK)

    def labels(self, rows: Sequence[Row]) -> list[list[int] | None]:
        """Return the tokens of each row's transcript; None where it has none in this script."""
        if isinstance(self.config, Phonemes):
            return self._phones(rows)
        return [self._letters(row) for row in rows]

    def _phones(self, rows: Sequence[Row]) -> list[list[int] | None]:
        known = [bool(row.extra.get("phonemes") or re.search("[A-Za-z]", row.text or "")) for row in rows]
        phones = iter(phones_of([row for row, has_label in zip(rows, known) if has_label]))
        # Phones that a smaller inventory leaves out are dropped from the labels.
        return [
            [self._number[p] for p in next(phones) if p in self._number] if has_label else None
            for has_label in known
        ]

    def _letters(self, row: Row) -> list[int] | None:
        text = plain(row.text or "", self.symbols)
        if not set(text) & set(self.symbols) - {" "}:  # no text, or in another script
            return None
        for symbol in text:
            if symbol not in self._number:
                raise UserError(
                    f"the text of {row.path} has {symbol!r}, which is not in the alphabet "
                    f"{''.join(self.symbols)!r}: write it in letters, leave the text empty, or add the "
                    "character with --units.alphabet"
                )
        return [self._number[symbol] for symbol in text]


def greedy(output: RecogniserOutput) -> list[list[int]]:
    """Return the tokens along the likeliest path: repetitions merged, blanks dropped."""
    best = output.log_probs.argmax(-1)
    if output.valid is not None:
        best = best.masked_fill(~output.valid, BLANK)
    return [[t for t in torch.unique_consecutive(row).tolist() if t != BLANK] for row in best.cpu()]


def ctc_losses(
    output: RecogniserOutput, tokens: Int[Tensor, "batch longest"], n_tokens: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Return each row's negative log-likelihood; 0, without gradient, where the row is too short for it."""
    assert output.valid is not None
    log_probs, frames = output.log_probs.transpose(0, 1), output.valid.sum(1)
    return F.ctc_loss(log_probs, tokens, frames, n_tokens, blank=BLANK, reduction="none", zero_infinity=True)


def mean_per_unit(
    losses: Float[Tensor, "batch"],
    n_tokens: Int[Tensor, "batch"],
    rows: Bool[Tensor, "batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the loss of some or all rows over their number of units; rows without units count nothing."""
    counted = n_tokens > 0 if rows is None else rows & (n_tokens > 0)
    # Selected, not multiplied by 0: what is left out must give no gradient, whatever its value.
    return losses[counted].sum() / n_tokens[counted].sum().clamp(min=1)


def plain(text: str, keep: Iterable[str]) -> str:
    """Lower case, no accents, punctuation as spaces, single spaces; what is in ``keep`` stays as it is."""
    keep = set(keep)
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES).lower()
    letters: list[str] = []
    for symbol in text:
        if symbol in keep:
            letters.append(symbol)
        elif unicodedata.category(symbol)[0] in "PSZC":
            letters.append(" ")
        else:
            bare = unicodedata.normalize("NFKD", symbol)
            letters += [part for part in bare if not unicodedata.combining(part)]
    spaced = " ".join("".join(letters).split())
    return spaced if " " in keep else spaced.replace(" ", "")
