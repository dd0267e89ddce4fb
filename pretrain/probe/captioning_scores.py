"""Tokenisation of captions, and their scores against reference captions: BLEU, ROUGE-L and CIDEr-D."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from engine.user_error import UserError
from pretrain.probe.results import Interval, interval, mean_interval

SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
PAD, START, END, UNKNOWN = range(len(SPECIAL))
WORD = re.compile(r"\w+(?:'\w+)*")
BLEU_RESAMPLES = 200
"""Number of bootstrap resamples of BLEU, a corpus-level score that each resample must compute again."""


def words_of(caption: str) -> list[str]:
    """Return the words of a caption, in lower case and without punctuation.

    For English, the result equals that of the usual tokeniser, which needs Java.
    """
    return WORD.findall(caption.lower().replace("’", "'"))


def plain(caption: str) -> str:
    return " ".join(words_of(caption))


class Vocabulary:
    """The words of the training captions, in order of frequency."""

    def __init__(self, captions: Iterable[str], *, least_count: int = 1) -> None:
        counts = Counter(word for caption in captions for word in words_of(caption))
        frequent = sorted((-count, word) for word, count in counts.items() if count >= least_count)
        self.words = [*SPECIAL, *(word for _, word in frequent)]
        self.numbers = {word: number for number, word in enumerate(self.words)}
        if len(self.words) == len(SPECIAL):
            raise UserError("the training captions have no words")

    def __len__(self) -> int:
        return len(self.words)

    def tokens(self, captions: Sequence[str], *, longest: int = 40) -> Int[Tensor, "captions length"]:
        """Return padded tokens with start and end; captions are truncated to ``longest`` words."""
        rows = [
            [START, *(self.numbers.get(word, UNKNOWN) for word in words_of(caption)[:longest]), END]
            for caption in captions
        ]
        length = max((len(row) for row in rows), default=0)
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])

    def caption(self, tokens: Sequence[int]) -> str:
        before_end = takewhile(lambda token: token != END, tokens)
        return " ".join(self.words[token] for token in before_end if token not in (START, PAD))


def caption_scores(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[str]], groups: Sequence[str]
) -> dict[str, Interval]:
    """Return scores of several decoders' captions (a list each), averaged over decoders; bounds over clips.

    Only those metrics of aac-metrics are used that need neither Java nor a download. CIDEr-D has a scale of 0
    to 10, and weights n-grams by their inverse document frequency in these references.
    """
    from aac_metrics.functional.bleu import _bleu_compute, _bleu_update
    from aac_metrics.functional.cider_d import cider_d
    from aac_metrics.functional.rouge_l import rouge_l

    if len(references) < 2:
        raise UserError("CIDEr-D needs at least 2 test clips: give more clips with captions")
    true = [[plain(one) for one in some] for some in references]
    plain_texts = [[plain(one) for one in some] for some in candidates]
    # Counted once and summed for each resample; the package's public function would count every time.
    counts = [_bleu_update(some, true, 4, str.split, [], []) for some in plain_texts]
    n_clips = len(true)

    def bleus(index: np.ndarray) -> np.ndarray:
        values = []
        for by_candidate, by_reference in counts:
            chosen = [by_candidate[i] for i in index], [by_reference[i] for i in index]
            scores: Any = _bleu_compute(*chosen, return_1_to_n=True)
            values.append(scores[0]["bleu_1_to_4"].numpy())
        return np.mean(values, axis=0)

    values, bounds = bleus(np.arange(n_clips)), []
    interval(lambda index: bounds.append(bleus(index)) or 0.0, groups, n_resamples=BLEU_RESAMPLES)
    low, high = np.percentile(bounds[:BLEU_RESAMPLES], [2.5, 97.5], axis=0)
    scores = {f"BLEU-{n + 1}": (float(values[n]), float(low[n]), float(high[n])) for n in range(4)}
    rouge = np.mean([rouge_l(some, true)[1]["rouge_l"].numpy() for some in plain_texts], axis=0)  # pyright: ignore
    cider = np.mean([cider_d(some, true)[1]["cider_d"].numpy() for some in plain_texts], axis=0)  # pyright: ignore
    return scores | {"ROUGE-L": mean_interval(rouge, groups), "CIDEr-D": mean_interval(cider, groups)}


def commonest_caption(captions: Sequence[Sequence[str]]) -> str:
    """Return the most frequent caption; ties are resolved by the mean frequency of the words."""
    every = [plain(one) for some in captions for one in some]
    times, counts = Counter(every), Counter(word for caption in every for word in set(caption.split()))

    def rank(caption: str) -> tuple[int, float, str]:
        words = caption.split()
        return times[caption], sum(counts[word] for word in words) / max(1, len(words)), caption

    return max(times, key=rank)
