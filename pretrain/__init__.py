"""Pretrained encoders, recognisers and F0 trackers; the loaders below are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path

if TYPE_CHECKING:
    from pretrain.clip.loading import load_audio_encoder as load_audio_encoder
    from pretrain.speech.loading import load_speech_encoder as load_speech_encoder

_LOADERS = {"load_audio_encoder": "pretrain.clip.loading", "load_speech_encoder": "pretrain.speech.loading"}


def __getattr__(name: str) -> Any:
    if name not in _LOADERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOADERS[name]), name)
