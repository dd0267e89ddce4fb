"""Audio, mels and scores that monitor training: conversions between the voices of the last batch."""

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
"""Number of conversions shown."""


def samples(converter: ConverterNetwork, source: Wave, reference: Reference) -> Samples:
    """Audio and mels of sources, references, conversions and reconstructions."""
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
    """Distance of the mean F0 to the reference's in semitones; style similarity to reference and source.

    Styles are from the converter's own encoder and therefore optimistic; ``eval/run.py`` uses other models.
    """
    voice = converter.style(reference)
    converted = converter.style(converter(source, voice))
    semitones = (converted - voice)[:, -1].abs() * 12 / math.log(2.0)
    source_voice = converter.style(source)
    to_reference = F.cosine_similarity(converted[:, :-1], voice[:, :-1])
    to_source = F.cosine_similarity(converted[:, :-1], source_voice[:, :-1])
    return {
        "f0_distance": float(semitones.mean()),
        "style_to_reference": float(to_reference.mean()),
        "style_to_source": float(to_source.mean()),
        "nearer_to_reference": float((to_reference > to_source).float().mean()),
        "finite": float(torch.isfinite(converted).all()),
    }
