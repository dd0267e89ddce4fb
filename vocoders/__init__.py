"""From mels back to waves: Griffin-Lim, WaveNet, WaveGlow, MelGAN and HiFi-GAN behind ``load_vocoder``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vocoders.vocoder import Vocoder, VocoderConfig, load_vocoder

__all__ = ["Vocoder", "VocoderConfig", "load_vocoder"]


def __getattr__(name: str) -> Any:
    """Import on first use: this package's parts need not know of each other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vocoders import vocoder

    return getattr(vocoder, name)
