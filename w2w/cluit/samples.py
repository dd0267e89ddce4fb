"""What a training run lets be heard, seen and watched: conversions between the voices of its last batch."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from engine.tracking import Samples
from w2w.networks.network import ConverterNetwork

Wave = Float[Tensor, "batch 1 samples"]
Reference = Float[Tensor, "batch 1 reference_samples"]
N_SHOWN = 3
"""Conversions shown."""


def samples(converter: ConverterNetwork, source: Wave, reference: Reference) -> Samples:
    """Sounds and pictures of sources, references and what the converter makes of them."""
    source, reference = source[:N_SHOWN], reference[:N_SHOWN]
    voice = converter.style(reference)
    waves = {
        "source": source,
        "reference": reference,
        "converted": converter(source, voice),
        "rebuilt": converter(source, converter.style(source)),
    }
    audio, mels = {}, {}
    for name, batch in waves.items():
        for item, wave in enumerate(batch):
            audio[f"{name}/{item}"] = (wave, converter.config.sample_rate)
            mels[f"{name}/{item}"] = converter.content.analysis(wave[None])[0]
    return Samples(audio=audio, mels=mels)


def conversion_scores(converter: ConverterNetwork, source: Wave, reference: Reference) -> dict[str, float]:
    """Whether it converts: F0 off the reference's mean in semitones, and style nearer to reference or source.

    The styles are the converter's own judgement, and flatter it; ``eval/run.py`` asks others.
    """
    voice = converter.style(reference)
    converted = converter.style(converter(source, voice))
    semitones = (converted - voice)[:, -1].abs() * 12 / math.log(2.0)
    before = converter.style(source)
    near = F.cosine_similarity(converted[:, :-1], voice[:, :-1])
    far = F.cosine_similarity(converted[:, :-1], before[:, :-1])
    return {
        "f0_distance": float(semitones.mean()),
        "style_to_reference": float(near.mean()),
        "style_to_source": float(far.mean()),
        "nearer_to_reference": float((near > far).float().mean()),
        "finite": float(torch.isfinite(converted).all()),
    }
