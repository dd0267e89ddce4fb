"""From mels back to waves: Griffin-Lim, WaveNet, WaveGlow, MelGAN and HiFi-GAN behind ``load_vocoder``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path

if TYPE_CHECKING:
    from vocoders.loading import load_vocoder
    from vocoders.vocoder import Vocoder, VocoderConfig

__all__ = ["Vocoder", "VocoderConfig", "load_vocoder"]


def __getattr__(name: str) -> Any:
    """Import on first use: this package's parts need not know of each other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"vocoders.{'loading' if name == 'load_vocoder' else 'vocoder'}"), name)
