"""Losses on mels: adversarial, of energies and distances, of a frozen recogniser; and the negatives."""

import math
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.frontends import MelConfig
from engine.user_error import UserError
from pretrain.recogniser import Recogniser
from w2w.cluit.bank import MemoryBank
from w2w.cluit.content_loss import ContentLossConfig, feature_distance, posterior_distance
from w2w.cluit.losses import r1
from w2w.cluit.recognisers import LocalRecogniser, open_recogniser

Keys = Float[Tensor, "batch dim"]
Numbers = Int[Tensor, "batch"]


class Drawn(NamedTuple):
    """Negatives of a step."""

    keys: Float[Tensor, "bank dim"]
    """Of unit length."""
    identity: Int[Tensor, "bank"]
    """Whose each is: a speaker's label, or a number below −1, one for each recording."""


@runtime_checkable
class Negatives(Protocol):
    """Keys that are remembered; state of the run, and every process has its own."""

    def draw(self) -> Drawn:
        """Return the negatives of this step."""
        ...

    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        """Keep a batch of keys."""
        ...


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
    """R1 of a critic of mels, whose values ``flat`` holds: its gradient by mels in units of ``spread``."""
    return r1([score], flat) * spread**2


class MelContentLoss(nn.Module):
    """Distance of what is said in two mels; gradients reach ``converted`` and nothing else.

    The recogniser was taught with a shorter window (400 samples of 512) than the converter's mels have (640
    of 1024). Hop, bands and range are the same, and it subtracts each utterance's mean spectrum, so that it
    is fed these mels as they are: both what was said and what is heard come through the same window.
    """

    def __init__(self, config: ContentLossConfig, mel: MelConfig) -> None:
        super().__init__()
        if not isinstance(config.backend, LocalRecogniser):
            kind = type(config.backend).__name__
            raise UserError(
                f"content.backend {kind} listens to waves, and this converter makes mels: use LocalRecogniser"
            )
        self.config = config
        recogniser = open_recogniser(config.backend)
        assert isinstance(recogniser, Recogniser)
        self.recogniser = recogniser
        _check_same_bands(mel, recogniser.config.mel)

    def train(self, mode: bool = True) -> "MelContentLoss":
        """Stay in evaluation mode: the judge does not change with its subject."""
        return super().train(False)

    def forward(self, converted: Mel, source: Mel) -> Float[Tensor, ""]:
        config, ear = self.config, self.recogniser
        with torch.no_grad():
            said = ear.from_normalised(ear.normalise(source.float()))
        heard = ear.from_normalised(ear.normalise(converted.float()))
        counts = loud_frames(source, said.log_probs.shape[1], config.silence_db)
        total = converted.new_zeros(())
        if config.features:
            distances = [
                feature_distance(heard.features[i], said.features[i], counts, config.distance)
                for i in self._layers(len(said.features))
            ]
            total = total + config.features * torch.stack(distances).mean()
        if config.posteriors:
            apart = posterior_distance(heard.log_probs, said.log_probs, counts)
            total = total + config.posteriors * apart
        return total

    def _layers(self, n_layers: int) -> list[int]:
        for layer in self.config.layers:
            if not -n_layers <= layer < n_layers:
                raise UserError(f"content layer {layer} does not exist: the recogniser has {n_layers}")
        return list(self.config.layers) or list(range(n_layers // 2, n_layers))


def loud_frames(source: Mel, frames: int, silence_db: float) -> Bool[Tensor, "batch heard"]:
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
