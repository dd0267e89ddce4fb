"""How near captions come to what people said: BLEU, ROUGE-L and CIDEr-D by aac-metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.user_error import UserError
from pretrain.probe.captioning_words import plain
from pretrain.probe.scores import Interval, interval, mean_interval

N_RESAMPLES = 200
"""Of BLEU, whose value belongs to the whole corpus: each resample counts it anew."""


def caption_scores(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[str]], groups: Sequence[str]
) -> dict[str, Interval]:
    """Scores of several decoders' captions (a list each) as means over them, with bounds over clips.

    Only those metrics of aac-metrics are used that need neither Java nor a download; captions are cut into
    words here, alike for candidates and references. CIDEr-D is on its own scale of 0 to 10 and weighs n-grams
    by how rare they are in these references.
    """
    try:
        from aac_metrics.functional.bleu import _bleu_compute, _bleu_update
        from aac_metrics.functional.cider_d import cider_d
        from aac_metrics.functional.rouge_l import rouge_l
    except ImportError:
        raise UserError("captions are scored by aac-metrics: pip install 'timbre[probes]'") from None
    if len(references) < 2:
        raise UserError("CIDEr-D needs at least 2 test clips: give more with captions")
    true = [[plain(one) for one in some] for some in references]
    said = [[plain(one) for one in some] for some in candidates]
    # The counts are made once and summed for each resample; the package's own function would count anew.
    counts = [_bleu_update(some, true, 4, str.split, [], []) for some in said]
    n_clips = len(true)

    def bleus(index: np.ndarray) -> np.ndarray:
        values = []
        for by_candidate, by_reference in counts:
            chosen = [by_candidate[i] for i in index], [by_reference[i] for i in index]
            scores: Any = _bleu_compute(*chosen, return_1_to_n=True)
            values.append(scores[0]["bleu_1_to_4"].numpy())
        return np.mean(values, axis=0)

    values, bounds = bleus(np.arange(n_clips)), []
    interval(lambda index: bounds.append(bleus(index)) or 0.0, groups, n_resamples=N_RESAMPLES)
    low, high = np.percentile(bounds[:N_RESAMPLES], [2.5, 97.5], axis=0)
    scores = {f"BLEU-{n + 1}": (float(values[n]), float(low[n]), float(high[n])) for n in range(4)}
    rouge = np.mean([rouge_l(some, true)[1]["rouge_l"].numpy() for some in said], axis=0)  # pyright: ignore
    cider = np.mean([cider_d(some, true)[1]["cider_d"].numpy() for some in said], axis=0)  # pyright: ignore
    return scores | {"ROUGE-L": mean_interval(rouge, groups), "CIDEr-D": mean_interval(cider, groups)}


def commonest_caption(captions: Sequence[Sequence[str]]) -> str:
    """The most frequent training caption; among equally frequent ones that of the most frequent words."""
    every = [plain(one) for some in captions for one in some]
    words: dict[str, int] = {}
    times: dict[str, int] = {}
    for caption in every:
        times[caption] = times.get(caption, 0) + 1
        for word in set(caption.split()):
            words[word] = words.get(word, 0) + 1

    def typical(caption: str) -> float:
        found = caption.split()
        return sum(words[word] for word in found) / max(1, len(found))

    return max(times, key=lambda caption: (times[caption], typical(caption), caption))
