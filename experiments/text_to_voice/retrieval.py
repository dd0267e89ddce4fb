"""Voices from words among real voices: how near they lie to them, and whether words find the right ones."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.voice_captions import describe, fit_scale, traits_of
from w2w.converter import Converter
from w2w.words.known_voices import KnownVoices

Voices = Float[Tensor, "n dim"]


Line = list[str]
"""What, its value, and what chance or real recordings give."""


def likeness_to_real(converter: Converter, real: KnownVoices, others: KnownVoices) -> list[Line]:
    """How like its nearest real voice a voice from words is, beside unseen real voices and random ones."""
    people = ("a man", "a woman", "an old man, low and rough", "a young woman with a bright voice", "a child")
    plain = torch.cat([converter.embed_text(text) for text in people])
    varied = torch.cat([converter.embed_text(text, variety=1.0, seed=s) for text in people for s in range(8)])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, real.voice.shape[1], generator=generator)
    random = real.voice.mean(0) + real.voice.std(0) * noise
    among = nearest(others.voice, real.voice)
    spread = torch.cdist(varied[:8, :-1], varied[:8, :-1]).sum() / 56
    usual = torch.cdist(real.voice[:, :-1], real.voice[:, :-1]).sum() / (
        len(real.voice) * (len(real.voice) - 1)
    )
    return [
        [
            "likeness (cosine) to the nearest of the train split's voices",
            f"{nearest(plain, real.voice):.2f}; variety 1: {nearest(varied, real.voice):.2f}",
            f"unseen speakers {among:.2f}, random numbers {nearest(random, real.voice):.2f}",
        ],
        [
            "distance between voices that variety 1 makes for one sentence",
            f"{float(spread / usual):.2f}",
            "1: between two real speakers",
        ],
    ]


def nearest(voices: Voices, real: Float[Tensor, "others dim"]) -> float:
    """Mean cosine of timbres, less the mean voice, to the nearest of some voices."""
    mean = real.mean(0)[:-1]
    a, b = (F.normalize(v[:, :-1] - mean, dim=-1) for v in (voices, real))
    return float((a @ b.T).amax(-1).mean())


def found_by_words(converter: Converter, real: KnownVoices, others: KnownVoices) -> list[Line]:
    """Whether unseen voices find the captions written for them, and are given the right gender word."""
    scale = fit_scale(real.measures, real.gender)
    rng = np.random.default_rng(29)
    traits = [traits_of(k.measures, scale, gender=k.gender) for k in others.known]
    captions = [describe(replace(one, melody=None), rng) for one in traits]
    likeness = converter.tie.likeness(others.voice, captions)
    n = len(captions)
    matching = likeness.diagonal()[:, None]
    rank = (likeness > matching).sum(-1)
    hits = [f"{100 * float((rank < k).float().mean()):.0f} %" for k in (1, 5, 10)]
    chance = [f"{100 * min(1.0, k / n):.0f} %" for k in (1, 5, 10)]
    scores = converter.tie.likeness(others.voice, ["a woman", "a man"])
    known = [i for i, k in enumerate(others.known) if k.gender]
    right = np.mean([bool(scores[i, 0] > scores[i, 1]) == (others.known[i].gender == "F") for i in known])
    return [
        [
            f"voice finds its caption among {n} of unseen speakers: R@1, 5, 10",
            ", ".join(hits),
            ", ".join(chance),
        ],
        ["unseen speakers' voices nearer to their gender's word", f"{100 * right:.0f} %", "50 % by chance"],
    ]
