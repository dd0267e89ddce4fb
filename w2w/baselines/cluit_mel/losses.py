"""Losses on mels (adversarial, energy, distance, content by a frozen recogniser) and stores of negatives."""

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
    """Negatives of one step."""

    keys: Float[Tensor, "bank dim"]
    """Keys of unit length."""
    identity: Int[Tensor, "bank"]
    """Each key's speaker label, or a number below −1 that identifies its recording."""


class SlotBank(nn.Module):
    """A memory bank with one slot per recording: the normalised running mean of its keys (Wu et al. 2018).

    Empty slots are not drawn. A recording's slot is its number modulo the number of slots.
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
        """Draw from the used slots without replacement."""
        places = self.used.nonzero()[:, 0]
        if len(places) > self.n_drawn:
            places = places[torch.randperm(len(places), device=places.device)[: self.n_drawn]]
        return Drawn(self.slots[places], self.identities[places])

    @torch.no_grad()
    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        """Update the slots of these recordings with their keys."""
        keys = F.normalize(keys.detach().float(), dim=-1)
        # In a loop: a recording may occur twice in a batch, and an indexed write would keep only one key.
        for key, label, slot in zip(keys, identity, recording % len(self.slots)):
            mean = self.slots[slot].lerp(key, 1 - self.momentum)
            self.slots[slot] = F.normalize(torch.where(self.used[slot], mean, key), dim=-1)
            self.identities[slot], self.used[slot] = label, True


class Queue(nn.Module):
    """A first-in, first-out queue of the most recent keys (He et al. 2020)."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.bank = MemoryBank(size, dim)

    def draw(self) -> Drawn:
        return Drawn(self.bank.keys, self.bank.labels)

    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        self.bank.push(F.normalize(keys.float(), dim=-1), identity)


Mel = Float[Tensor, "batch n_mels frames"]
Scores = Float[Tensor, "batch"]


def softplus_critic(real: Scores, fake: Scores) -> Float[Tensor, ""]:
    """The critic's non-saturating loss (Goodfellow et al. 2014)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def softplus_generator(fake: Scores) -> Float[Tensor, ""]:
    """The generator's non-saturating loss."""
    return F.softplus(-fake.float()).mean()


def frame_energy(mel: Mel) -> Float[Tensor, "batch frames"]:
    """Logarithm of each frame's energy, the sum over its bands."""
    return torch.logsumexp(mel.float(), dim=1)


def norm_loss(converted: Mel, source: Mel) -> Float[Tensor, ""]:
    """L1 between log frame energies; ``source`` receives no gradient.

    Logarithms, because energies range over four orders of magnitude and only the loudest frames would count.
    """
    return F.l1_loss(frame_energy(converted), frame_energy(source.detach()))


def mel_distance(mel: Mel, target: Mel, spread: float) -> Float[Tensor, ""]:
    """L1 between log-mels in units of ``spread``, their standard deviation; ``target`` receives no gradient.

    The recipe's weights are meant for images in [−1, 1], hence the scaling.
    """
    return F.l1_loss(mel.float(), target.detach().float()) / spread


def gradient_penalty(score: Scores, flat: Float[Tensor, "batch 1 all"], spread: float) -> Float[Tensor, ""]:
    """R1 penalty of the critic (Mescheder et al. 2018, eq. 9, without the factor γ/2).

    ``flat`` is the flattened mel input; the gradient is with respect to mels in units of ``spread``.
    """
    (gradient,) = torch.autograd.grad(score.sum(), flat, create_graph=True)
    return gradient.square().sum((1, 2)).mean() * spread**2


class MelContentLoss(nn.Module):
    """Content distance of two mels by a frozen phone recogniser; gradients reach only ``converted``.

    The recogniser was trained with a shorter window (400 samples, FFT 512) than that of the converter's mels
    (640, FFT 1024). Hop, bands and range are the same, and it subtracts each utterance's mean spectrum, so
    these mels are used without conversion: source and converted mel have the same window.
    """

    FEATURES, POSTERIORS = 1.0, 0.5
    """Weights of the L1 between features of the deeper half of the layers and of the KL divergence (nats)."""

    def __init__(self, mel: MelConfig) -> None:
        super().__init__()
        self.recogniser = load_recogniser()
        _check_same_bands(mel, self.recogniser.config.mel)

    def train(self, mode: bool = True) -> "MelContentLoss":
        """Stay in evaluation mode, as the recogniser is frozen."""
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
    """L1 per frame between features that are standardised over their channels."""
    converted, source = (F.layer_norm(f.float().transpose(1, 2), f.shape[1:2]) for f in (converted, source))
    return (converted - source).abs().mean(-1)


def loud_frames(source: Mel, frames: int, silence_db: float = -40.0) -> Bool[Tensor, "batch shorter"]:
    """Mask of the recogniser's frames that are less than ``-silence_db`` below the clip's loudest frame."""
    energy = F.adaptive_avg_pool1d(frame_energy(source.detach()), frames)
    return energy >= energy.amax(-1, keepdim=True) + silence_db * math.log(10.0) / 20.0


def _check_same_bands(ours: MelConfig, its: MelConfig) -> None:
    """Refuse mels of other bands, hop or rate than the recogniser's; window, floor and padding may differ."""
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
            f"the content loss needs mels of {its.n_mels} bands from {its.f_min:g} to {its.f_max:g} Hz every "
            f"{its.hop} samples at {its.sample_rate} Hz, but network.mel has {ours.n_mels} from "
            f"{ours.f_min:g} to {ours.f_max:g} Hz every {ours.hop} at {ours.sample_rate} Hz: set "
            "--task.weights.content 0, or use the definition speech16k"
        )
