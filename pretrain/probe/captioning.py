"""Captioning of sounds from frozen features.

A 1-layer transformer decoder on the frozen encoder's frames is trained on the captions of the split "train"
and scored on "test" by BLEU, ROUGE-L and CIDEr-D. A manifest has a column caption (or caption_1, caption_2,
..., or several rows per file) and split. "world" is the synthetic audio-visual world with its held-out
combinations as the test; there, the fraction of captions that name each attribute correctly is also scored.
Baselines are an encoder with random weights and the most frequent training caption. If clips have several
captions, the topline is one person's caption scored against the others'.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.audio import load, unreadable
from data.audio.resampling import resample
from data.audiovisual.layouts import CAPTION_COLUMNS, SPLITS
from data.manifest import Row, rows_from
from data.synthetic.world import ATTRIBUTES, GROUNDS, PLURALS, SAMPLE_RATE, SIZE_WORDS, World
from engine.user_error import UserError, at_least
from pretrain.probe.captioning_decoder import DecoderConfig, Features, fit_decoder
from pretrain.probe.captioning_scores import Vocabulary, caption_scores, commonest_caption, words_of
from pretrain.probe.harness import Embeddings, Probe, embedders_of, embeddings_of
from pretrain.probe.results import Interval, Result, mean_interval

MOST_FRAMES = 96
"""Maximum number of frames that the decoder attends to; longer clips are reduced by average pooling."""
WORLD_REFERENCES = 5
"""Reference captions (paraphrases) of a scene of the world."""
VALIDATION_SHARE = 10
"""Every n-th training clip is used for validation if there is no validation split."""


class Captioned(NamedTuple):
    name: str
    sound: Path | Tensor
    """An audio file, or a wave of shape (1, 1, samples)."""
    captions: tuple[str, ...]
    split: str
    values: tuple[int, ...] = ()
    """Attributes of a scene of the world."""

    def __str__(self) -> str:
        return self.name

    def wave(self, sample_rate: int) -> Float[Tensor, "1 1 samples"]:
        if isinstance(self.sound, Path):
            return load(self.sound, sample_rate)
        return resample(self.sound, SAMPLE_RATE, sample_rate)


def captioned_from(data: str, *, draws: int = 2, left_out: list[str] | None = None) -> list[Captioned]:
    """Return the captioned clips of a manifest or of ``world`` (``draws`` scenes per combination).

    A clip may have several captions: in columns ``caption``, ``caption_1``, ... or in several rows.
    ``left_out`` receives an error message for each unreadable file.
    """
    clips = list(_world(draws)) if data == "world" else _from_manifest(Path(data))
    if left_out is not None:
        bad = unreadable((clip.sound for clip in clips if isinstance(clip.sound, Path)), left_out)
        clips = [clip for clip in clips if clip.sound not in bad]
    if not any(clip.split == "validation" for clip in clips):
        training = [index for index, clip in enumerate(clips) if clip.split == "train"]
        first = min(VALIDATION_SHARE, len(training)) - 1
        for index in training[max(first, 1) :: VALIDATION_SHARE]:
            clips[index] = clips[index]._replace(split="validation")
    for split in ("train", "validation", "test"):
        if not any(clip.split == split for clip in clips):
            found = ", ".join(sorted({clip.split for clip in clips}))
            raise UserError(f"{data} has no captioned clip of split {split!r} (found: {found or 'none'})")
    return clips


def _from_manifest(path: Path) -> list[Captioned]:
    by_path: dict[Path, Captioned] = {}
    for row in rows_from(path):
        captions = tuple(_captions(row))
        if not captions:
            continue
        before = by_path.get(row.path)
        split = SPLITS.get(row.split or "", row.split or "none")
        if before is not None and before.split != split:
            raise UserError(f"{path}: {row.path.name} is in both splits, {before.split} and {split}")
        every = tuple(dict.fromkeys((*(before.captions if before else ()), *captions)))
        by_path[row.path] = Captioned(str(row.path), row.path, every, split)
    if not by_path:
        raise UserError(f"{path} has no captions: it needs a column 'caption' (or caption_1, caption_2, ...)")
    return list(by_path.values())


def _captions(row: Row) -> Iterable[str]:
    if row.text and not any(name.startswith(CAPTION_COLUMNS) for name in row.extra):
        yield row.text
    yield from (row.extra[name] for name in CAPTION_COLUMNS if name in row.extra)
    numbered = (name for name in row.extra if name.rpartition("_")[0] in CAPTION_COLUMNS)
    yield from (row.extra[name] for name in sorted(numbered) if row.extra[name])


def _world(draws: int) -> Iterable[Captioned]:
    """Yield the world's scenes; the held-out combinations are the test split."""
    for world, split in ((World(0, "train", draws=draws), "train"), (World(0, "held_out"), "test")):
        others = [world.captions(world.indices + n * world.n_combinations) for n in range(WORLD_REFERENCES)]
        waves, values = world.waves(world.indices), world.values(world.indices).tolist()
        for index, (*captions, wave, attributes) in enumerate(zip(*others, waves, values)):
            different = tuple(dict.fromkeys(captions))
            yield Captioned(f"{world.split} {index}", wave[None], different, split, tuple(attributes))


def features_of(embeddings: Embeddings, clips: Sequence[Captioned]) -> Features:
    vectors, frames = embeddings.with_frames(clips, Captioned.wave)
    frames = [F.adaptive_avg_pool1d(f.T, MOST_FRAMES).T if len(f) > MOST_FRAMES else f for f in frames]
    lengths = torch.tensor([len(f) for f in frames])
    valid = torch.arange(int(lengths.max())) < lengths[:, None]
    return Features(vectors, pad_sequence(frames, batch_first=True), valid)


def attributes_named(caption: str) -> list[Any]:
    """Return the value of each of the world's attributes named by a caption; None for none or several."""
    words = set(words_of(caption))
    named = []
    for attribute in ATTRIBUTES:
        synonyms = [_synonyms(attribute.name, value) for value in attribute.values]
        matches = [number for number, some in enumerate(synonyms) if words & some]
        named.append(matches[0] if len(matches) == 1 else None)
    return named


def _synonyms(attribute: str, value: str) -> set[str]:
    match attribute:
        case "size":
            return {word for way in SIZE_WORDS[value] for word in words_of(way)} - {"sized"}
        case "background":
            return set(GROUNDS[value])
        case "shape":
            return {value, PLURALS.get(value, f"{value}s")}
        case "count":
            return {"one", "single"} if value == "one" else {value}
        case _:
            return {value}


N_EXAMPLES = 5
"""Number of test clips for which captions are printed."""


def run_captioning(args: argparse.Namespace) -> list[Result]:
    """Train and score a decoder per encoder and seed, and score the baselines."""
    at_least(1, args, "draws", "epochs", "beam", prefix="--")
    config = DecoderConfig(epochs=args.epochs, beam=args.beam)
    embedders = embedders_of(args)
    clips = captioned_from(args.data, draws=args.draws, left_out=args.left_out)
    args.n_used = len(clips)
    parts = {split: [c for c in clips if c.split == split] for split in ("train", "validation", "test")}
    print(", ".join(f"{len(part)} {split} clips" for split, part in parts.items()))
    captions = {split: [c.captions for c in part] for split, part in parts.items()}
    vocabulary = Vocabulary([one for some in captions["train"] for one in some], least_count=args.least_count)
    written: dict[str, list[list[str]]] = {}
    for embedder in embedders:
        embeddings = embeddings_of(embedder, args)
        features: Any = {split: features_of(embeddings, part) for split, part in parts.items()}
        features = send_to_device(features, args.device)
        train, validation = ((features[split], captions[split]) for split in ("train", "validation"))
        written[embedder.name] = []
        for seed in range(args.seeds):
            decoder = fit_decoder(train, validation, vocabulary, seed=seed, config=config)
            written[embedder.name].append(decoder.captions(features["test"], vocabulary))
    test, references = parts["test"], captions["test"]
    written["commonest"] = [[commonest_caption(captions["train"])] * len(test)]
    results: list[Result] = []
    for name, candidates in written.items():
        learned = "the training captions" if name != "commonest" else "no sound"
        about = {"n": len(test), "seeds": len(candidates), "trained_on": learned}
        results += args.rows(_scores(candidates, test, references), encoder=name, **about)
    if all(len(some) > 1 for some in references):
        scores = _scores([[some[0] for some in references]], test, [some[1:] for some in references])
        about = "the test clips, against the others' captions"
        results += args.rows(scores, encoder="a person", n=len(test), trained_on=about)
    for number, clip in enumerate(test[:N_EXAMPLES]):
        print(f"\n{Path(clip.name).name}: {clip.captions[0]}")
        for name, candidates in written.items():
            print(f"  {name}: {candidates[0][number]}")
    return results


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


OPTIONS = {
    "--seeds": {"default": 1},
    "--epochs": {"type": int, "default": 30, "help": "passes over the training clips (30)"},
    "--beam": {"type": int, "default": 3, "help": "beam width (3)"},
    "--least-count": {"type": int, "default": 1, "help": "minimum count of a word in the vocabulary (1)"},
    "--draws": {"type": int, "default": 2, "help": "scenes per combination of the world (2)"},
    "--no-random": {},
}
captioning = Probe("captioning", __doc__, run_captioning, OPTIONS)
