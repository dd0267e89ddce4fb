"""The phones of English that the recogniser tells apart, and espeak's finer IPA folded onto them."""

import re
from collections.abc import Sequence

from data.manifest import Row
from engine.user_error import UserError

CONSONANTS = (
    *("p", "b", "t", "d", "k", "ɡ", "tʃ", "dʒ"),
    *("f", "v", "θ", "ð", "s", "z", "ʃ", "ʒ", "h"),
    *("m", "n", "ŋ", "l", "ɹ", "w", "j"),
)
VOWELS = ("i", "ɪ", "ɛ", "æ", "ɑ", "ɔ", "ʊ", "u", "ə", "ɚ", "eɪ", "aɪ", "ɔɪ", "oʊ", "aʊ")
PHONES = (*CONSONANTS, *VOWELS)
"""39 phones, about ARPAbet's; the blank of CTC is token 0 and is not one of them."""

# Dropped: stress, length, and distinctions of unstressed vowels, which two hours of speech cannot teach.
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
    """Return the phones of an IPA string as espeak writes it, separated or not; the longest match counts."""
    phones: list[str] = []
    for symbol in _SYMBOL.findall(ipa.replace("ˈ", "").replace("ˌ", "")):
        if symbol not in _FOLDS and symbol not in _IGNORED:
            raise UserError(
                f"the phoneme {symbol!r} in {ipa!r} is not an English one: use English text and voices"
            )
        phones += _FOLDS.get(symbol, "").split()
    return phones


def phones_of(rows: Sequence[Row]) -> list[list[str]]:
    """Return the phones of each row: of its column ``phonemes``, or else of its text as espeak reads it."""
    ipa = [row.extra.get("phonemes", "") for row in rows]
    missing = [i for i, phonemes in enumerate(ipa) if not phonemes]
    if missing:
        from data.synthetic.espeak import phonemize

        # Upper case would be spelled out where it looks like an abbreviation.
        for i, phonemes in zip(missing, phonemize([(rows[i].text or "").lower() for i in missing])):
            ipa[i] = phonemes
    return [fold(phonemes) for phonemes in ipa]
