"""Find clips of the same label by the sound of one: ``python -m pretrain.probe audio_retrieval``.

Every clip is a query for all others, ranked by cosine: mean average precision, and how often a clip of the
same label (with several labels: of one of them) is among the first 1, 5 and 10. Nothing is trained.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from engine.user_error import UserError
from pretrain.probe.classification import targets_of
from pretrain.probe.clips import Clip, clips_from, label_names
from pretrain.probe.options import label_arguments, listener, opened_embedders, probe_arguments
from pretrain.probe.ranking import neighbour_scores
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.scores import interval


def sharing(clips: Sequence[Clip]) -> Bool[Tensor, "clips clips"]:
    """Which pairs share a label."""
    targets = targets_of(clips, label_names(clips))
    return (targets @ targets.T) > 0


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Rank clips by one or several encoders."""
    parser = probe_arguments("audio_retrieval", __doc__)
    label_arguments(parser)
    parser.add_argument("--split", default="", help="clips of this split only (all)")
    parser.add_argument("--centre", action="store_true", help="standardise embeddings over the clips first")
    words = parser.parse_args(argv)
    clips = [c for c in clips_from(words.data, words.label) if not words.split or c.split == words.split]
    if len(clips) < 2:
        raise UserError(f"{words.data} has fewer than two clips of split {words.split!r}")
    groups = [clip.recording or str(clip.path) for clip in clips]
    same = sharing(clips)
    # A take of the query's own recording is too easy a find: it counts neither for nor against.
    other = torch.tensor([[a != b for b in groups] for a in groups])
    results: list[Result] = []
    for embedder in opened_embedders(words):
        heard = listener(embedder, words).hear([clip.path for clip in clips])
        if words.centre:
            heard = (heard - heard.mean(0)) / heard.std(0, correction=0).clamp_min(1e-6)
        scores = {}
        for metric, values in neighbour_scores(heard, same, other).items():
            of_each = values.numpy()
            scores[metric] = interval(lambda i, v=of_each: float(np.nanmean(v[i])), groups)
        known = {"task": "audio_retrieval", "data": Path(words.data).name, "encoder": embedder.name}
        results += results_of(scores, **known, n=len(clips))
    print(f"{len(clips)} clips, each a query for those of other recordings")
    report(results, words.out, "audio_retrieval")
    return results
