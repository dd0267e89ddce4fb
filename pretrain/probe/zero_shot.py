"""Labels without any training: ``python -m pretrain.probe zero_shot --encoder E --towers T --data D``.

A clip gets the label whose caption, "This is a sound of {label}.", lies nearest to its embedding in the space
of the text tower that the encoder was distilled into. ``--template`` may be repeated: then the vectors of all
captions of a label are averaged. CLAP brings a text tower of its own.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from pretrain.probe.classification import label_scores
from pretrain.probe.clips import clips_from, is_multi_label, label_names
from pretrain.probe.embedders import Embedder
from pretrain.probe.options import label_arguments, listener, opened_embedders, probe_arguments
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.word_vectors import WordVectors

TEMPLATE = "This is a sound of {label}."
ENSEMBLE = (
    TEMPLATE,
    "a sound of {label}",
    "a recording of {label}",
    "a photo of {label}.",
    "{label} can be heard.",
    "the noise of {label}.",
)
"""What ``--ensemble`` averages."""

Texts = Callable[[list[str]], Float[Tensor, "captions dim"]]


def spoken(label: str) -> str:
    """A label as a caption says it."""
    return label.replace("_", " ").replace("-", " ").strip()


def label_vectors(
    names: Sequence[str], texts: Texts, templates: Sequence[str] = (TEMPLATE,)
) -> Float[Tensor, "labels dim"]:
    """One vector of unit length a label: the mean over its captions."""
    for template in templates:
        if "{label}" not in template:
            raise UserError(f"--template {template!r} must hold {{label}}")
    vectors = [texts([t.replace("{label}", spoken(name)) for t in templates]) for name in names]
    return F.normalize(torch.stack([F.normalize(v, dim=-1).mean(0) for v in vectors]), dim=-1)


def similarities(
    heard: Float[Tensor, "clips dim"], labels: Float[Tensor, "labels space"], *, name: str = "the encoder"
) -> Float[Tensor, "clips labels"]:
    """Cosines of sounds with labels."""
    if heard.shape[1] != labels.shape[1]:
        raise UserError(
            f"{name} gives {heard.shape[1]} numbers and the text tower {labels.shape[1]}: zero-shot needs "
            "the towers that the encoder was distilled from (--towers)"
        )
    return F.normalize(heard, dim=-1) @ labels.T


def tower_arguments(parser: argparse.ArgumentParser, default: str = "ViT-B-32") -> None:
    """Add ``--towers`` and ``--pretrained``: the image and text towers."""
    parser.add_argument(
        "--towers", default=default, help="open_clip model, its local folder, or words[:FILE]"
    )
    parser.add_argument("--pretrained", default="openai", help="open_clip weights or a file (openai)")


def texts_of(embedder: Embedder, words: argparse.Namespace) -> Texts:
    """The text tower beside an encoder: its own, or the one that ``--towers`` names."""
    own = getattr(embedder, "texts", None)
    if own is not None:
        return own
    return open_texts(words.towers, words.pretrained, embedder)


def open_texts(towers: str, pretrained: str, embedder: Embedder | None = None) -> Texts:
    """A text tower by its name: open_clip's, or word vectors; it must be that of ``embedder``, if given."""
    first, _, place = towers.partition(":")
    if first == "words":
        return WordVectors(place).texts
    from pretrain.clip.towers import TowersConfig, open_towers

    opened = open_towers(TowersConfig(name=towers, pretrained=pretrained))
    if embedder is not None:
        check_space(embedder, opened)
    return opened.texts


def check_space(embedder: Embedder, towers: Any) -> None:
    """Refuse towers of another dimension; say so where an encoder names other towers as its teacher."""
    if embedder.dim != towers.dim:
        raise UserError(
            f"--encoder {embedder.name} gives {embedder.dim} numbers and the towers {towers.dim}: give the "
            "towers that it was distilled from (--towers)"
        )
    teacher = getattr(getattr(embedder, "encoder", None), "config", None)
    key = getattr(teacher, "teacher", "")
    if key and key != towers.key:
        # Told, not refused: the same towers stored at half precision have another key.
        print(
            f"note: {embedder.name} was distilled from towers {key}, these are {towers.key}", file=sys.stderr
        )


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Classify by captions."""
    parser = probe_arguments("zero_shot", __doc__)
    label_arguments(parser)
    tower_arguments(parser)
    parser.add_argument("--template", action="append", default=[], help=f"{TEMPLATE!r}; repeat to average")
    parser.add_argument("--ensemble", action="store_true", help=f"average over {len(ENSEMBLE)} templates")
    parser.add_argument("--split", default="", help="clips of this split only (all)")
    words = parser.parse_args(argv)
    clips = clips_from(words.data, words.label)
    names, multi_label = label_names(clips), is_multi_label(clips)
    clips = [clip for clip in clips if not words.split or clip.split == words.split]
    if not clips:
        raise UserError(f"{words.data} has no clips of split {words.split!r}")
    templates = words.template or (ENSEMBLE if words.ensemble else (TEMPLATE,))
    results: list[Result] = []
    for embedder in opened_embedders(words, ("released",)):
        labels = label_vectors(names, texts_of(embedder, words), templates)
        heard = listener(embedder, words).hear([clip.path for clip in clips])
        cosines = similarities(heard, labels, name=embedder.name)
        scores = label_scores([cosines], clips, names, multi_label=multi_label)
        known = {"task": "zero_shot", "data": Path(words.data).name, "encoder": embedder.name}
        results += results_of(scores, **known, n=len(clips), saw="no label of this task")
    print(f"{len(clips)} clips, {len(names)} labels, {len(templates)} captions a label")
    report(results, words.out, "zero_shot")
    return results
