"""The output units of recognisers (characters or phones) as CTC tokens, greedy decoding and the CTC loss."""

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

CONSONANTS = (
    *("p", "b", "t", "d", "k", "ɡ", "tʃ", "dʒ"),
    *("f", "v", "θ", "ð", "s", "z", "ʃ", "ʒ", "h"),
    *("m", "n", "ŋ", "l", "ɹ", "w", "j"),
)
VOWELS = ("i", "ɪ", "ɛ", "æ", "ɑ", "ɔ", "ʊ", "u", "ə", "ɚ", "eɪ", "aɪ", "ɔɪ", "oʊ", "aʊ")
PHONES = (*CONSONANTS, *VOWELS)
"""The 39 default phones, close to ARPAbet; they do not include the CTC blank, which is token 0."""

# Without stress, length and distinctions of unstressed vowels: two hours of speech are too few for these.
_FOLDED = (
    "iː→i, uː→u, ɑː→ɑ, ɔː→ɔ, ɜː→ɚ, ɜ→ɚ, ɝ→ɚ, ɐ→ə, ʌ→ə, ᵻ→ɪ, ɨ→ɪ, əl→ə l, n̩→ə n, m̩→ə m, l̩→ə l, "
    "iə→i ə, aɪɚ→aɪ ɚ, aɪə→aɪ ə, aʊɚ→aʊ ɚ, ɔːɹ→ɔ ɹ, ɑːɹ→ɑ ɹ, oːɹ→ɔ ɹ, ɛɹ→ɛ ɹ, ɪɹ→ɪ ɹ, ʊɹ→ʊ ɹ, ɚɹ→ɚ, "
    "ɾ→d, ʔ→t, r→ɹ, g→ɡ, x→k, ɫ→l, ʍ→w, ɬ→l, a→æ, aː→ɑ, ɒ→ɑ, ɒː→ɑ, e→ɛ, ɛː→ɛ, eː→eɪ, o→oʊ, oː→ɔ, "
    "əʊ→oʊ, eə→ɛ ɹ, ɪə→ɪ ɹ, ʊə→ʊ ɹ, ɜːɹ→ɚ, ææ→æ, ʉ→u, ʉː→u, ʌʉ→aʊ, y→i, ø→ɚ, ɑ̃→ɑ n, ɔ̃→ɔ n, ɲ→n j"
)
_FOLDS: dict[str, str] = {phone: phone for phone in PHONES}
_FOLDS |= {ipa: phones for ipa, _, phones in (pair.partition("→") for pair in _FOLDED.split(", "))}
_SYMBOL = re.compile("|".join(map(re.escape, sorted(_FOLDS, key=len, reverse=True))) + "|.", re.DOTALL)
_IGNORED = set(" _ˈˌ|.,;:!?-ʲ\u032a\u0329\u032f\u0361\u200d\n'\"“”‘’()")


def fold(ipa: str) -> list[str]:
    """Convert espeak's IPA, with or without separators, to ``PHONES`` by longest match."""
    phones: list[str] = []
    for symbol in _SYMBOL.findall(ipa.replace("ˈ", "").replace("ˌ", "")):
        if symbol not in _FOLDS and symbol not in _IGNORED:
            raise UserError(f"the phoneme {symbol!r} in {ipa!r} is not English: use English text and voices")
        phones += _FOLDS.get(symbol, "").split()
    return phones


PerRow = Float[Tensor, "batch"]
Counts = Int[Tensor, "batch"]
BLANK = 0
"""CTC's blank token; unit ``i`` is token ``i + 1``."""
_APOSTROPHES = str.maketrans("’‘`´", "''''")


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Lower-case characters without accents and punctuation."""

    alphabet: str = " 'abcdefghijklmnopqrstuvwxyz"
    """All characters of transcripts, each once; a space separates words."""

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet) or not self.alphabet.strip():
            raise UserError(f"the alphabet {self.alphabet!r} must list at least one character, and each once")


@dataclass(frozen=True, kw_only=True)
class Phonemes:
    """English phones, from the column ``phonemes`` of a manifest or by espeak from its text."""

    inventory: tuple[str, ...] = PHONES
    """Phones to recognise; others are dropped from the labels."""


UnitsConfig = Characters | Phonemes


class RecogniserOutput(NamedTuple):
    """A recogniser's output for a batch of waves, per frame."""

    features: list[Float[Tensor, "batch dim frames"]]
    """Hidden states after each block or layer."""
    log_probs: Float[Tensor, "batch frames tokens"]
    """Log-probabilities of the blank and of each unit, in this order."""
    valid: Bool[Tensor, "batch frames"] | None = None
    """Frames that lie within their wave; None: all."""


class Units:
    """Conversion of transcripts to tokens and back."""

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

    def text(self, tokens: Iterable[int]) -> str:
        return self.between.join(self.symbols[token - 1] for token in tokens if token != BLANK)

    def labels(self, rows: Sequence[Row]) -> list[list[int] | None]:
        """Return the tokens of each row's transcript; None where it has none in these units' script."""
        if isinstance(self.config, Phonemes):
            return self._phones(rows)
        return [self._letters(row) for row in rows]

    def _phones(self, rows: Sequence[Row]) -> list[list[int] | None]:
        """Return the phones of each row: from the column ``phonemes``, or else by espeak from the text."""
        ipa = [row.extra.get("phonemes") for row in rows]
        missing = [i for i, row in enumerate(rows) if not ipa[i] and re.search("[A-Za-z]", row.text or "")]
        if missing:
            from data.synthetic.espeak import phonemize

            # Lower case, since espeak spells out upper-case words that look like abbreviations.
            for i, phonemes in zip(missing, phonemize([(rows[i].text or "").lower() for i in missing])):
                ipa[i] = phonemes
        return [[self._number[p] for p in fold(one) if p in self._number] if one else None for one in ipa]

    def _letters(self, row: Row) -> list[int] | None:
        text = plain(row.text or "", self.symbols)
        if not set(text) & set(self.symbols) - {" "}:  # no text, or in another script
            return None
        for symbol in text:
            if symbol not in self._number:
                raise UserError(
                    f"the text of {row.path} has {symbol!r}, which is not in the alphabet "
                    f"{''.join(self.symbols)!r}: spell it out, leave the text empty, or add the "
                    "character with --units.alphabet"
                )
        return [self._number[symbol] for symbol in text]


def greedy(output: RecogniserOutput) -> list[list[int]]:
    """Decode greedily: the most likely token of each frame, repetitions merged and blanks dropped."""
    best = output.log_probs.argmax(-1)
    if output.valid is not None:
        best = best.masked_fill(~output.valid, BLANK)
    return [[t for t in torch.unique_consecutive(row).tolist() if t != BLANK] for row in best.cpu()]


def ctc_losses(output: RecogniserOutput, tokens: Int[Tensor, "batch longest"], n_tokens: Counts) -> PerRow:
    """Return each row's CTC loss; 0 without gradient where the row is too short for its transcript."""
    assert output.valid is not None
    log_probs, frames = output.log_probs.transpose(0, 1), output.valid.sum(1)
    return F.ctc_loss(log_probs, tokens, frames, n_tokens, blank=BLANK, reduction="none", zero_infinity=True)


def mean_per_unit(
    losses: PerRow, n_tokens: Counts, rows: Bool[Tensor, "batch"] | None = None
) -> Float[Tensor, ""]:
    """Return the loss per unit of the selected rows (all by default), ignoring rows without units."""
    counted = n_tokens > 0 if rows is None else rows & (n_tokens > 0)
    # Indexed, not multiplied by 0: ignored rows must give no gradient even if their loss is infinite or NaN.
    return losses[counted].sum() / n_tokens[counted].sum().clamp(min=1)


def plain(text: str, keep: Iterable[str]) -> str:
    """Normalise text: lower case, no accents, punctuation to spaces, single spaces; ``keep`` is unchanged."""
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
