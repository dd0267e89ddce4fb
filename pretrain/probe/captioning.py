"""Captions of sounds from frozen features.

A 1-layer transformer decoder learns on the frozen encoder's frames to write the captions of the split
"train"; it is scored on "test" by BLEU, ROUGE-L and CIDEr-D. A manifest has a column caption (or caption_1,
caption_2, ..., or several rows a file) and split; "world" is the audio-visual world, whose held-out
combinations are the test and where it is also counted how often a caption names each attribute rightly.
Beside the encoders stand one of random weights, the most frequent training caption, and where clips have
several captions one person's against the others'.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.synthetic.world_scenes import ATTRIBUTES
from engine.arguments import Arguments
from engine.user_error import UserError
from pretrain.probe.captioning_data import Captioned, attributes_named, captioned_from, features_of
from pretrain.probe.captioning_decoder import DecoderConfig, Features, fit_decoder
from pretrain.probe.captioning_scores import Vocabulary, caption_scores, commonest_caption
from pretrain.probe.harness import Probe, embeddings_of, seed_argument, with_random
from pretrain.probe.results import Interval, Result, mean_interval, results_of

N_EXAMPLES = 5
"""Test clips whose captions are printed."""


def run_captioning(args: argparse.Namespace) -> list[Result]:
    """Train and score a decoder per encoder and seed, beside the controls."""
    if args.draws < 1:
        raise UserError(f"--draws {args.draws} must be at least 1")
    config = DecoderConfig(epochs=args.epochs, beam=args.beam)
    embedders, clips = with_random(args, "logmel"), captioned_from(args.data, draws=args.draws)
    parts = {split: [c for c in clips if c.split == split] for split in ("train", "validation", "test")}
    print(", ".join(f"{len(part)} {split} clips" for split, part in parts.items()))
    captions = {split: [c.captions for c in part] for split, part in parts.items()}
    vocabulary = Vocabulary([one for some in captions["train"] for one in some], least_count=args.least_count)
    written: dict[str, list[list[str]]] = {}
    for embedder in embedders:
        embeddings = embeddings_of(embedder, args)
        features = {s: _on(features_of(embeddings, part), args.device) for s, part in parts.items()}
        train, validation = ((features[s], captions[s]) for s in ("train", "validation"))
        written[embedder.name] = [
            fit_decoder(train, validation, vocabulary, seed=seed, config=config).captions(
                features["test"], vocabulary
            )
            for seed in range(args.seeds)
        ]
    test, references = parts["test"], captions["test"]
    known = {"task": "captioning", "data": args.data_name, "n": len(test)}
    written["commonest"] = [[commonest_caption(captions["train"])] * len(test)]
    results: list[Result] = []
    for name, candidates in written.items():
        learned = "the training captions" if name != "commonest" else "no sound"
        scores, about = _scores(candidates, test, references), {"seeds": len(candidates)}
        results += results_of(scores, **known, encoder=name, trained_on=learned, **about)
    if all(len(some) > 1 for some in references):
        scores = _scores([[some[0] for some in references]], test, [some[1:] for some in references])
        about = "the test clips, against the others' captions"
        results += results_of(scores, **known, encoder="a person", trained_on=about)
    for number, clip in enumerate(test[:N_EXAMPLES]):
        print(f"\n{Path(clip.name).name}: {clip.captions[0]}")
        for name, candidates in written.items():
            print(f"  {name}: {candidates[0][number]}")
    return results


def _on(features: Features, device: str) -> Features:
    return Features(*(part.to(device) for part in features))


def _scores(
    candidates: Sequence[Sequence[str]], test: Sequence[Captioned], references: Sequence[Sequence[str]]
) -> dict[str, Interval]:
    groups = [clip.name for clip in test]
    scores = caption_scores(candidates, references, groups)
    if test and test[0].values:
        named = np.array([[attributes_named(one) for one in some] for some in candidates], object)
        right = (named == np.array([clip.values for clip in test], object)).astype(float).mean(0)
        for number, attribute in enumerate(ATTRIBUTES):
            scores[f"names the {attribute.name}"] = mean_interval(right[:, number], groups)
    return scores


def _arguments(parser: Arguments) -> None:
    seed_argument(parser, seeds=1)
    add = parser.add_argument
    add("--epochs", type=int, default=30, help="passes over the training clips (30)")
    add("--beam", type=int, default=3, help="hypotheses of the beam search (3)")
    add("--least-count", type=int, default=1, help="rarer words are not learned (1)")
    add("--draws", type=int, default=2, help="the world's scenes of a combination (2)")
    add("--no-random", action="store_true", help="leave the random encoder's column out")


captioning = Probe("captioning", __doc__, run_captioning, _arguments)
