"""True zero-shot: what a map into captions' space says of classes that it was never trained on."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pretrain.probe.classification import targets_of
from pretrain.probe.clips import Clip
from pretrain.probe.listener import Listener
from pretrain.probe.perceptron import PerceptronConfig, fit_perceptron
from pretrain.probe.scores import Interval, interval

UNSEEN = PerceptronConfig(epochs=60, patience=15)


def unseen_scores(
    ear: Listener,
    clips: Sequence[Clip],
    names: Sequence[str],
    captions: Float[Tensor, "n_classes dim"],
    seeds: Sequence[int],
    *,
    config: PerceptronConfig = UNSEEN,
    progress: bool = True,
) -> dict[str, Interval]:
    """Leave every pair of classes out once, train on the others, and ask for the pair's clips.

    ``unseen of 2`` is the share of the pair's clips whose own caption is nearer than the other of the two
    (chance 0.5); ``unseen of all`` the share whose own caption is the nearest of all classes'. One fold stops
    the training. Intervals are over pairs of classes, of which there are few: that is what varies.
    """
    fold = max(clip.fold or 0 for clip in clips)
    pairs = list(combinations(range(len(names)), 2))
    heard, truth = ear.hear([clip.path for clip in clips]), targets_of(clips, names).argmax(1)
    stops = torch.tensor([clip.fold == fold for clip in clips])
    of_two, of_all = [], []
    for pair in tqdm(pairs, desc="leaving classes out", unit="pair", delay=2.0, disable=not progress):
        left_out = torch.isin(truth, torch.tensor(pair))
        kept = [i for i in range(len(names)) if i not in pair]
        targets = F.one_hot(truth, len(names))[:, kept].float()
        train, held = ~left_out & ~stops, ~left_out & stops
        asked, right = heard[left_out], truth[left_out]
        hits = np.zeros(2)
        for seed in seeds:
            model = fit_perceptron(
                (heard[train], targets[train]),
                (heard[held], targets[held]),
                multi_label=False,
                seed=seed,
                config=config,
                captions=captions[kept],
            )
            nearness = F.normalize(model.into(asked), dim=-1) @ F.normalize(captions, dim=-1).T
            answer = torch.tensor(pair)[nearness[:, list(pair)].argmax(1)]
            hits += [float((a == right).float().mean()) for a in (answer, nearness.argmax(1))]
        of_two.append(hits[0] / len(seeds))
        of_all.append(hits[1] / len(seeds))
    groups = [str(pair) for pair in pairs]
    values = {"unseen of 2": np.array(of_two), f"unseen of {len(names)}": np.array(of_all)}
    return {name: interval(lambda i, v=v: float(v[i].mean()), groups) for name, v in values.items()}
