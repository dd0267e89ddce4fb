"""Fitting the tie: captions are written for measured voices, embedded by the frozen tower, and mapped."""

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
    """How the maps are fitted."""

    captions: int = 6
    """Written for every voice."""
    analogous_age: bool = True
    """Say old of rough, low voices and young of smooth, high ones where the corpus tells no age."""
    steps: int = 400
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.05
    blur: float = 0.2
    """Noise added to embeddings, as a part of their spread: the maps meet other wordings than these."""
    check_every: int = 50
    """Steps between looks at the held-out voices; the best of them is kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self, "captions", "steps", "batch", "check_every")


class Captioned(NamedTuple):
    """Captions, the voice that each was written for, and their embeddings."""

    captions: list[str]
    owner: Int[Tensor, "captions"]
    embedding: Float[Tensor, "captions clip_dim"]


def captions_for(
    known_voices: KnownVoices, scale: Scale, config: FittingConfig, rng: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Write captions that each say a part of what is known, with words relative to the gender they name."""
    captions, owners = [], []
    for index, (measures, gender, age, _) in enumerate(known_voices.known):
        if age is None and config.analogous_age:
            age = guessed_age(measures, scale, gender)
        for _ in range(config.captions):
            # A converter keeps the source's melody: a voice has none to name.
            described = some_of(replace(traits_of(measures, scale, gender=gender, age=age), melody=None), rng)
            if described.gender is None:  # then the words that are left must be true of a voice among all
                among_all = traits_of(measures, scale)
                kept = [name for name in HEARD if getattr(described, name) is not None]
                described = replace(described, **{name: getattr(among_all, name) for name in kept})
            captions.append(describe(described, rng))
            owners.append(index)
    return captions, owners


def embedded(
    captions: Sequence[str], owners: Sequence[int], texts: Callable[[list[str]], Tensor]
) -> Captioned:
    """Embed captions, each wording once."""
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
    """Fit both maps; keep the step at which the held-out voices were surprised least. Returns the losses."""
    generator = torch.Generator().manual_seed(config.seed)
    network.settle(voices)
    network.caption_mean.copy_(captions.embedding.mean(0))
    network.solve(captions.embedding, voices[captions.owner])
    network.memory.copy_(memory)
    spread = config.blur * float((captions.embedding - network.caption_mean).square().mean().sqrt())
    kept: dict[str, float] = {}
    for name, loss in (("to_voice", _voice_loss), ("to_clip", _clip_loss)):
        part = getattr(network, name)
        parameters = [*part.parameters(), *([network.log_scale] if name == "to_clip" else [])]
        # The straight map stays as it was solved: on few speakers, steps only make it worse.
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
                    # One caption a voice: else a voice's captions would be each other's negatives.
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
        kept[name] = best
    network.eval().requires_grad_(False)
    return kept


def _voice_loss(network: WordsNetwork, voices: Tensor, embedding: Tensor, captions: Sequence[str]) -> Tensor:
    return negative_log_likelihood(network.density(embedding), network.coordinates(voices)).mean()


def _clip_loss(network: WordsNetwork, voices: Tensor, embedding: Tensor, captions: Sequence[str]) -> Tensor:
    """Each voice picks its caption out of the batch's, each caption its voice; equal captions are no foes."""
    logits = (
        network.log_scale.clamp(max=np.log(100.0)).exp()
        * network.voice_embedding(voices)
        @ network.meaning(embedding).T
    )
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    label = torch.tensor([number[caption] for caption in captions])
    own = torch.eye(len(label), dtype=torch.bool)
    logits = logits.masked_fill((label[:, None] == label) & ~own, -1e4)
    at = torch.arange(len(label))
    return (F.cross_entropy(logits, at) + F.cross_entropy(logits.T, at)) / 2


def remembered(count: int, rng: np.random.Generator) -> list[str]:
    """Captions to read pictures by: all that can be seen alike often, half of them with a voice as well."""
    captions = []
    for number in range(count):
        levels = {name: int(rng.integers(-2, 3)) if number % 2 else None for name in HEARD}
        people = Traits(gender=GENDERS[number // 2 % 2], age=AGES[number // 4 % 4], **levels)
        captions.append(describe(some_of(people, rng, keep=0.8), rng))
    return captions
