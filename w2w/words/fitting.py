"""Fitting the tie: generate captions of measured voices, embed them by frozen CLIP, and train both maps."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data.voice_captions import HEARD, Age, Gender, Scale, Traits, describe, guessed_age, some_of, traits_of
from engine.user_error import at_least
from w2w.words.known_voices import KnownVoices
from w2w.words.network import WordsNetwork, negative_log_likelihood

GENDERS: tuple[Gender, ...] = ("F", "M")
AGES: tuple[Age, ...] = ("child", "young", "adult", "old")


@dataclass(frozen=True, kw_only=True)
class FittingConfig:
    """Hyperparameters of the fit."""

    captions: int = 6
    """Captions generated per voice."""
    analogous_age: bool = True
    """Label rough, low voices as old and smooth, high ones as young where the corpus has no ages."""
    steps: int = 400
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.05
    blur: float = 0.2
    """Noise added to embeddings, relative to their spread, so that the maps generalise to other wordings."""
    check_every: int = 50
    """Steps between evaluations on the held-out voices; the weights of the best one are used."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self, "captions", "steps", "batch", "check_every")


class Captioned(NamedTuple):
    """Captions, the index of the voice that each one describes, and their embeddings."""

    captions: list[str]
    owner: Int[Tensor, "captions"]
    embedding: Float[Tensor, "captions clip_dim"]


def captions_for(
    known_voices: KnownVoices, scale: Scale, config: FittingConfig, rng: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Generate captions of random subsets of the traits, with words relative to the gender they name."""
    captions, owners = [], []
    for index, (measures, gender, age, _) in enumerate(known_voices.known):
        if age is None and config.analogous_age:
            age = guessed_age(measures, scale, gender)
        for _ in range(config.captions):
            # A converter keeps the source's melody, so a voice has none.
            described = some_of(replace(traits_of(measures, scale, gender=gender, age=age), melody=None), rng)
            if described.gender is None:  # then the levels must be relative to all voices
                among_all = traits_of(measures, scale)
                named = [name for name in HEARD if getattr(described, name) is not None]
                described = replace(described, **{name: getattr(among_all, name) for name in named})
            captions.append(describe(described, rng))
            owners.append(index)
    return captions, owners


def embedded(
    captions: Sequence[str], owners: Sequence[int], texts: Callable[[list[str]], Tensor]
) -> Captioned:
    """Embed captions, computing each distinct caption once."""
    unique = list(dict.fromkeys(captions))
    place = {caption: index for index, caption in enumerate(unique)}
    embedding = texts(unique).cpu().float()
    return Captioned(
        list(captions),
        torch.tensor(owners),
        embedding[torch.tensor([place[caption] for caption in captions])],
    )


def fit_words(
    network: WordsNetwork,
    voices: Float[Tensor, "voices voice_dim"],
    captions: Captioned,
    held_voices: Float[Tensor, "held voice_dim"],
    held_captions: Captioned,
    memory: Float[Tensor, "memory clip_dim"],
    config: FittingConfig,
) -> dict[str, float]:
    """Train both maps with early stopping on the held-out voices; return the best held-out losses."""
    generator = torch.Generator().manual_seed(config.seed)
    network.settle(voices)
    network.caption_mean.copy_(captions.embedding.mean(0))
    network.solve(captions.embedding, voices[captions.owner])
    network.memory.copy_(memory)
    spread = config.blur * float((captions.embedding - network.caption_mean).square().mean().sqrt())
    losses: dict[str, float] = {}
    for name, loss in (("to_voice", _voice_loss), ("to_clip", _clip_loss)):
        part = getattr(network, name)
        parameters = [*part.parameters(), *([network.log_scale] if name == "to_clip" else [])]
        # The linear map stays at its ridge solution: with few speakers, training makes it worse.
        optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        best, best_state = float("inf"), copy.deepcopy(part.state_dict())
        for step in range(config.steps):
            network.train()
            chosen = torch.randint(len(captions.owner), (config.batch,), generator=generator)
            noise = torch.randn(config.batch, captions.embedding.shape[-1], generator=generator)
            embedding = captions.embedding[chosen]
            embedding = embedding + noise * spread
            value = loss(
                network, voices[captions.owner[chosen]], embedding, [captions.captions[i] for i in chosen]
            )
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            decay.step()
            if (step + 1) % config.check_every == 0 or step + 1 == config.steps:
                network.eval()
                with torch.no_grad():
                    # One caption per voice: captions of the same voice would be each other's negatives.
                    first = [int(torch.nonzero(held_captions.owner == i)[0]) for i in range(len(held_voices))]
                    held = loss(
                        network,
                        held_voices,
                        held_captions.embedding[first],
                        [held_captions.captions[i] for i in first],
                    )
                if float(held) < best:
                    best, best_state = float(held), copy.deepcopy(part.state_dict())
        part.load_state_dict(best_state)
        losses[name] = best
    network.eval().requires_grad_(False)
    return losses


def _voice_loss(network: WordsNetwork, voices: Tensor, embedding: Tensor, captions: Sequence[str]) -> Tensor:
    return negative_log_likelihood(network.density(embedding), network.coordinates(voices)).mean()


def _clip_loss(network: WordsNetwork, voices: Tensor, embedding: Tensor, captions: Sequence[str]) -> Tensor:
    """Symmetric InfoNCE between voices and captions of the batch; equal captions are not negatives."""
    logits = (
        network.log_scale.clamp(max=np.log(100.0)).exp()
        * network.voice_embedding(voices)
        @ network.meaning(embedding).T
    )
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    label = torch.tensor([number[caption] for caption in captions])
    diagonal = torch.eye(len(label), dtype=torch.bool)
    logits = logits.masked_fill((label[:, None] == label) & ~diagonal, -1e4)
    at = torch.arange(len(label))
    return (F.cross_entropy(logits, at) + F.cross_entropy(logits.T, at)) / 2


def remembered(count: int, rng: np.random.Generator) -> list[str]:
    """Generate captions for the picture memory: visible traits equally often, half with a voice's traits."""
    captions = []
    for number in range(count):
        levels = {name: int(rng.integers(-2, 3)) if number % 2 else None for name in HEARD}
        people = Traits(gender=GENDERS[number // 2 % 2], age=AGES[number // 4 % 4], **levels)
        captions.append(describe(some_of(people, rng, keep=0.8), rng))
    return captions
