"""Which word is said, from frozen speech features: ``python -m pretrain.probe keywords --data FOLDER``.

The folder is laid out as Speech Commands: a folder of recordings for each word, and ``validation_list.txt``
and ``testing_list.txt`` with the files of these splits (the rest is for training; folders that begin with an
underscore are left out). Or it is a manifest with columns ``path``, ``label`` and ``split``. A linear
classifier on the mean over time of each layer is trained on ``train``; the layer that is best on
``validation`` is scored on ``test``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.audio import audio_files
from engine.user_error import UserError
from pretrain.probe.clips import clips_from
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.scores import mean_interval
from pretrain.probe.speakers import heard_by, speech_arguments
from pretrain.probe.speaking import classify

LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}


class Spoken(NamedTuple):
    """A recording of one word."""

    path: Path
    word: str
    split: str


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Tell words apart by one or several encoders."""
    parser = speech_arguments("keywords", __doc__)
    parser.add_argument("--words", nargs="+", default=[], help="these only, such as zero one two (all)")
    parser.add_argument("--most", type=int, default=0, help="training recordings of a word; 0: all")
    words = parser.parse_args(argv)
    spoken = [one for place in words.data for one in spoken_in(Path(place))]
    chosen = chosen_words(spoken, words.words, words.most)
    names = sorted({one.word for one in chosen})
    place = {split: [i for i, one in enumerate(chosen) if one.split == split] for split in
             ("train", "validation", "test")}  # fmt: skip
    for split, found in place.items():
        if not found:
            raise UserError(f"{', '.join(words.data)}: there is no recording of split {split!r}")
    labels = torch.tensor([names.index(one.word) for one in chosen])
    print(", ".join(f"{len(found)} of {split}" for split, found in place.items()), f"of {len(names)} words")
    results: list[Result] = []
    speakers = [chosen[i].path.name.split("_nohash_")[0] for i in place["test"]]
    for name, features in heard_by(words, [one.path for one in chosen]).items():
        right: dict[str, dict[str, np.ndarray]] = {}
        for layer, vectors in features.items():
            others = [*place["validation"], *place["test"]]
            logits = classify(vectors[place["train"]], labels[place["train"]], vectors[others], len(names))
            hits = (logits.argmax(1) == labels[others]).float().numpy()
            n_validation = len(place["validation"])
            right[layer] = {"validation": hits[:n_validation], "test": hits[n_validation:]}
        best = max(right, key=lambda layer: float(right[layer]["validation"].mean()))
        score = {"accuracy": mean_interval(right[best]["test"], speakers)}
        saw = f"layer chosen by validation: {best}"
        data = Path(words.data[0]).name
        results += results_of(score, task="keywords", data=data, encoder=name, n=len(speakers), saw=saw)
        print(f"{name}: {best} is best on validation ({right[best]['validation'].mean():.3f})")
    print(f"accuracy on test (chance about {1 / len(names):.3f}), with 95 % intervals over speakers")
    report(results, words.out, "keywords")
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
        raise UserError(f"no recording says {missing[0]!r}: the words are {', '.join(sorted(known))}")
    kept = [one for one in spoken if not words or one.word in words]
    if len({one.word for one in kept}) < 2:
        raise UserError("telling words apart needs at least two of them")
    if not most:
        return kept
    seen: dict[str, int] = {}
    chosen = []
    for i in np.random.default_rng(0).permutation(len(kept)):
        one = kept[int(i)]
        seen[one.word] = seen.get(one.word, 0) + (one.split == "train")
        if one.split != "train" or seen[one.word] <= most:
            chosen.append(one)
    return sorted(chosen)
