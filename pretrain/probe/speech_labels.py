"""Labels of utterances from frozen speech features, layer by layer.

A linear classifier on the mean over time of each layer. Log-mel statistics and the same network before any
training stand beside each encoder (--encoder random needs another encoder's folder beside it).

``speakers`` learns the speakers of the ``train`` split and names those of other utterances, of the
``validation`` split, by the same speakers.

``keywords`` learns words from ``train`` recordings and scores the layer that is best on ``validation`` on
``test``. --data is laid out as Speech Commands: a folder of recordings for each word, and validation_list.txt
and testing_list.txt with the files of these splits (the rest is for training; folders that begin with an
underscore are left out). Or it is a manifest with columns ``path``, ``label`` and ``split``.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data.audio import audio_files, load
from data.manifest import Row, rows_from
from engine.arguments import Arguments
from engine.user_error import UserError
from pretrain.probe.clips import clips_from
from pretrain.probe.embedders import Embedder, log_mel_statistics, short_name, speech_layers
from pretrain.probe.harness import Embeddings, Probe, readable
from pretrain.probe.results import Result, mean_interval, results_of
from pretrain.speech.encoder import SpeechEncoder
from pretrain.speech.loading import load_speech_encoder

ENCODERS = "export or run of pretrain/data2vec.py, random or logmel"
LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
SPLITS = ("train", "validation", "test")

Vectors = Float[Tensor, "utterances dim"]


def layers_of(args: argparse.Namespace, paths: Sequence[Path]) -> dict[str, dict[str, Vectors]]:
    """Return the utterances' vectors by encoder and layer, of their first ``--crop-s`` seconds."""
    names: list[str] = args.encoder
    folders = [name.removeprefix("speech:") for name in names if name not in ("random", "logmel")]
    if not folders and "random" in names:
        raise UserError("--encoder random has the shape of another encoder: give its folder too")
    embedders: list[Embedder] = []
    for folder in folders:
        encoder = load_speech_encoder(folder)
        embedders.append(speech_layers(short_name(folder), encoder, args.device))
    if folders:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            untrained = SpeechEncoder(load_speech_encoder(folders[0]).config)
        embedders.append(speech_layers("random", untrained, args.device))

    def read(path: Path, sample_rate: int) -> Tensor:
        return load(path, sample_rate)[..., : round(args.crop_s * sample_rate)]

    found: dict[str, dict[str, Vectors]] = {}
    for embedder in [*embedders, log_mel_statistics()]:
        vectors = Embeddings(embedder, crop_s=args.crop_s, batch=args.batch).of(paths, read)
        if embedder.encoder is None:
            found[embedder.name] = {"statistics": vectors}
        else:
            layers = vectors.split(embedder.encoder.dim, dim=-1)
            found[embedder.name] = {f"layer {i}" if i else "projected": v for i, v in enumerate(layers)}
    return found


def fit_linear(
    train: Vectors,
    labels: Int[Tensor, "utterances"],
    other: Float[Tensor, "others dim"],
    n_classes: int,
    *,
    penalty: float = 1e-2,
) -> Float[Tensor, "others n_classes"]:
    """Fit a multinomial logistic regression on standardised vectors and return its logits of the others.

    The problem is convex and solved to the end from zero (L-BFGS): no seed enters.
    """
    mean, scale = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, y = ((v - mean) / scale for v in (train, other))
    weight = torch.zeros(x.shape[1], n_classes, requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + penalty * weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)  # pyright: ignore[reportArgumentType]
    return (y @ weight + bias).detach()


def run_speakers(args: argparse.Namespace) -> list[Result]:
    """Name speakers by one or several encoders."""
    rows = readable([row for row in rows_from(args.data) if row.speaker], args)
    train, test, names = splits_by_speaker(rows, args.least)
    print(f"{len(names)} speakers (chance {1 / len(names):.3f}), {len(train)} training utterances")
    labels, truth = (torch.tensor([names.index(str(row.speaker)) for row in part]) for part in (train, test))
    known = {"task": "speakers", "data": args.data_name, "n": len(test)}
    results: list[Result] = []
    for name, layers in layers_of(args, [row.path for row in (*train, *test)]).items():
        for layer, vectors in layers.items():
            logits = fit_linear(vectors[: len(train)], labels, vectors[len(train) :], len(names))
            right = (logits.argmax(1) == truth).float().numpy()
            score = mean_interval(right, [str(row.path) for row in test])
            results += results_of({f"accuracy, {layer}": score}, **known, encoder=name)
    return results


def splits_by_speaker(rows: Sequence[Row], least: int) -> tuple[list[Row], list[Row], list[str]]:
    """Return training and test utterances of the speakers that have enough of the first, and their names."""
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


class Spoken(NamedTuple):
    """A recording of one word."""

    path: Path
    word: str
    split: str


def run_keywords(args: argparse.Namespace) -> list[Result]:
    """Tell words apart by one or several encoders."""
    chosen = readable(chosen_words(spoken_in(Path(args.data)), args.words, args.most), args)
    names = sorted({one.word for one in chosen})
    place = {split: [i for i, one in enumerate(chosen) if one.split == split] for split in SPLITS}
    if missing := [split for split in SPLITS if not place[split]]:
        raise UserError(f"{args.data}: there is no recording of split {missing[0]!r}")
    labels = torch.tensor([names.index(one.word) for one in chosen])
    speakers = [chosen[i].path.name.split("_nohash_")[0] for i in place["test"]]
    known = {"task": "keywords", "data": args.data_name, "n": len(speakers)}
    results: list[Result] = []
    for name, layers in layers_of(args, [one.path for one in chosen]).items():
        right: dict[str, np.ndarray] = {}
        others, n_validation = [*place["validation"], *place["test"]], len(place["validation"])
        for layer, vectors in layers.items():
            train = vectors[place["train"]], labels[place["train"]]
            logits = fit_linear(*train, vectors[others], len(names))
            right[layer] = (logits.argmax(1) == labels[others]).float().numpy()
        best = max(right, key=lambda layer: float(right[layer][:n_validation].mean()))
        score = {"accuracy": mean_interval(right[best][n_validation:], speakers)}
        results += results_of(score, **known, encoder=name, trained_on=f"layer chosen by validation: {best}")
    print(f"{len(names)} words (chance about {1 / len(names):.3f})")
    return results


def spoken_in(place: Path) -> list[Spoken]:
    """Read a folder as Speech Commands lays it out, or a manifest with labels and splits."""
    if place.is_file() or not any((place / name).is_file() for name in LISTS):
        clips = clips_from(place)
        if any(clip.split is None for clip in clips):
            raise UserError(
                f"{place} has neither {' and '.join(LISTS)} nor a manifest with columns 'label' and 'split'"
            )
        return [Spoken(clip.path, clip.labels[0], str(clip.split)) for clip in clips]
    split_of = {}
    for name, split in LISTS.items():
        if not (place / name).is_file():
            raise UserError(f"{place} lacks {name}: take the whole corpus, with its official lists")
        for line in (place / name).read_text(encoding="utf-8").splitlines():
            split_of[line.strip()] = split
    spoken = []
    for file in audio_files(place):
        inside = file.relative_to(place)
        if len(inside.parts) == 2 and not inside.parts[0].startswith("_"):
            spoken.append(Spoken(file, inside.parts[0], split_of.get(inside.as_posix(), "train")))
    return spoken


def chosen_words(spoken: Sequence[Spoken], words: Sequence[str], most: int) -> list[Spoken]:
    """Keep some words, and so many training recordings of each, the same in every run."""
    known = {one.word for one in spoken}
    if missing := sorted(set(words) - known):
        raise UserError(f"there is no recording of {missing[0]!r}: the words are {', '.join(sorted(known))}")
    kept = [one for one in spoken if not words or one.word in words]
    if len({one.word for one in kept}) < 2:
        raise UserError("telling words apart needs at least two of them")
    seen: Counter[str] = Counter()
    chosen = []
    for i in np.random.default_rng(0).permutation(len(kept)):
        one = kept[int(i)]
        seen[one.word] += one.split == "train"
        if one.split != "train" or not most or seen[one.word] <= most:
            chosen.append(one)
    return sorted(chosen)


def _speakers_arguments(parser: Arguments) -> None:
    parser.add_argument("--least", type=int, default=4, help="training utterances a speaker needs (4)")


def _keywords_arguments(parser: Arguments) -> None:
    parser.add_argument("--words", nargs="+", default=[], help="these only, such as zero one two (all)")
    parser.add_argument("--most", type=int, default=0, help="training recordings of a word; 0: all")


speakers = Probe("speakers", __doc__, run_speakers, _speakers_arguments, encoders=ENCODERS)
keywords = Probe("keywords", __doc__, run_keywords, _keywords_arguments, encoders=ENCODERS)
