"""Zero-shot classification by captions.

A clip gets the label whose caption, "This is a sound of {label}.", is nearest to its embedding, in the space
of the text tower that the encoder was distilled from. ``--template`` may be repeated to average the
embeddings of several captions per label. CLAP has its own text tower.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from engine.user_error import UserError
from pretrain.probe.classification import classify, label_scores
from pretrain.probe.clips import (
    Clip,
    Rotation,
    clips_from,
    is_multi_label,
    label_names,
    rotations,
    targets_of,
)
from pretrain.probe.embedders import open_embedders, wav2clip
from pretrain.probe.fitting import SMALL, PerceptronConfig, fit_perceptron, train_on_labels
from pretrain.probe.harness import Embeddings, Probe, embedders_of, embeddings_of, readable
from pretrain.probe.results import Interval, Result, mean_interval
from pretrain.probe.texts import Texts, open_texts

TEMPLATE = "This is a sound of {label}."
UNSEEN = PerceptronConfig(epochs=60, patience=15)


def as_words(label: str) -> str:
    return label.replace("_", " ").replace("-", " ").strip()


def label_vectors(
    names: Sequence[str], texts: Texts, templates: Sequence[str] = (TEMPLATE,)
) -> Float[Tensor, "labels dim"]:
    """Return one unit-length vector per label, the mean over its captions."""
    for template in templates:
        if "{label}" not in template:
            raise UserError(f"--template {template!r} must contain {{label}}")
    vectors = [texts([t.replace("{label}", as_words(name)) for t in templates]) for name in names]
    return F.normalize(torch.stack([F.normalize(v, dim=-1).mean(0) for v in vectors]), dim=-1)


def similarities(
    clips: Float[Tensor, "clips dim"], labels: Float[Tensor, "labels space"], *, name: str = "the encoder"
) -> Float[Tensor, "clips labels"]:
    """Return the cosine similarities of clips and labels."""
    if clips.shape[1] != labels.shape[1]:
        raise UserError(
            f"{name} has {clips.shape[1]} dimensions and the text tower {labels.shape[1]}: zero-shot needs "
            "the towers that the encoder was distilled from (--towers)"
        )
    return F.normalize(clips, dim=-1) @ labels.T


def unseen_scores(
    embeddings: Embeddings,
    clips: Sequence[Clip],
    names: Sequence[str],
    captions: Float[Tensor, "n_classes dim"],
    seeds: Sequence[int],
) -> dict[str, Interval]:
    """Score pairs of classes that were held out of the training of a map into the captions' space.

    ``unseen of 2`` is the accuracy of the choice between the pair's captions (chance 0.5), the other score
    that among the captions of all classes. One fold is for early stopping. Intervals are over pairs of
    classes, of which there are few and which are the main source of variance.
    """
    fold = max(clip.fold or 0 for clip in clips)
    pairs = list(combinations(range(len(names)), 2))
    vectors, truth = embeddings.of([clip.path for clip in clips]), targets_of(clips, names).argmax(1)
    in_fold = torch.tensor([clip.fold == fold for clip in clips])
    hits = np.zeros((len(pairs), 2))
    bar = tqdm(pairs, desc="leaving classes out", unit="pair", delay=2.0)
    for number, pair in enumerate(bar):
        unseen = torch.isin(truth, torch.tensor(pair))
        seen = [i for i in range(len(names)) if i not in pair]
        targets = F.one_hot(truth, len(names))[:, seen].float()
        parts = [(vectors[part], targets[part]) for part in (~unseen & ~in_fold, ~unseen & in_fold)]
        for seed in seeds:
            model = fit_perceptron(*parts, seed=seed, config=UNSEEN, captions=captions[seen])
            cosines = F.normalize(model.into(vectors[unseen]), dim=-1) @ F.normalize(captions, dim=-1).T
            answers = torch.tensor(pair)[cosines[:, list(pair)].argmax(1)], cosines.argmax(1)
            hits[number] += [float((a == truth[unseen]).float().mean()) / len(seeds) for a in answers]
    groups = [str(pair) for pair in pairs]
    metrics = ("unseen of 2", f"unseen of {len(names)}")
    return {metric: mean_interval(values, groups) for metric, values in zip(metrics, hits.T)}


def run_zero_shot(args: argparse.Namespace) -> list[Result]:
    clips = readable(clips_from(args.data, args.label), args)
    names, multi_label = label_names(clips), is_multi_label(clips)
    clips = [clip for clip in clips if not args.split or clip.split == args.split]
    if not clips:
        raise UserError(f"{args.data} has no clips of split {args.split!r}")
    results: list[Result] = []
    for embedder in embedders_of(args, "released"):
        texts = open_texts(args.towers, args.pretrained, embedder)
        labels = label_vectors(names, texts, args.template or (TEMPLATE,))
        vectors = embeddings_of(embedder, args).of([clip.path for clip in clips])
        cosines = similarities(vectors, labels, name=embedder.name)
        scores = label_scores([cosines], clips, names, multi_label=multi_label)
        about = {"n": len(clips), "trained_on": "no label of this task"}
        results += args.rows(scores, encoder=embedder.name, **about)
    print(f"{len(clips)} clips, {len(names)} labels")
    return results


REPEATED = {"action": "append", "default": []}
OPTIONS = {
    "--label": {},
    "--towers": {},
    "--pretrained": {},
    "--template": REPEATED | {"help": f"{TEMPLATE!r}; repeat to average"},
    "--split": {},
}
zero_shot = Probe("zero_shot", __doc__, run_zero_shot, OPTIONS)


REAL_SOUNDS = """Classification of real sounds by cross-validation on a corpus' official folds.

Each fold is the test set once, the fold before it the validation set for early stopping, and the others are
for training; the last rotation is also scored separately. Methods, selected by ``--row`` (repeatable;
default: all that the options allow):

  frozen       a 2-layer perceptron on each ``--encoder`` (by default logmel and random)
  supervised   a small encoder and its classifier trained from random weights on the training folds
  captions     a small encoder distilled into ``--towers``' embeddings of the training folds' captions;
               classification by the nearest caption. The test classes are known from training
  zero_shot    each ``--encoder`` that shares ``--towers``' space; classification by the nearest caption
  unseen       perceptrons from each ``--encoder`` into ``--towers``' space, trained without two of the
               classes and tested on the choice between them, for all pairs of classes
"""
ROWS = ("frozen", "supervised", "captions", "zero_shot", "unseen")
BY_TEXT = ("captions", "zero_shot", "unseen")

Method = Callable[[Rotation], list[Tensor]]
"""A function that returns the logits of a rotation's test clips for each training run."""


def trained(args: argparse.Namespace, names: Sequence[str], captions: Tensor | None = None) -> Method:
    """Return the method that trains an encoder with a classifier, or with captions, on the training folds."""

    def method(one: Rotation) -> list[Tensor]:
        parts = [([clip.path for clip in p], targets_of(p, names)) for p in (one.train, one.validation)]
        logits: list[Tensor] = []
        for seed in range(args.trainings):
            about = f"fold {one.fold}, seed {seed}"
            encoder, head = train_on_labels(*parts, seed=seed, captions=captions, about=about)
            embeddings = embeddings_of(wav2clip("trained", encoder), args)
            logits.append(head(embeddings.of([clip.path for clip in one.test])).detach())
        return logits

    return method


def fold_scores(method: Method, rounds: Sequence[Rotation], names: Sequence[str]) -> dict[str, Interval]:
    """Return scores over the test clips of all rotations, and over those of the last rotation only."""
    logits = [method(one) for one in rounds]
    last = label_scores(logits[-1], rounds[-1].test, names)
    scores = {f"fold {rounds[-1].fold} {metric}": value for metric, value in last.items()}
    if len(rounds) == 1:
        return scores
    whole = [torch.cat(parts) for parts in zip(*logits, strict=True)]
    over_all = label_scores(whole, [clip for one in rounds for clip in one.test], names)
    return {f"{len(rounds)} folds {metric}": value for metric, value in over_all.items()} | scores


def run_real_sounds(args: argparse.Namespace) -> list[Result]:
    if not args.towers and (needing := [row for row in args.row if row in BY_TEXT]):
        raise UserError(f"--row {needing[0]} needs --towers, a text tower that embeds the captions")
    clips = readable(clips_from(args.data, args.label), args)
    if is_multi_label(clips):
        raise UserError(f"{args.data} has clips of several labels: use the task classification instead")
    rows = args.row or [row for row in ROWS if args.towers or row not in BY_TEXT]
    names, seeds, rounds = label_names(clips), range(args.seeds), rotations(clips, args.data, args.fold)
    opened = open_embedders(args.encoder or ["logmel", "random"], device=args.device, like=SMALL)
    encoders = [embeddings_of(embedder, args) for embedder in opened]
    results: list[Result] = []

    def add(name: str, method: Method, trained_on: str, n_seeds: int) -> None:
        about = {"n": len(clips), "trained_on": trained_on, "seeds": n_seeds}
        results.extend(args.rows(fold_scores(method, rounds, names), encoder=name, **about))

    def frozen(embeddings: Embeddings) -> Method:
        return lambda one: classify(embeddings, (one.train, one.validation, one.test), names, seeds=seeds)

    for one in encoders if "frozen" in rows else []:
        add(f"{one.embedder.name} + perceptron", frozen(one), "perceptron: labels", len(seeds))
    if "supervised" in rows:
        add("supervised", trained(args, names), "labels and sound of the training folds", args.trainings)
    if not set(BY_TEXT) & set(rows):
        return results
    texts = open_texts(args.towers, args.pretrained)
    # The corpus' captions of the classes if there are any, else sentences from the labels.
    caption_of = {clip.labels[0]: clip.caption for clip in reversed(clips) if clip.caption}
    captions = texts([caption_of.get(name) or f"the sound of {as_words(name)}" for name in names]).cpu()
    labels = label_vectors(names, texts)
    if "captions" in rows:
        about = "captions and sound of the training folds"
        add(f"captions ({args.towers})", trained(args, names, captions), about, args.trainings)

    def nearest(embeddings: Embeddings) -> Method:
        name = embeddings.embedder.name
        return lambda one: [similarities(embeddings.of([c.path for c in one.test]), labels, name=name)]

    for one in encoders if "zero_shot" in rows else []:
        # Without an explicit --row, encoders of another space are skipped instead of raising an error.
        if args.row or one.embedder.dim == captions.shape[1]:
            add(f"{one.embedder.name} zero-shot", nearest(one), "no clip, no label", 1)
    for one in encoders if "unseen" in rows else []:
        scores = unseen_scores(one, clips, names, captions, seeds)
        about = {"n": len(clips), "trained_on": "perceptron: captions of the other classes"}
        name = f"{one.embedder.name} + perceptron, unseen"
        results += args.rows(scores, encoder=name, seeds=len(seeds), **about)
    return results


REAL_OPTIONS = {
    "--label": {},
    "--seeds": {},
    "--towers": {},
    "--pretrained": {},
    "--row": REPEATED | {"choices": ROWS, "help": "methods to run; repeatable"},
    "--fold": REPEATED | {"type": int, "help": "test these folds only (all)"},
    "--trainings": {"type": int, "default": 1, "help": "encoders trained per fold (1)"},
}
real_sounds = Probe("real_sounds", REAL_SOUNDS, run_real_sounds, REAL_OPTIONS)
