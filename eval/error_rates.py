"""Error rates of characters and words, between what a recording should say and what a recogniser read."""

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
"""Digits; what is longer is no number that anybody reads out as one."""
NUMBER = re.compile(r"([$£€]?)(\d[\d,]*(?:\.\d+)?)(st|nd|rd|th)?\b")


def check() -> None:
    _num2words()


def normalise(text: str) -> str:
    """Lower case, numbers and common abbreviations as words; letters and apostrophes only, single spaces."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"\b(?:mrs?|dr|st)\.|[&%]", lambda found: f" {SPOKEN[found[0]]} ", text)
    text = NUMBER.sub(_spoken, text)
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s']|_", " ", text)).strip()


def _spoken(found: re.Match[str]) -> str:
    """Spell a number as it is read out: years by hundreds, the rest as cardinals or ordinals."""
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
    """Character and word error rates against the true text, averaged over decodings; NaN without a text."""
    truth = normalise(text)
    if not truth or "texts" not in recognised:
        return {"cer": float("nan"), "wer": float("nan")}
    read = [normalise(str(decoding)) for decoding in recognised["texts"]]
    return {
        "cer": float(np.mean([jiwer.cer(truth, decoding) for decoding in read])),
        "wer": float(np.mean([jiwer.wer(truth, decoding) for decoding in read])),
    }


def phones_changed(source: Features, output: Features) -> float:
    """Edits from the phones recognised in the source to those in the output, per phone; needs no text."""
    before, after = (str(recognised["phones"][0]) for recognised in (source, output))
    return float(jiwer.wer(before, after)) if before.strip() else float("nan")


def in_latin_letters(text: str) -> bool:
    """Whether a recogniser of English could at all be right about a text."""
    return all(unicodedata.name(letter, "").startswith("LATIN") for letter in text if letter.isalpha())


def _num2words() -> Any:
    try:
        from num2words import num2words
    except ImportError:
        raise UserError("error rates need num2words: pip install 'timbre[eval]'") from None
    return num2words
