"""CLUIT for waves: contrast tells the converter whose voice, reconstruction teaches it to speak."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.batches import Batch
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from w2w.networks.content import Content
from w2w.networks.critic import Critic, CriticConfig
from w2w.networks.network import ConverterConfig, ConverterNetwork
from w2w.networks.style import StyleEncoder
from w2w.objectives import showcase
from w2w.objectives.bank import MemoryBank
from w2w.objectives.cluit_config import CLUITConfig
from w2w.objectives.halves import Encoded, decode, encode
from w2w.objectives.losses import (
    SpectralDistance,
    energy_distance,
    feature_matching,
    hinge_converter,
    hinge_critic,
    info_nce,
    labelled_cross_entropy,
    least_squares_converter,
    least_squares_critic,
    r1,
)
from w2w.objectives.perturb import level_and_sign, other_speeds, same_stretch
from w2w.pretrained import PretrainedConfig, begin, gentle

Wave = Float[Tensor, "batch 1 samples"]
Scalars = dict[str, Tensor]


class CLUIT:
    """The task: one converter, one critic, a memory bank. ``update`` is the algorithm."""

    def __init__(
        self,
        config: CLUITConfig,
        converter: ConverterConfig,
        critic: CriticConfig,
        optim_converter: OptimConfig,
        optim_critic: OptimConfig,
        content_loss: nn.Module | None = None,
        pretrained: PretrainedConfig = PretrainedConfig(),  # noqa: B008 - frozen
    ) -> None:
        self.config, self.shape = config, converter
        self.converter = begin(ConverterNetwork(converter), pretrained)
        self.projector = nn.Linear(converter.style.voice_dim - 1, 128)
        # A speaker at another speed is another voice to the label head, too.
        self.critic = Critic(replace(critic, n_speakers=critic.n_speakers * max(len(config.speeds), 1)))
        self.converter_ema = EMA(self.converter, config.ema)
        self.projector_ema = EMA(self.projector, config.ema)
        self.critic_ema = EMA(self.critic, config.ema)
        self.bank = MemoryBank(config.bank_size, critic.projection_dim)
        self.voices = MemoryBank(config.bank_size, 128)
        self.players = {
            "converter": gentle([self.converter, self.projector], optim_converter, pretrained),
            "critic": Player(self.critic, optim_critic, "critic"),
        }
        self.modules: dict[str, nn.Module] = {
            "converter": self.converter,
            "converter_ema": self.converter_ema.module,
            "projector": self.projector,
            "projector_ema": self.projector_ema.module,
            "critic": self.critic,
            "critic_ema": self.critic_ema.module,
            "bank": self.bank,
            "voices": self.voices,
        }
        self.distance = SpectralDistance(converter.sample_rate)
        self.frozen: dict[str, nn.Module] = {"distance": self.distance}
        self.content_loss = content_loss
        if content_loss is not None:
            self.frozen["content"] = content_loss
        self.last: tuple[Wave, Wave] | None = None
        hinge = config.gan == "hinge"
        self.loss_critic = hinge_critic if hinge else least_squares_critic
        self.loss_converter = hinge_converter if hinge else least_squares_converter

    def update(self, batch: Batch, step: int) -> Scalars:
        """One step of both players on a batch; the references are the batch's own voices, turned by one."""
        config, weight = self.config, self.config.weights
        wave, other, label, identity = self.perturb(batch)
        scalars: Scalars = {}

        encoded = encode(self.converter, wave, warp=config.warp, noise=config.code_noise)
        timbre = self.converter.style.timbre_of(other)
        mean_log_f0 = self.converter.style.mean_log_f0(other)
        own = torch.cat([timbre, mean_log_f0], dim=-1)
        rebuilt = decode(self.converter, encoded, own, wave.shape[-1], own_pitch=True)
        total = wave.new_zeros(())
        if weight.reconstruction:
            apart = self.term(scalars, "reconstruction", self.distance(rebuilt, wave))
            total = total + weight.reconstruction * apart
        contrast, key = self.contrast_styles(scalars, timbre, wave, identity)
        total = total + contrast

        reference, converted = other.roll(1, 0), None
        self.last = wave, reference
        if step >= config.convert_from:
            voice = own.roll(1, 0)
            converted = decode(self.converter, encoded, voice, wave.shape[-1])
            total = total + self.content_terms(scalars, converted, wave, encoded)
            total = total + self.voice_terms(scalars, converted, key, identity)
        if converted is not None and step >= config.adversary_from:
            waves = wave, rebuilt, converted, reference, wave.roll(1, 0)
            heard = same_stretch(waves, config.critic_samples, config.critic_batch)
            labels, identities = (of.roll(1)[: len(heard[0])] for of in (label, identity))
            if step % config.critic_every == 0 and self.critic_is_used:
                loss = self.critic_loss(scalars, heard, labels, identities, step)
                self.descend("critic", loss)
                self.critic_ema.update(step)
            total = total + self.adversary_terms(scalars, heard, labels, identities)

        self.descend("converter", total)
        self.converter_ema.update(step)
        self.projector_ema.update(step)
        return {f"loss/{name}": value.detach() for name, value in scalars.items()}

    def descend(self, player: str, loss: Tensor) -> None:
        """Let a player descend, if any loss with a weight has been heard so far."""
        if loss.requires_grad:
            self.players[player].descend(loss)

    def samples(self, step: int) -> Samples:
        """Sounds and pictures of the averaged converter on the last batch."""
        assert self.last is not None
        return showcase.samples(self.converter_ema.module, *self.last)  # pyright: ignore[reportArgumentType]

    def evaluate(self, step: int) -> dict[str, float]:
        """Whether the averaged converter converts the last batch."""
        assert self.last is not None
        return showcase.watch(self.converter_ema.module, *self.last)  # pyright: ignore[reportArgumentType]

    # What follows are the paragraphs of the algorithm, in its order.

    def perturb(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Change level and sign, which are no part of a voice, and speed, which makes it another one.

        Return clips, labels (-1: not known), and identities: the labels where known and to be masked, else
        numbers below -1, one for each recording.
        """
        gain_db, speeds = self.config.gain_db, self.config.speeds
        waves = level_and_sign(batch.wave, gain_db), level_and_sign(batch.other, gain_db)
        (wave, other), speed = other_speeds(waves, speeds)
        n_speeds = max(len(speeds), 1)
        label = torch.where(batch.speaker < 0, batch.speaker, batch.speaker * n_speeds + speed)
        recording = -2 - (batch.utterance * n_speeds + speed)
        masked = (label >= 0) & self.config.mask_same_speaker
        return wave, other, label, torch.where(masked, label, recording)

    def term(self, scalars: Scalars, name: str, value: Tensor) -> Tensor:
        """Note a loss under its name and return it."""
        scalars[f"converter/{name}"] = value
        return value

    def contrast_styles(
        self, scalars: Scalars, timbre: Tensor, wave: Wave, identity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Two clips of one voice have one style: the style encoder's own contrast. Return the keys, too."""
        weight = self.config.weights
        if not (weight.contrast_style or weight.contrast_voice):
            return timbre.new_zeros(()), timbre.new_zeros(len(wave), 0)
        with torch.no_grad():
            key = F.normalize(self.judged(wave).float(), dim=-1)
        total = timbre.new_zeros(())
        if weight.contrast_style:
            negatives = self.negatives(self.voices, key.roll(1, 0), identity.roll(1))
            loss = self.contrast(self.projector(timbre), key, identity, *negatives)
            total = weight.contrast_style * self.term(scalars, "contrast_style", loss)
        self.voices.push(key, identity)
        return total, key

    def judged(self, wave: Wave) -> Tensor:
        """The voice of a wave as the averaged style encoder hears it; gradients pass through to the wave."""
        style: StyleEncoder = self.converter_ema.module.style  # pyright: ignore[reportAssignmentType]
        return self.projector_ema.module(style.timbre_of(wave))

    def content_terms(self, scalars: Scalars, converted: Wave, wave: Wave, encoded: Encoded) -> Tensor:
        """What was said, and how loudly, must survive conversion."""
        weight, net, total = self.config.weights, self.converter, converted.new_zeros(())
        if weight.cycle_code or weight.norm or weight.cycle_wave:
            code, energy = net.content(net.lead(converted))
            said = encoded.content
        if weight.cycle_code:
            audible = torch.sigmoid(2.0 * (said.energy + 3.0))
            apart = 1.0 - F.cosine_similarity(code, said.code.detach(), dim=1, eps=1e-4)[:, None]
            cycle = (apart * audible).sum() / audible.sum().clamp_min(1.0)
            total = total + weight.cycle_code * self.term(scalars, "cycle_code", cycle)
        if weight.norm:
            norm = energy_distance(energy, said.energy)
            total = total + weight.norm * self.term(scalars, "norm", norm)
        if weight.cycle_wave:
            voice = net.style(wave)
            again = encoded._replace(content=Content(code, energy))
            back = decode(net, again, voice, wave.shape[-1], own_pitch=True)
            total = total + weight.cycle_wave * self.term(scalars, "cycle_wave", self.distance(back, wave))
        if weight.content and self.content_loss is not None:
            total = total + weight.content * self.term(scalars, "content", self.content_loss(converted, wave))
        return total

    def voice_terms(self, scalars: Scalars, converted: Wave, key: Tensor, identity: Tensor) -> Tensor:
        """The converted wave's style near the target's, far from all others', as averaged judges hear it."""
        weight = self.config.weights
        if not weight.contrast_voice:
            return converted.new_zeros(())
        negatives = self.negatives(self.voices, key, identity)
        loss = self.contrast(self.judged(converted), key.roll(1, 0), identity.roll(1), *negatives)
        return weight.contrast_voice * self.term(scalars, "contrast_voice", loss)

    def negatives(self, bank: MemoryBank, keys: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
        """The bank's keys and this batch's, and whose they are."""
        return torch.cat([bank.keys, F.normalize(keys, dim=-1)]), torch.cat([bank.labels, identity])

    def contrast(
        self, query: Tensor, positive: Tensor, identity: Tensor, negatives: Tensor, theirs: Tensor
    ) -> Tensor:
        """InfoNCE with this run's temperature; nobody is his own negative."""
        return info_nce(
            query,
            positive,
            negatives,
            temperature=self.config.temperature,
            query_label=identity,
            negative_label=theirs,
        )

    @property
    def critic_is_used(self) -> bool:
        """Whether any loss listens to the critic."""
        weight = self.config.weights
        contrast = weight.contrast_critic or weight.contrast_converter
        return bool(weight.adversarial or weight.feature_matching or contrast or weight.label_converter)

    def critic_loss(
        self, scalars: Scalars, heard: list[Tensor], label: Tensor, identity: Tensor, step: int
    ) -> Tensor:
        """Critic: tell real from converted, hold each voice's projections together, name known speakers."""
        weight, config = self.config.weights, self.config
        _, _, converted, reference, positive = heard
        penalised = weight.r1 > 0 and step // config.critic_every % config.r1_every == 0
        reference = reference.detach().requires_grad_(penalised)
        real, total = self.critic(reference), reference.new_zeros(())
        if weight.adversarial:
            adversarial = self.loss_critic(real.scores, self.critic(converted.detach()).scores)
            scalars["critic/adversarial"] = adversarial
            total = total + weight.adversarial * adversarial
        if weight.contrast_critic or weight.contrast_converter:
            keys = self.critic_ema.module if config.keys == "moco" else self.critic
            with torch.no_grad():
                key = keys(positive).projection
            if weight.contrast_critic:
                negatives = self.negatives(self.bank, key.roll(1, 0), identity.roll(1))
                loss = self.contrast(real.projection, key, identity, *negatives)
                scalars["critic/contrast"] = loss
                total = total + weight.contrast_critic * loss
            self.bank.push(key, identity)
        if weight.label_critic:
            named = labelled_cross_entropy(real.speakers, label)
            scalars["critic/label"] = named
            total = total + weight.label_critic * named
        if penalised:
            penalty = r1(real.scores, reference)
            scalars["critic/r1"] = penalty
            total = total + 0.5 * weight.r1 * config.r1_every * penalty
        return total

    def adversary_terms(
        self, scalars: Scalars, heard: list[Tensor], label: Tensor, identity: Tensor
    ) -> Tensor:
        """Converter: sound real, sound like the reference, rebuild what the critic hears in the utterance."""
        weight, total = self.config.weights, heard[0].new_zeros(())
        wave, rebuilt, converted, reference, _ = heard
        if weight.adversarial or weight.contrast_converter or weight.label_converter:
            fake = self.critic(converted)
        if weight.adversarial:
            fool = self.loss_converter(fake.scores)
            total = total + weight.adversarial * self.term(scalars, "adversarial", fool)
        if weight.contrast_converter:
            with torch.no_grad():
                target = self.critic(reference).projection
            loss = self.contrast(fake.projection, target, identity, self.bank.keys, self.bank.labels)
            total = total + weight.contrast_converter * self.term(scalars, "contrast", loss)
        if weight.label_converter:
            named = labelled_cross_entropy(fake.speakers, label)
            total = total + weight.label_converter * self.term(scalars, "label", named)
        if weight.feature_matching:
            with torch.no_grad():
                real = self.critic(wave).features
            matched = feature_matching(real, self.critic(rebuilt).features)
            total = total + weight.feature_matching * self.term(scalars, "feature_matching", matched)
        return total
