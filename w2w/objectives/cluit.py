"""CLUIT for waves: contrast tells the converter whose voice, reconstruction teaches it to speak."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.batches import Batch
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from w2w.networks.content import Content
from w2w.networks.critic import Critic, CriticConfig
from w2w.networks.network import ConverterConfig, ConverterNetwork, move, voiced
from w2w.networks.pitch import Pitch
from w2w.objectives import showcase
from w2w.objectives.bank import MemoryBank
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
from w2w.objectives.perturb import level_and_sign, other_speeds

Wave = Float[Tensor, "batch 1 samples"]
Scalars = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weight of every loss; 0 switches it off, and what only it needs is not computed."""

    reconstruction: float = 10.0
    """The utterance with its own style, multi-resolution spectral distance."""
    adversarial: float = 1.0
    """The converted wave against the critic."""
    feature_matching: float = 2.0
    """The critic's features of the reconstruction against the utterance's."""
    contrast_critic: float = 0.1
    """Critic: projections of one voice near each other, against the bank (CLUIT)."""
    contrast_converter: float = 1.0
    """Converter: the converted wave's projection near the reference's, against the bank (CLUIT)."""
    contrast_style: float = 0.3
    """Style encoder: two clips of one voice near each other, other voices far."""
    contrast_voice: float = 1.0
    """Converter: the converted wave's style near the reference's, far from the source's and the others'."""
    cycle_code: float = 1.0
    """The converted wave's codes against the source's."""
    cycle_wave: float = 0.0
    """The converted wave converted back, spectral distance to the source (can hurt: RECIPES of NVC-Net)."""
    norm: float = 0.5
    """Frame energies of converted and source."""
    content: float = 1.0
    """Distance in a frozen recogniser, features and posteriors (weighted among themselves in ``content``)."""
    label_critic: float = 0.0
    """Critic: cross-entropy of the speaker label; unlabelled items do not count. Needs critic.n_speakers."""
    label_converter: float = 0.0
    """Converter: cross-entropy of the reference's speaker label."""
    r1: float = 0.0
    """Critic: gradient penalty γ on real waves, applied lazily."""


@dataclass(frozen=True, kw_only=True)
class CLUITConfig:
    """The algorithm around the networks."""

    weights: Weights = field(default_factory=Weights)
    """Of the losses."""
    gan: Literal["hinge", "least_squares"] = "hinge"
    """Form of the adversarial loss."""
    keys: Literal["bank", "moco"] = "moco"
    """Where the bank's keys come from: the critic itself, or its exponential moving average (MoCo)."""
    bank_size: int = 2048
    """Keys in the memory bank."""
    mask_same_speaker: bool = True
    """Take keys of the query's own speaker out of the negatives, where labels exist."""
    temperature: float = 0.07
    """Of all contrastive losses."""
    critic_every: int = 2
    """The critic descends every n-th step."""
    adversary_from: int = 1_000
    """Step before which the critic is not heard (nor trained)."""
    convert_from: int = 500
    """Step before which nothing is converted: reconstruction alone."""
    critic_samples: int = 16_384
    """Length of the windows that the critic hears."""
    critic_batch: int = 6
    """How many items of a batch the critic hears; 0: all."""
    r1_every: int = 16
    """Steps between gradient penalties."""
    warp: float = 0.18
    """The encoder hears formants moved at random by up to this share, lest the code carry the voice."""
    code_noise: float = 0.1
    """Standard deviation of noise on the unit-length code in training: narrows the bottleneck further."""
    speeds: tuple[float, ...] = (0.88, 0.94, 1.0, 1.07, 1.14)
    """Speeds at which clips are played: each makes another voice of a speaker. One entry leaves them alone."""
    gain_db: float = 9.0
    """Training clips are up to this much louder or softer, and of either sign."""
    ema: float = 0.999
    """Decay of the averaged converter (the one for use) and of the MoCo critic."""


class Encoded(NamedTuple):
    """What is taken from a source before a voice is chosen."""

    content: Content
    pitch: Pitch
    usual: Float[Tensor, "batch 1 frames"]


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
    ) -> None:
        self.config, self.shape = config, converter
        self.converter = ConverterNetwork(converter)
        self.projector = nn.Linear(converter.style.voice_dim - 1, 128)
        # A speaker at another speed is another voice to the label head, too.
        self.critic = Critic(replace(critic, n_speakers=critic.n_speakers * max(len(config.speeds), 1)))
        self.converter_ema = EMA(self.converter, config.ema)
        self.projector_ema = EMA(self.projector, config.ema)
        self.critic_ema = EMA(self.critic, config.ema)
        self.bank = MemoryBank(config.bank_size, critic.projection_dim)
        self.voices = MemoryBank(config.bank_size, 128)
        self.players = {
            "converter": Player([self.converter, self.projector], optim_converter, "converter"),
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
        wave, other, label = self.perturb(batch)
        target_label = label.roll(1)
        scalars: Scalars = {}

        encoded = self.encode(wave)
        timbre = self.converter.style.timbre(self.converter.style.analysis(other))
        mean_log_f0 = self.converter.style.mean_log_f0(other)
        own = torch.cat([timbre, mean_log_f0], dim=-1)
        rebuilt = self.decode(encoded, own, wave.shape[-1], own_pitch=True)
        total = weight.reconstruction * self.term(scalars, "reconstruction", self.distance(rebuilt, wave))
        contrast, key = self.contrast_styles(scalars, timbre, wave, label)
        total = total + contrast

        reference, converted = other.roll(1, 0), None
        self.last = wave, reference
        if step >= config.convert_from:
            voice = own.roll(1, 0)
            converted = self.decode(encoded, voice, wave.shape[-1])
            total = total + self.content_terms(scalars, converted, wave, encoded)
            total = total + self.voice_terms(scalars, converted, key, label, target_label)
        if converted is not None and step >= config.adversary_from:
            heard = self.windows(wave, rebuilt, converted, reference, wave.roll(1, 0))
            labels = target_label[: len(heard[0])]
            if step % config.critic_every == 0 and self.critic_is_used:
                self.players["critic"].descend(self.critic_loss(scalars, heard, labels, step))
                self.critic_ema.update(step)
            total = total + self.adversary_terms(scalars, heard, labels)

        self.players["converter"].descend(total)
        self.converter_ema.update(step)
        self.projector_ema.update(step)
        return {f"loss/{name}": value.detach() for name, value in scalars.items()}

    def samples(self, step: int) -> Samples:
        """Sounds and pictures of the averaged converter on the last batch."""
        assert self.last is not None
        return showcase.samples(self.converter_ema.module, *self.last)  # pyright: ignore[reportArgumentType]

    def evaluate(self, step: int) -> dict[str, float]:
        """Whether the averaged converter converts the last batch."""
        assert self.last is not None
        return showcase.watch(self.converter_ema.module, *self.last)  # pyright: ignore[reportArgumentType]

    # What follows are the paragraphs of the algorithm, in its order.

    def perturb(self, batch: Batch) -> tuple[Wave, Wave, Tensor]:
        """Change level and sign, which are no part of a voice, and speed, which makes it another one."""
        gain_db, speeds = self.config.gain_db, self.config.speeds
        waves = level_and_sign(batch.wave, gain_db), level_and_sign(batch.other, gain_db)
        (wave, other), label = other_speeds(waves, batch.speaker, speeds)
        return wave, other, label

    def encode(self, wave: Wave, *, perturbed: bool = True) -> Encoded:
        """Codes, energy, F0 and its running mean, all lagging by the look-ahead."""
        net, config = self.converter, self.config
        led = net.lead(wave)
        warp = None
        if perturbed and config.warp:
            warp = 1.0 + config.warp * (2 * torch.rand(len(wave), device=wave.device) - 1)
        code, energy = net.content(led, warp)
        if perturbed and config.code_noise:
            code = code + config.code_noise * torch.randn_like(code)
        pitch = net.pitch(led)
        return Encoded(Content(code, energy), pitch, net.usual_pitch(pitch.log_f0, voiced(pitch)))

    def decode(
        self, encoded: Encoded, voice: Float[Tensor, "batch voice"], samples: int, *, own_pitch: bool = False
    ) -> Wave:
        """Speak what was encoded, at its own pitch or at the voice's."""
        net = self.converter
        pitch = encoded.pitch if own_pitch else move(encoded.pitch, encoded.usual, voice.detach())
        wave, _ = net.decoder.step(encoded.content, pitch, voice, net.decoder.begin(len(voice), random=True))
        return wave[..., self.shape.look_ahead :][..., :samples]

    def term(self, scalars: Scalars, name: str, value: Tensor) -> Tensor:
        """Note a loss under its name and return it."""
        scalars[f"converter/{name}"] = value
        return value

    def contrast_styles(
        self, scalars: Scalars, timbre: Tensor, wave: Wave, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Two clips of one voice have one style: the style encoder's own contrast. Also return the sources' keys."""
        weight = self.config.weights
        if not (weight.contrast_style or weight.contrast_voice):
            return timbre.new_zeros(()), timbre.new_zeros(len(wave), 0)
        with torch.no_grad():
            style = self.converter_ema.module.style
            key = F.normalize(self.projector_ema.module(style.timbre(style.analysis(wave))).float(), dim=-1)
        negatives, speakers = self.negatives(self.voices, key.roll(1, 0), label.roll(1))
        loss = self.contrast(self.projector(timbre), key, negatives, label, speakers)
        self.voices.push(key, label)
        return weight.contrast_style * self.term(scalars, "contrast_style", loss), key

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
            back = self.decode(encoded._replace(content=Content(code, energy)), voice, wave.shape[-1], own_pitch=True)
            total = total + weight.cycle_wave * self.term(scalars, "cycle_wave", self.distance(back, wave))
        if weight.content and self.content_loss is not None:
            total = total + weight.content * self.term(scalars, "content", self.content_loss(converted, wave))
        return total

    def voice_terms(
        self, scalars: Scalars, converted: Wave, key: Tensor, label: Tensor, target_label: Tensor
    ) -> Tensor:
        """The converted wave's style near the target's, far from the source's and all others': by averaged judges."""
        weight = self.config.weights
        if not weight.contrast_voice:
            return converted.new_zeros(())
        style, project = self.converter_ema.module.style, self.projector_ema.module
        query = project(style.timbre(style.analysis(converted)))
        negatives, speakers = self.negatives(self.voices, key, label)
        loss = self.contrast(query, key.roll(1, 0), negatives, target_label, speakers)
        return weight.contrast_voice * self.term(scalars, "contrast_voice", loss)

    def negatives(self, bank: MemoryBank, keys: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The bank's keys, and some of this batch's."""
        return torch.cat([bank.keys, F.normalize(keys, dim=-1)]), torch.cat([bank.labels, labels])

    def contrast(
        self, query: Tensor, positive: Tensor, negatives: Tensor, label: Tensor, speakers: Tensor
    ) -> Tensor:
        """InfoNCE with this run's temperature and masking."""
        masked = self.config.mask_same_speaker
        return info_nce(
            query,
            positive,
            negatives,
            temperature=self.config.temperature,
            query_label=label if masked else None,
            negative_label=speakers if masked else None,
        )

    @property
    def critic_is_used(self) -> bool:
        """Whether any loss listens to the critic."""
        weight = self.config.weights
        names = ("adversarial", "feature_matching", "contrast_critic", "contrast_converter", "label_converter")
        return any(getattr(weight, name) for name in names)

    def windows(self, *waves: Wave) -> list[Wave]:
        """One random stretch of each wave, of the same place, for the items that the critic hears."""
        length = min(self.config.critic_samples, waves[0].shape[-1])
        n_items = self.config.critic_batch or len(waves[0])
        start = int(torch.randint(waves[0].shape[-1] - length + 1, ()))
        place = slice(start, start + length)
        return [wave[:n_items, :, place if wave.shape[-1] >= start + length else slice(-length, None)] for wave in waves]

    def critic_loss(self, scalars: Scalars, heard: list[Wave], label: Tensor, step: int) -> Tensor:
        """Critic: tell real from converted, hold each voice's projections together, name labelled speakers."""
        weight, config = self.config.weights, self.config
        _, _, converted, reference, positive = heard
        penalised = weight.r1 > 0 and step % config.r1_every == 0
        reference = reference.detach().requires_grad_(penalised)
        real, fake = self.critic(reference), self.critic(converted.detach())
        adversarial = self.loss_critic(real.scores, fake.scores)
        scalars["critic/adversarial"] = adversarial
        total = weight.adversarial * adversarial
        if weight.contrast_critic or weight.contrast_converter:
            keys = self.critic_ema.module if config.keys == "moco" else self.critic
            with torch.no_grad():
                key = keys(positive).projection
            negatives, speakers = self.negatives(self.bank, key.roll(1, 0), label.roll(1))
            loss = self.contrast(real.projection, key, negatives, label, speakers)
            scalars["critic/contrast"] = loss
            total = total + weight.contrast_critic * loss
            self.bank.push(key, label)
        if weight.label_critic:
            named = labelled_cross_entropy(real.speakers, label)
            scalars["critic/label"] = named
            total = total + weight.label_critic * named
        if penalised:
            penalty = r1(real.scores, reference)
            scalars["critic/r1"] = penalty
            total = total + 0.5 * weight.r1 * config.r1_every * penalty
        return total

    def adversary_terms(self, scalars: Scalars, heard: list[Wave], label: Tensor) -> Tensor:
        """Converter: sound real, sound like the reference, and rebuild what the critic hears in the utterance."""
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
            negatives, speakers = self.bank.keys, self.bank.labels
            loss = self.contrast(fake.projection, target, negatives, label, speakers)
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
