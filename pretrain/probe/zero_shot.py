"""Labels by captions, for classes that nothing was trained on.

A clip gets the label whose caption, "This is a sound of {label}.", lies nearest to its embedding in the space
of the text tower that the encoder was distilled into. ``--template`` may be repeated: then the vectors of all
captions of a label are averaged. CLAP brings a text tower of its own.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from engine.arguments import Arguments
from engine.user_error import UserError
from pretrain.probe.classification import label_argument, label_scores
from pretrain.probe.clips import Clip, clips_from, is_multi_label, label_names, targets_of
from pretrain.probe.harness import Embeddings, Probe, embedders_of, embeddings_of, readable
from pretrain.probe.perceptron import PerceptronConfig, fit_perceptron
from pretrain.probe.results import Interval, Result, mean_interval, results_of
from pretrain.probe.texts import Texts, texts_of, tower_arguments

TEMPLATE = "This is a sound of {label}."
UNSEEN = PerceptronConfig(epochs=60, patience=15)


def as_words(label: str) -> str:
    """Return a label as it stands in a caption."""
    return label.replace("_", " ").replace("-", " ").strip()


def label_vectors(
    names: Sequence[str], texts: Texts, templates: Sequence[str] = (TEMPLATE,)
) -> Float[Tensor, "labels dim"]:
    """Return one vector of unit length a label: the mean over its captions."""
    for template in templates:
        if "{label}" not in template:
            raise UserError(f"--template {template!r} must hold {{label}}")
    vectors = [texts([t.replace("{label}", as_words(name)) for t in templates]) for name in names]
    return F.normalize(torch.stack([F.normalize(v, dim=-1).mean(0) for v in vectors]), dim=-1)


def similarities(
    clips: Float[Tensor, "clips dim"], labels: Float[Tensor, "labels space"], *, name: str = "the encoder"
) -> Float[Tensor, "clips labels"]:
    """Return cosines of sounds with labels."""
    if clips.shape[1] != labels.shape[1]:
        raise UserError(
            f"{name} gives {clips.shape[1]} numbers and the text tower {labels.shape[1]}: zero-shot needs "
            "the towers that the encoder was distilled from (--towers)"
        )
    return F.normalize(clips, dim=-1) @ labels.T


def unseen_scores(
    embeddings: Embeddings,
    clips: Sequence[Clip],
    names: Sequence[str],
    captions: Float[Tensor, "n_classes dim"],
    seeds: Sequence[int],
    *,
    config: PerceptronConfig = UNSEEN,
) -> dict[str, Interval]:
    """Leave every pair of classes out once, train a map into the captions' space, classify the pair's clips.

    ``unseen of 2`` is the share of the pair's clips whose own caption is nearer than the other of the two
    (chance 0.5); the other score the share whose own caption is the nearest of all classes'. One fold stops
    the training. Intervals are over pairs of classes, of which there are few: that is what varies.
    """
    fold = max(clip.fold or 0 for clip in clips)
    pairs = list(combinations(range(len(names)), 2))
    vectors, truth = embeddings.of([clip.path for clip in clips]), targets_of(clips, names).argmax(1)
    in_fold = torch.tensor([clip.fold == fold for clip in clips])
    hits = np.zeros((len(pairs), 2))
    bar = tqdm(pairs, desc="leaving classes out", unit="pair", delay=2.0, disable=not embeddings.progress)
    for number, pair in enumerate(bar):
        unseen = torch.isin(truth, torch.tensor(pair))
        kept = [i for i in range(len(names)) if i not in pair]
        targets = F.one_hot(truth, len(names))[:, kept].float()
        parts = [(vectors[part], targets[part]) for part in (~unseen & ~in_fold, ~unseen & in_fold)]
        for seed in seeds:
            model = fit_perceptron(
                *parts, multi_label=False, seed=seed, config=config, captions=captions[kept]
            )
            nearness = F.normalize(model.into(vectors[unseen]), dim=-1) @ F.normalize(captions, dim=-1).T
            answers = torch.tensor(pair)[nearness[:, list(pair)].argmax(1)], nearness.argmax(1)
            hits[number] += [float((a == truth[unseen]).float().mean()) / len(seeds) for a in answers]
    groups = [str(pair) for pair in pairs]
    metrics = ("unseen of 2", f"unseen of {len(names)}")
    return {metric: mean_interval(values, groups) for metric, values in zip(metrics, hits.T)}


def run_zero_shot(args: argparse.Namespace) -> list[Result]:
    """Classify by captions."""
    clips = readable(clips_from(args.data, args.label), args)
    names, multi_label = label_names(clips), is_multi_label(clips)
    clips = [clip for clip in clips if not args.split or clip.split == args.split]
    if not clips:
        raise UserError(f"{args.data} has no clips of split {args.split!r}")
    results: list[Result] = []
    for embedder in embedders_of(args, "released"):
        texts = texts_of(embedder, args.towers, args.pretrained)
        labels = label_vectors(names, texts, args.template or (TEMPLATE,))
        vectors = embeddings_of(embedder, args).of([clip.path for clip in clips])
        cosines = similarities(vectors, labels, name=embedder.name)
        scores = label_scores([cosines], clips, names, multi_label=multi_label)
        known = {"task": "zero_shot", "data": args.data_name, "encoder": embedder.name}
        results += results_of(scores, **known, n=len(clips), trained_on="no label of this task")
    print(f"{len(clips)} clips, {len(names)} labels")
    return results


def _arguments(parser: Arguments) -> None:
    label_argument(parser)
    tower_arguments(parser)
    parser.add_argument("--template", action="append", default=[], help=f"{TEMPLATE!r}; repeat to average")
    parser.add_argument("--split", default="", help="clips of this split only (all)")


zero_shot = Probe("zero_shot", __doc__, run_zero_shot, _arguments)
