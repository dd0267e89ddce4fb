"""Linear classification of utterances from frozen speech features, per layer.

The classifier's input is the mean over time of a layer. Baselines are log-mel statistics and the same network
with random weights (--encoder random needs another encoder's folder as well).

``speakers``: speaker identification, trained on the ``train`` split and scored on other utterances of the
same speakers in the ``validation`` split.

``keywords``: word classification, trained on the ``train`` split; the layer that is best on ``validation`` is
scored on ``test``. --data has the layout of Speech Commands: a folder of recordings per word, and
validation_list.txt and testing_list.txt with the files of these splits (the rest is for training; folders
whose names begin with an underscore are ignored). Alternatively, it is a manifest with columns ``path``,
``label`` and ``split``.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import load
from data.manifest import Row, rows_from
from engine.user_error import UserError
from pretrain.probe.clips import SPLITS, Clip, clips_from, label_names, targets_of
from pretrain.probe.embedders import log_mel_statistics, short_name, speech_layers
from pretrain.probe.fitting import fit_linear
from pretrain.probe.harness import Embeddings, Probe, readable
from pretrain.probe.results import Result, mean_interval
from pretrain.speech.encoder import SpeechEncoder
from pretrain.speech.loading import load_speech_encoder

ENCODERS = "export or run of pretrain/data2vec.py, random or logmel"

Vectors = Float[Tensor, "utterances dim"]


def layers_of(args: argparse.Namespace, paths: Sequence[Path]) -> dict[str, dict[str, Vectors]]:
    """Return vectors of the utterances' first ``--crop-s`` seconds, by encoder and layer."""
    names: list[str] = args.encoder
    folders = [name.removeprefix("speech:") for name in names if name not in ("random", "logmel")]
    if not folders and "random" in names:
        raise UserError("--encoder random needs another encoder's architecture: give its folder too")
    embedders = [
        speech_layers(short_name(folder), load_speech_encoder(folder), args.device) for folder in folders
    ]
    if folders:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            untrained = SpeechEncoder(load_speech_encoder(folders[0]).config)
        embedders.append(speech_layers("random", untrained, args.device))

    def read(path: Path, sample_rate: int) -> Tensor:
        return load(path, sample_rate)[..., : round(args.crop_s * sample_rate)]

    features: dict[str, dict[str, Vectors]] = {}
    for embedder in [*embedders, log_mel_statistics()]:
        vectors = Embeddings(embedder, crop_s=args.crop_s, batch=args.batch).of(paths, read)
        if embedder.encoder is None:
            features[embedder.name] = {"statistics": vectors}
        else:
            layers = vectors.split(embedder.encoder.dim, dim=-1)
            features[embedder.name] = {f"layer {i}" if i else "projected": v for i, v in enumerate(layers)}
    return features


def run_speakers(args: argparse.Namespace) -> list[Result]:
    rows = readable([row for row in rows_from(args.data) if row.speaker], args)
    train, test, names = splits_by_speaker(rows, args.least)
    print(f"{len(names)} speakers (chance {1 / len(names):.3f}), {len(train)} training utterances")
    labels, truth = (torch.tensor([names.index(str(row.speaker)) for row in part]) for part in (train, test))
    results: list[Result] = []
    for name, layers in layers_of(args, [row.path for row in (*train, *test)]).items():
        for layer, vectors in layers.items():
            predicted = fit_linear(vectors[: len(train)], labels)(vectors[len(train) :])
            right = (predicted == truth).float().numpy()
            score = mean_interval(right, [str(row.path) for row in test])
            results += args.rows({f"accuracy, {layer}": score}, encoder=name, n=len(test))
    return results


def splits_by_speaker(rows: Sequence[Row], least: int) -> tuple[list[Row], list[Row], list[str]]:
    """Return training and test utterances of speakers with enough training utterances, and their names."""
    train = [row for row in rows if (row.split or "train") == "train"]
    test = [row for row in rows if row.split == "validation"]
    count = Counter(row.speaker for row in train)
    names = sorted({str(row.speaker) for row in test if count[row.speaker] >= least})
    if len(names) < 2:
        raise UserError(
            f"fewer than two speakers have {least} utterances of split 'train' and one of 'validation': "
            "fill the columns 'speaker' and 'split', or lower --least"
        )
    return [r for r in train if r.speaker in names], [r for r in test if r.speaker in names], names


def run_keywords(args: argparse.Namespace) -> list[Result]:
    clips = clips_from(args.data)
    if any(clip.split is None for clip in clips):
        raise UserError(f"{args.data} has no splits: fill the column 'split', or give the whole corpus")
    chosen = readable(chosen_words(clips, args.words, args.most), args)
    names = label_names(chosen)
    place = {split: [i for i, clip in enumerate(chosen) if clip.split == split] for split in SPLITS}
    if missing := [split for split in SPLITS if not place[split]]:
        raise UserError(f"{args.data}: there is no recording of split {missing[0]!r}")
    labels = targets_of(chosen, names).argmax(1)
    speakers = [chosen[i].group for i in place["test"]]
    results: list[Result] = []
    for name, layers in layers_of(args, [clip.path for clip in chosen]).items():
        right: dict[str, np.ndarray] = {}
        others, n_validation = [*place["validation"], *place["test"]], len(place["validation"])
        for layer, vectors in layers.items():
            train = vectors[place["train"]], labels[place["train"]]
            right[layer] = (fit_linear(*train)(vectors[others]) == labels[others]).float().numpy()
        best = max(right, key=lambda layer: float(right[layer][:n_validation].mean()))
        score = {"accuracy": mean_interval(right[best][n_validation:], speakers)}
        about = f"layer chosen by validation: {best}"
        results += args.rows(score, encoder=name, n=len(speakers), trained_on=about)
    print(f"{len(names)} words (chance about {1 / len(names):.3f})")
    return results


def chosen_words(clips: Sequence[Clip], words: Sequence[str], most: int) -> list[Clip]:
    """Select words, and at most ``most`` training recordings of each (0: all), deterministically."""
    known = set(label_names(clips))
    if missing := sorted(set(words) - known):
        raise UserError(f"there is no recording of {missing[0]!r}: the words are {', '.join(sorted(known))}")
    candidates = [clip for clip in clips if not words or clip.labels[0] in words]
    if len(label_names(candidates)) < 2:
        raise UserError("classifying words needs at least two of them")
    count: Counter[str] = Counter()
    chosen = []
    for i in np.random.default_rng(0).permutation(len(candidates)):
        clip = candidates[int(i)]
        count[clip.labels[0]] += clip.split == "train"
        if clip.split != "train" or not most or count[clip.labels[0]] <= most:
            chosen.append(clip)
    return sorted(chosen, key=lambda clip: clip.path)


LEAST = {"type": int, "default": 4, "help": "minimum number of training utterances of a speaker (4)"}
WORDS = {"nargs": "+", "default": [], "help": "words to classify, such as zero one two (all)"}
MOST = {"type": int, "default": 0, "help": "maximum training recordings per word; 0: all"}
speakers = Probe("speakers", __doc__, run_speakers, {"--least": LEAST}, encoders=ENCODERS)
keywords = Probe("keywords", __doc__, run_keywords, {"--words": WORDS, "--most": MOST}, encoders=ENCODERS)
