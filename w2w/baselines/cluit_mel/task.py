"""Training of CLUIT on mels (Lee, Seol and Lee 2021): contrastive loss for the voice, cycle for content."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.batches import Batch
from data.frontends import LogMel
from engine.optim import EMA, OptimConfig, Player
from engine.processes import gather
from engine.tracking import Samples
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig
from w2w.baselines.cluit_mel.augment import augmented
from w2w.baselines.cluit_mel.config import CluitMelTaskConfig
from w2w.baselines.cluit_mel.generator import CriticOutput, MelCritic
from w2w.baselines.cluit_mel.losses import (
    Drawn,
    Queue,
    SlotBank,
    frame_energy,
    gradient_penalty,
    mel_distance,
    norm_loss,
    softplus_critic,
    softplus_generator,
)
from w2w.baselines.cluit_mel.network import CluitMelConfig, CluitMelNetwork
from w2w.cluit.losses import info_nce, labelled_cross_entropy
from w2w.cluit.rows import identities

Mel = Float[Tensor, "batch n_mels frames"]


N_SHOWN = 3
"""Number of conversions in the training samples."""


def samples(network: CluitMelNetwork, mel: Mel) -> Samples:
    """Sources, their references (the previous clip) and conversions, with audio by Griffin-Lim."""
    reference = mel.roll(1, 0)[:N_SHOWN]
    source, voice = mel[:N_SHOWN], network.style_of_mel(reference)
    shown = {"source": source, "reference": reference, "converted": network(source, voice)}
    vocoder = GriffinLim(GriffinLimConfig(iterations=16), network.mel).to(mel.device)
    audio = {}
    for name in ("source", "converted"):
        for item, wave in enumerate(vocoder(shown[name].float())):
            audio[f"{name}/{item}"] = (wave, network.mel.sample_rate)
    mels = {f"{name}/{item}": one for name, batch in shown.items() for item, one in enumerate(batch)}
    return Samples(audio=audio, mels=mels)


def watch(network: CluitMelNetwork, mel: Mel) -> dict[str, float]:
    """Label-free metrics of conversion, in nepers of level-free mels, and of what is preserved.

    For a network that copies its input, ``changed_by_style`` and ``nearer_to_reference`` are 0.
    """
    style = network.style_of_mel(mel)
    converted, otherwise = (network(mel, style.roll(turn, 0)).float() for turn in (1, 2))
    reference = mel.roll(1, 0)
    ours, others = level_free(converted), level_free(otherwise)
    near = (spectrum(converted) - spectrum(reference)).abs().mean(-1)
    far = (spectrum(converted) - spectrum(mel)).abs().mean(-1)
    return {
        "changed": float((ours - level_free(mel)).abs().mean()),
        "changed_by_style": float((ours - others).abs().mean()),
        "spectrum_to_reference": float(near.mean()),
        "spectrum_to_source": float(far.mean()),
        "spectra_apart": float((spectrum(mel) - spectrum(reference)).abs().mean()),
        "nearer_to_reference": float((near < far).float().mean()),
        "cycle": float(F.l1_loss(network(converted, style).float(), mel)),
        "norm": float(norm_loss(converted, mel)),
        "finite": float(torch.isfinite(converted).all()),
    }


def level_free(mel: Mel) -> Mel:
    """The mel minus each frame's log energy."""
    return mel - frame_energy(mel)[:, None]


def spectrum(mel: Mel) -> Float[Tensor, "batch n_mels"]:
    """The mean level-free spectrum of the frames that are less than 40 dB below the loudest."""
    energy = frame_energy(mel)
    loud = (energy > energy.amax(-1, keepdim=True) - math.log(100.0)).float()[:, None]
    return (level_free(mel) * loud).sum(-1) / loud.sum(-1)


Losses = dict[str, tuple[float, Tensor]]
"""Weight and value of each loss, by name."""


class Voices(NamedTuple):
    """Labels, keys and negatives of a batch for the label and contrastive losses."""

    label: Int[Tensor, " batch"]
    """Speaker labels; −1 if unknown."""
    identity: Int[Tensor, " batch"]
    """Identity whose keys are excluded from the negatives."""
    key: Float[Tensor, "batch dim"] | None
    """Keys of the positives; None if no contrastive loss is used."""
    negatives: Drawn | None
    """Negatives of the step; None if no contrastive loss is used."""


class CluitMel:
    """The training task: generator and style encoder against one critic. ``update`` is the algorithm.

    Every clip of a batch is a source and the reference of the next clip, so its mel and style serve twice.
    """

    def __init__(
        self,
        config: CluitMelTaskConfig,
        network: CluitMelConfig,
        optim_generator: OptimConfig,
        optim_critic: OptimConfig,
        content: nn.Module | None = None,
    ) -> None:
        self.config, self.shape = config, network
        self.network = CluitMelNetwork(network)
        self.critic = MelCritic(network)
        self.network_ema = EMA(self.network, config.ema)
        self.critic_ema = EMA(self.critic, config.ema)
        self.bank = self._negatives()
        self.players = {
            "generator": Player(self.network, optim_generator, "generator"),
            "critic": Player(self.critic, optim_critic, "critic"),
        }
        self.curved = ("critic",) if config.weights.r1 else ()
        self.modules: dict[str, nn.Module] = {
            "network": self.network,
            "network_ema": self.network_ema.module,
            "critic": self.critic,
            "critic_ema": self.critic_ema.module,
            "negatives": self.bank,
        }
        self.frontend = LogMel(network.mel)
        self.frozen: dict[str, nn.Module] = {"frontend": self.frontend}
        self.content = content
        if content is not None:
            self.frozen["content"] = content
        self.spread = float(network.mel_std)
        self.last: Mel | None = None

    def _negatives(self) -> SlotBank | Queue:
        config, dim = self.config, self.shape.projection_dim
        if config.negatives == "queue":
            return Queue(config.n_negatives, dim)
        if not config.bank_slots:
            raise UserError(
                "task.bank_slots=0 is filled in from the data (train.completed): give a number here"
            )
        return SlotBank(config.bank_slots, dim, config.n_negatives, config.bank_momentum)

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step of critic and generator; a clip's reference is the previous clip of the batch."""
        with torch.no_grad():
            source = self.frontend(batch.wave)
        self.last, voices = source, self.voices(batch, source)
        style = self.network.style_of_mel(source)
        converted = self.network(source, style.roll(1, 0))

        critic, generator = Losses(), Losses()
        if self.critic_is_used:
            real, critic = self.critic_losses(source, converted.detach(), voices, step)
            self.descend("critic", critic)
            self.critic_ema.update(step)
            generator = self.adversarial_losses(converted, real, voices)
        generator |= self.mel_losses(source, style, converted)
        self.descend("generator", generator)
        self.network_ema.update(step)

        if voices.key is not None:
            self.bank.remember(*map(gather, (voices.key, voices.identity, batch.utterance)))
        named = {f"loss/generator/{name}": loss for name, (_, loss) in generator.items()}
        named |= {f"loss/critic/{name}": loss for name, (_, loss) in critic.items()}
        return {name: loss.detach() for name, loss in named.items()}

    def descend(self, player: str, losses: Losses) -> None:
        """One optimiser step of a player on the weighted sum of its losses, if any."""
        if losses:
            self.players[player].step(torch.stack([weight * loss for weight, loss in losses.values()]).sum())

    def samples(self, step: int) -> Samples:
        """Conversions of the last batch by the averaged generator."""
        assert self.last is not None
        return samples(self.averaged, self.last)

    def evaluate(self, step: int) -> dict[str, float]:
        """Label-free metrics of the averaged generator on the last batch; see ``watch``."""
        assert self.last is not None
        return watch(self.averaged, self.last)

    @property
    def averaged(self) -> CluitMelNetwork:
        network = self.network_ema.module
        assert isinstance(network, CluitMelNetwork)
        return network

    @property
    def critic_is_used(self) -> bool:
        weight = self.config.weights
        label = weight.label_generator and self.shape.n_speakers
        return bool(weight.adversarial or weight.contrast_generator or label)

    @torch.no_grad()
    def voices(self, batch: Batch, source: Mel) -> Voices:
        """The batch's labels and identities, the averaged critic's keys of the positives, and the negatives.

        Keys of the same identity are excluded from the negatives. The identity is the label if it is known
        and ``mask_same_speaker`` is set, else a number below −1 for each recording.
        """
        config, label = self.config, batch.speaker
        identity = identities(label, batch.utterance, config.mask_same_speaker)
        if not (config.weights.contrast_critic or config.weights.contrast_generator):
            return Voices(label, identity, None, None)
        key = self.critic_ema.module(augmented(source, config.augment)).projection.float()
        return Voices(label, identity, key, self.bank.draw())

    def critic_losses(
        self, source: Mel, converted: Mel, voices: Voices, step: int
    ) -> tuple[CriticOutput, Losses]:
        """The critic's losses: adversarial, contrastive, label and gradient penalty.

        Also returns the critic's output for the real clips.
        """
        weight, config, losses = self.config.weights, self.config, Losses()
        penalised = weight.r1 > 0 and step % config.r1_every == 0
        flat = source.flatten(1)[:, None].requires_grad_(penalised)
        real = self.critic(flat.view_as(source))
        if weight.adversarial:
            adversarial = softplus_critic(real.score, self.critic(converted).score)
            losses["adversarial"] = weight.adversarial, adversarial
        if weight.contrast_critic and voices.key is not None:
            contrast = self.contrast(real.projection, voices.key, voices.identity, voices.negatives)
            losses["contrast"] = weight.contrast_critic, contrast
        if weight.label_critic and self.shape.n_speakers:
            losses["label"] = weight.label_critic, labelled_cross_entropy(real.speakers, voices.label)
        if penalised:
            penalty = gradient_penalty(real.score, flat, self.spread)
            losses["r1"] = 0.5 * weight.r1 * config.r1_every, penalty
        return real, losses

    def adversarial_losses(self, converted: Mel, real: CriticOutput, voices: Voices) -> Losses:
        """The generator's losses by the critic: adversarial, contrastive to the reference, and its label."""
        weight, losses = self.config.weights, Losses()
        fake = self.critic(converted)
        if weight.adversarial:
            losses["adversarial"] = weight.adversarial, softplus_generator(fake.score)
        if weight.contrast_generator:
            # The projection from before the critic's step: one update old, but saves a forward pass.
            target, identity = real.projection.detach().roll(1, 0), voices.identity.roll(1)
            contrast = self.contrast(fake.projection, target, identity, voices.negatives)
            losses["contrast"] = weight.contrast_generator, contrast
        if weight.label_generator and self.shape.n_speakers:
            label = labelled_cross_entropy(fake.speakers, voices.label.roll(1))
            losses["label"] = weight.label_generator, label
        return losses

    def mel_losses(self, source: Mel, style: Float[Tensor, "batch style"], converted: Mel) -> Losses:
        """The generator's losses on mels: cycle, reconstruction, norm and content."""
        weight, losses = self.config.weights, Losses()
        if weight.cycle:
            losses["cycle"] = weight.cycle, self.distance(self.network(converted, style), source)
        if weight.reconstruction:
            losses["reconstruction"] = (
                weight.reconstruction,
                self.distance(self.network(source, style), source),
            )
        if weight.norm:
            losses["norm"] = weight.norm, norm_loss(converted, source)
        if weight.content and self.content is not None:
            losses["content"] = weight.content, self.content(converted, source)
        return losses

    def contrast(self, query: Tensor, positive: Tensor, identity: Tensor, negatives: Drawn | None) -> Tensor:
        """InfoNCE with this run's temperature, without negatives of the query's own identity."""
        assert negatives is not None
        return info_nce(
            query,
            positive,
            negatives.keys,
            temperature=self.config.temperature,
            query_label=identity,
            negative_label=negatives.identity,
        )

    def distance(self, mel: Mel, target: Mel) -> Tensor:
        return mel_distance(mel, target, self.spread)
