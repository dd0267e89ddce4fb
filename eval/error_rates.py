"""Character and word error rates of recognised texts."""

import re
import unicodedata
from typing import Any

import jiwer
import numpy as np

from engine.user_error import UserError
from eval.features import Features

SPOKEN = {"&": "and", "%": "percent", "mr.": "mister", "mrs.": "missus", "dr.": "doctor", "st.": "saint"}
CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}
LONGEST_NUMBER = 15
"""Maximum digits of a number that is spelt out as words."""
NUMBER = re.compile(r"([$£€]?)(\d[\d,]*(?:\.\d+)?)(st|nd|rd|th)?\b")


def check() -> None:
    _num2words()


def normalise(text: str) -> str:
    """Lower-case, spell out numbers and common abbreviations, drop punctuation except apostrophes."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"\b(?:mrs?|dr|st)\.|[&%]", lambda found: f" {SPOKEN[found[0]]} ", text)
    text = NUMBER.sub(_spoken, text)
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s']|_", " ", text)).strip()


def _spoken(found: re.Match[str]) -> str:
    """Spell out a number: 1100 to 2099 as years, others as cardinals or ordinals."""
    currency, written, ordinal = found.groups()
    number = written.replace(",", "")
    if len(number) > LONGEST_NUMBER:
        return found[0]
    num2words = _num2words()
    if ordinal:
        words = num2words(int(float(number)), to="ordinal")
    elif len(written) == 4 and written.isdecimal() and 1100 <= int(written) < 2100 and not currency:
        words = num2words(int(number), to="year")
    else:
        words = num2words(float(number) if "." in number else int(number))
    return f" {words} {CURRENCIES.get(currency, '')} "


def error_rates(text: str, recognised: Features) -> dict[str, float]:
    """Character and word error rates, averaged over decodings; NaN without a text."""
    reference = normalise(text)
    if not reference or "texts" not in recognised:
        return {"cer": float("nan"), "wer": float("nan")}
    decodings = [normalise(str(decoding)) for decoding in recognised["texts"]]
    return {
        "cer": float(np.mean([jiwer.cer(reference, decoding) for decoding in decodings])),
        "wer": float(np.mean([jiwer.wer(reference, decoding) for decoding in decodings])),
    }


def phones_changed(source: Features, output: Features) -> float:
    """Edit distance between the phones recognised in source and output, per source phone; needs no text."""
    before, after = (str(recognised["phones"][0]) for recognised in (source, output))
    return float(jiwer.wer(before, after)) if before.strip() else float("nan")


def in_latin_letters(text: str) -> bool:
    """Whether all letters of a text are Latin, as required for a recogniser of English."""
    return all(unicodedata.name(letter, "").startswith("LATIN") for letter in text if letter.isalpha())


def _num2words() -> Any:
    try:
        from num2words import num2words
    except ImportError:
        raise UserError("error rates need num2words: pip install 'timbre[eval]'") from None
    return num2words
