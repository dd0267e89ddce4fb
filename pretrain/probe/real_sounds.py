"""Real sounds on their official folds: ``python -m pretrain.probe real_sounds --data SOUNDS --encoder E``.

Each fold is once the test, the fold before it stops the training, the others train; the last rotation is also
told alone. Lines of the table, chosen by ``--row`` (repeat it; default: all that the options allow):

  frozen       a 2-layer perceptron on each ``--encoder`` (by default logmel and random)
  supervised   a small encoder and its classifier trained from random weights on the training folds
  contrastive  the perceptron on a small encoder that heard the training folds without their labels
  captions     a small encoder distilled into ``--towers``' embeddings of the training folds' captions, asked
               for the nearest caption: it saw the test's classes, by name
  zero_shot    each ``--encoder`` that shares ``--towers``' space, asked for the nearest caption; no training
  unseen       perceptrons on each ``--encoder`` into ``--towers``' space, trained without two of the classes
               and asked which of the two a clip of theirs is, for all pairs of classes

Rows are added to those that OUT/real_sounds.csv already holds of the same data.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from engine.user_error import UserError
from pretrain.probe.classification import classify, targets_of
from pretrain.probe.clips import Clip, clips_from, is_multi_label, label_names
from pretrain.probe.embedders import Clip2Vec, Embedder, Pooled, open_embedders
from pretrain.probe.folds import Answers, Rotation, fold_scores, rotations
from pretrain.probe.listener import Listener
from pretrain.probe.options import (
    checked_seeds,
    device_of,
    label_arguments,
    listener,
    probe_arguments,
    seed_arguments,
)
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.small_encoder import SMALL, train_on_labels, train_on_sound
from pretrain.probe.unseen import unseen_scores
from pretrain.probe.zero_shot import Texts, label_vectors, open_texts, similarities, spoken, tower_arguments

ROWS = ("frozen", "supervised", "contrastive", "captions", "zero_shot", "unseen")
TRAINED = {
    "supervised": "labels and sound of the training folds",
    "contrastive": "sound of the training folds; the perceptron their labels",
    "captions": "captions and sound of the training folds",
}


def frozen(ear: Listener, names: Sequence[str], seeds: Sequence[int]) -> Answers:
    """The perceptron on an encoder that never learns."""

    def answers(one: Rotation) -> list[Tensor]:
        return classify(ear, one.train, one.validation, one.test, names, multi_label=False, seeds=seeds)

    return answers


def supervised(words: argparse.Namespace, names: Sequence[str], captions: Tensor | None = None) -> Answers:
    """An encoder and its classifier, or its captions', trained on the folds alone."""

    def answers(one: Rotation) -> list[Tensor]:
        train, validation = (
            ([clip.path for clip in part], targets_of(part, names)) for part in (one.train, one.validation)
        )
        logits: list[Tensor] = []
        for seed in checked_seeds(words.trainings):
            encoder, head = train_on_labels(
                train, validation, seed=seed, captions=captions, about=f"fold {one.fold}, seed {seed}"
            )
            ear = listener(Clip2Vec("trained", encoder), words)
            logits.append(head(ear.hear([clip.path for clip in one.test])))
        return logits

    return answers


def contrastive(words: argparse.Namespace, names: Sequence[str], seeds: Sequence[int]) -> Answers:
    """The perceptron on an encoder that heard the training folds."""

    def answers(one: Rotation) -> list[Tensor]:
        logits: list[Tensor] = []
        for seed in checked_seeds(words.trainings):
            paths = [clip.path for clip in one.train]
            encoder = train_on_sound(paths, seed=seed, about=f"fold {one.fold}, seed {seed}")
            logits += frozen(listener(Pooled("contrastive", encoder), words), names, seeds)(one)
        return logits

    return answers


def zero_shot(ear: Listener, names: Sequence[str], texts: Texts) -> Answers:
    """The nearest caption, without any training."""
    vectors = label_vectors(names, texts)

    def answers(one: Rotation) -> list[Tensor]:
        heard = ear.hear([clip.path for clip in one.test])
        return [similarities(heard, vectors, name=ear.embedder.name)]

    return answers


def class_captions(clips: Sequence[Clip], names: Sequence[str]) -> list[str]:
    """One caption a class: the corpus' own, else a sentence made of the label."""
    own = {clip.labels[0]: clip.caption for clip in reversed(clips) if clip.caption}
    return [own.get(name) or f"the sound of {spoken(name)}" for name in names]


def rows_of(words: argparse.Namespace, clips: list[Clip], embedders: list[Embedder]) -> list[Result]:
    """All results that the options ask for."""
    names, seeds = label_names(clips), checked_seeds(words.seeds)
    rounds, ears = (
        rotations(clips, words.data, words.fold),
        [listener(embedder, words) for embedder in embedders],
    )
    texts = open_texts(words.towers, words.pretrained) if words.towers else None
    asked = words.row or [row for row in ROWS if texts or row not in ("captions", "zero_shot", "unseen")]
    known = {"task": "real_sounds", "data": Path(words.data).name, "n": len(clips)}
    results: list[Result] = []

    def add(name: str, answers: Answers, saw: str, n_seeds: int) -> None:
        scores = fold_scores(answers, rounds, names)
        results.extend(results_of(scores, **known, encoder=name, saw=saw, seeds=n_seeds))

    for ear in ears if "frozen" in asked else []:
        add(f"{ear.embedder.name} + perceptron", frozen(ear, names, seeds), "perceptron: labels", len(seeds))
    if "supervised" in asked:
        add("supervised", supervised(words, names), TRAINED["supervised"], words.trainings)
    if "contrastive" in asked:
        method = contrastive(words, names, seeds)
        add("contrastive + perceptron", method, TRAINED["contrastive"], words.trainings * len(seeds))
    if texts is None:
        return results
    captions = texts(class_captions(clips, names)).cpu()
    if "captions" in asked:
        method = supervised(words, names, captions)
        add(f"captions ({words.towers})", method, TRAINED["captions"], words.trainings)
    for ear in ears if "zero_shot" in asked else []:
        # Without --row zero_shot, encoders of another space are passed over rather than refused.
        if words.row or ear.embedder.dim == captions.shape[1]:
            add(f"{ear.embedder.name} zero-shot", zero_shot(ear, names, texts), "no clip, no label", 1)
    for ear in ears if "unseen" in asked else []:
        scores = unseen_scores(ear, clips, names, captions, seeds)
        mine = {"encoder": f"{ear.embedder.name} + perceptron, unseen", "seeds": len(seeds)}
        results += results_of(scores, **known, **mine, saw="perceptron: captions of the other classes")
    return results


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Compare methods on a corpus' folds."""
    parser = probe_arguments("real_sounds", __doc__)
    label_arguments(parser)
    seed_arguments(parser)
    tower_arguments(parser, "")
    parser.add_argument("--row", action="append", default=[], choices=ROWS, help="which lines; repeat")
    parser.add_argument("--fold", type=int, action="append", default=[], help="test these folds only (all)")
    parser.add_argument("--trainings", type=int, default=1, help="encoders trained for each fold (1)")
    words = parser.parse_args(argv)
    needing = [row for row in words.row if row in ("captions", "zero_shot", "unseen")]
    if needing and not words.towers:
        raise UserError(f"--row {needing[0]} needs --towers: a text tower that the captions are embedded by")
    clips = clips_from(words.data, words.label)
    if is_multi_label(clips):
        raise UserError(f"{words.data} has clips of several labels: ask for the task classification instead")
    names = words.encoder or ["logmel", "random"]
    embedders = open_embedders(names, device=device_of(words.device), like=SMALL)
    results = rows_of(words, clips, embedders)
    print(
        f"{len(clips)} clips, {len(label_names(clips))} classes, folds {rotations(clips)[0].fold} to ", end=""
    )
    print(rotations(clips)[-1].fold)
    report(results, words.out, "real_sounds", transposed=True, keep=True)
    return results
