"""Captions as words: cut at anything that is no letter or digit, in small letters, with a vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from engine.user_error import UserError

SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
PAD, START, END, UNKNOWN = range(len(SPECIAL))
WORD = re.compile(r"\w+(?:'\w+)*")


def words_of(caption: str) -> list[str]:
    """The words that are learned and scored.

    What the usual Java tokeniser leaves of an English caption, without Java: small letters, no punctuation.
    """
    return WORD.findall(caption.lower().replace("’", "'"))


def plain(caption: str) -> str:
    """The caption as its words between single spaces."""
    return " ".join(words_of(caption))


class Vocabulary:
    """The words of the training captions, the frequent ones first."""

    def __init__(self, captions: Iterable[str], *, least_count: int = 1) -> None:
        counts = Counter(word for caption in captions for word in words_of(caption))
        kept = sorted((-count, word) for word, count in counts.items() if count >= least_count)
        self.words = [*SPECIAL, *(word for _, word in kept)]
        self.numbers = {word: number for number, word in enumerate(self.words)}
        if len(self.words) == len(SPECIAL):
            raise UserError("the training captions hold no words to learn from")

    def __len__(self) -> int:
        return len(self.words)

    def tokens(self, captions: Sequence[str], *, longest: int = 40) -> Int[Tensor, "captions length"]:
        """Numbers of the words between start and end, padded; words beyond ``longest`` are cut off."""
        rows = [
            [START, *(self.numbers.get(word, UNKNOWN) for word in words_of(caption)[:longest]), END]
            for caption in captions
        ]
        length = max((len(row) for row in rows), default=0)
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])

    def caption(self, tokens: Sequence[int]) -> str:
        """The words up to the end."""
        kept = []
        for token in tokens:
            if token == END:
                break
            if token not in (START, PAD):
                kept.append(self.words[token])
        return " ".join(kept)
