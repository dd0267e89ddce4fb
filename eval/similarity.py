"""Speaker similarity: the cosine between speaker embeddings of two recordings."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from eval.features import SILENT, Features

SAMPLE_RATE = 16_000
SIZE = 256
"""Dimension of Resemblyzer's embeddings; silence has the zero vector, similar to no voice."""


@dataclass(frozen=True)
class Resemblyzer:
    """Resemblyzer's GE2E speaker encoder, with the weights of its wheel."""

    kind: str = "resemblyzer-1"

    def check(self) -> None:
        _resemblyzer()

    def __call__(self, wave: Float[Tensor, "1 1 samples"]) -> Features:
        encoder, preprocess = _resemblyzer()
        if wave.abs().max() < SILENT:
            return {"embedding": np.zeros(SIZE, np.float32)}
        samples = wave[0, 0].clamp(-1, 1).numpy()  # its voice detector's 16 bits would overflow beyond 1
        spoken = preprocess(samples, source_sr=SAMPLE_RATE)
        if len(spoken) < SAMPLE_RATE // 4:  # no voice detected: use the whole recording
            spoken = samples
        with torch.inference_mode():
            return {"embedding": np.asarray(encoder.embed_utterance(spoken), np.float32)}


def cosine(a: Float[np.ndarray, "dim"], b: Float[np.ndarray, "dim"]) -> float:
    return float(np.dot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


@lru_cache(maxsize=1)
def _resemblyzer() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated imports: pkg_resources, scipy.ndimage.morphology
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError as error:
            raise UserError(
                f"speaker similarity needs Resemblyzer ({error}): pip install 'timbre[eval]' and then "
                "pip install --no-deps resemblyzer"
            ) from None
        return VoiceEncoder("cpu", verbose=False).eval(), preprocess_wav
