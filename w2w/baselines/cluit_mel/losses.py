"""Losses on mels: adversarial, of energies and distances, of a frozen recogniser; and the negatives."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.frontends import MelConfig
from engine.user_error import UserError
from pretrain.recogniser import load_recogniser
from w2w.cluit.losses import MemoryBank

Keys = Float[Tensor, "batch dim"]
Numbers = Int[Tensor, "batch"]


class Drawn(NamedTuple):
    """Negatives of a step."""

    keys: Float[Tensor, "bank dim"]
    """Of unit length."""
    identity: Int[Tensor, "bank"]
    """Whose each is: a speaker's label, or a number below −1, one for each recording."""


class SlotBank(nn.Module):
    """A slot for every recording with the running mean of its keys, of unit length (Wu et al. 2018).

    Slots that no key has reached are not drawn. A recording's number is its slot, modulo how many there are.
    """

    slots: Tensor
    identities: Tensor
    used: Tensor

    def __init__(self, n_slots: int, dim: int, n_drawn: int, momentum: float = 0.5) -> None:
        super().__init__()
        self.n_drawn, self.momentum = n_drawn, momentum
        self.register_buffer("slots", torch.zeros(n_slots, dim))
        self.register_buffer("identities", torch.full((n_slots,), -1, dtype=torch.long))
        self.register_buffer("used", torch.zeros(n_slots, dtype=torch.bool))

    def draw(self) -> Drawn:
        """Draw among the slots in use, none twice."""
        places = self.used.nonzero()[:, 0]
        if len(places) > self.n_drawn:
            places = places[torch.randperm(len(places), device=places.device)[: self.n_drawn]]
        return Drawn(self.slots[places], self.identities[places])

    @torch.no_grad()
    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        """Move the slots of these recordings towards their keys."""
        keys = F.normalize(keys.detach().float(), dim=-1)
        # One by one: a recording may come twice in a batch, and an index written twice holds either.
        for key, whose, slot in zip(keys, identity, recording % len(self.slots)):
            mean = self.slots[slot].lerp(key, 1 - self.momentum)
            self.slots[slot] = F.normalize(torch.where(self.used[slot], mean, key), dim=-1)
            self.identities[slot], self.used[slot] = whose, True


class Queue(nn.Module):
    """The last keys, first in, first out (He et al. 2020)."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.bank = MemoryBank(size, dim)

    def draw(self) -> Drawn:
        """All that are kept."""
        return Drawn(self.bank.keys, self.bank.labels)

    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        """Put the keys in the place of the oldest."""
        self.bank.push(F.normalize(keys.float(), dim=-1), identity)


Mel = Float[Tensor, "batch n_mels frames"]
Scores = Float[Tensor, "batch"]


def softplus_critic(real: Scores, fake: Scores) -> Float[Tensor, ""]:
    """The critic's side of the non-saturating loss (Goodfellow et al. 2014)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def softplus_generator(fake: Scores) -> Float[Tensor, ""]:
    """The generator's side: raise the critic's scores where they are low."""
    return F.softplus(-fake.float()).mean()


def frame_energy(mel: Mel) -> Float[Tensor, "batch frames"]:
    """The logarithm of each frame's energy, which is the sum over its bands."""
    return torch.logsumexp(mel.float(), dim=1)


def norm_loss(converted: Mel, source: Mel) -> Float[Tensor, ""]:
    """L1 between frame energies; ``source`` is data.

    Of their logarithms: the energies themselves differ by four powers of ten, and only the loudest frames
    would be heard.
    """
    return F.l1_loss(frame_energy(converted), frame_energy(source.detach()))


def mel_distance(mel: Mel, target: Mel, spread: float) -> Float[Tensor, ""]:
    """L1 between log-mels in units of their ``spread``; ``target`` is data.

    The recipe's weights are meant for pictures in [−1, 1].
    """
    return F.l1_loss(mel.float(), target.detach().float()) / spread


def gradient_penalty(score: Scores, flat: Float[Tensor, "batch 1 all"], spread: float) -> Float[Tensor, ""]:
    """R1 of a critic of mels, whose values ``flat`` holds: its gradient by mels in units of ``spread``.

    Mescheder et al. 2018, eq. 9, without its γ/2.
    """
    (gradient,) = torch.autograd.grad(score.sum(), flat, create_graph=True)
    return gradient.square().sum((1, 2)).mean() * spread**2


class MelContentLoss(nn.Module):
    """Distance of what is said in two mels; gradients reach ``converted`` and nothing else.

    The recogniser was taught with a shorter window (400 samples of 512) than the converter's mels have (640
    of 1024). Hop, bands and range are the same, and it subtracts each utterance's mean spectrum, so that it
    is fed these mels as they are: both what was said and what is heard come through the same window.
    """

    FEATURES, POSTERIORS = 1.0, 0.5
    """Weights of the features' L1, over the deeper layers, and of the posteriors' divergence in nats."""

    def __init__(self, mel: MelConfig) -> None:
        super().__init__()
        self.recogniser = load_recogniser()
        _check_same_bands(mel, self.recogniser.config.mel)

    def train(self, mode: bool = True) -> "MelContentLoss":
        """Stay in evaluation mode: the judge does not change with its subject."""
        return super().train(False)

    def forward(self, converted: Mel, source: Mel) -> Float[Tensor, ""]:
        recogniser = self.recogniser
        with torch.no_grad():
            target = recogniser.from_normalised(recogniser.normalise(source.float()))
        output = recogniser.from_normalised(recogniser.normalise(converted.float()))
        loud = loud_frames(source, target.log_probs.shape[1])
        deeper = range(len(target.features) // 2, len(target.features))
        distances = [feature_distance(output.features[i], target.features[i]) for i in deeper]
        divergence = F.kl_div(output.log_probs, target.log_probs, log_target=True, reduction="none").sum(-1)
        distance = self.FEATURES * torch.stack(distances).mean(0) + self.POSTERIORS * divergence
        return (distance * loud).sum() / loud.sum().clamp(min=1)


def feature_distance(
    converted: Float[Tensor, "batch dim frames"], source: Float[Tensor, "batch dim frames"]
) -> Float[Tensor, "batch frames"]:
    """Mean L1 of frames standardised over their channels."""
    converted, source = (F.layer_norm(f.float().transpose(1, 2), f.shape[1:2]) for f in (converted, source))
    return (converted - source).abs().mean(-1)


def loud_frames(source: Mel, frames: int, silence_db: float = -40.0) -> Bool[Tensor, "batch shorter"]:
    """Tell which of the recogniser's frames are less than ``-silence_db`` below their clip's loudest."""
    energy = F.adaptive_avg_pool1d(frame_energy(source.detach()), frames)
    return energy >= energy.amax(-1, keepdim=True) + silence_db * math.log(10.0) / 20.0


def _check_same_bands(ours: MelConfig, its: MelConfig) -> None:
    """Refuse mels that the recogniser cannot read; windows, floors and edges may differ."""
    alike = replace(
        ours,
        n_fft=its.n_fft,
        win=its.win,
        magnitude_floor=its.magnitude_floor,
        floor=its.floor,
        padding=its.padding,
        pad_mode=its.pad_mode,
    )
    if alike != its:
        raise UserError(
            f"the content loss hears mels of {its.n_mels} bands from {its.f_min:g} to {its.f_max:g} Hz every "
            f"{its.hop} samples at {its.sample_rate} Hz, and network.mel is of {ours.n_mels} from "
            f"{ours.f_min:g} to {ours.f_max:g} Hz every {ours.hop} at {ours.sample_rate} Hz: set "
            "--task.weights.content 0, or take the definition speech16k"
        )
