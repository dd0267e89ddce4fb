"""Vocoders, mel to wave: Griffin-Lim, WaveNet, WaveGlow, MelGAN, HiFi-GAN, Vocos; see ``load_vocoder``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path

if TYPE_CHECKING:
    from vocoders.loading import load_vocoder
    from vocoders.vocoder import Vocoder, VocoderConfig

__all__ = ["Vocoder", "VocoderConfig", "load_vocoder"]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that importing one module does not load every vocoder."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"vocoders.{'loading' if name == 'load_vocoder' else 'vocoder'}"), name)
