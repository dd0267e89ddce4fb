"""CLUIT for waves: reconstruction and pairs train the synthesis, contrastive losses train the voice."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.audio.sinc import resample
from data.augment import Augment
from data.causal_mel import SILENCE, frame_energy
from data.pairs import HumanAndPairs
from engine.optim import EMA, OptimConfig, Player
from engine.processes import gather
from engine.tracking import Samples
from pretrain.pitch.tracker import Pitch
from pretrain.teacher import Teacher, at_times
from w2w.cluit import samples
from w2w.cluit.adversary import Adversary, Discriminator, DiscriminatorConfig
from w2w.cluit.config import CLUITConfig
from w2w.cluit.losses import (
    COMPARISONS,
    ON_OUTPUT,
    THROUGH_DISCRIMINATOR,
    LossBalancer,
    MemoryBank,
    Wave,
    audible_frames,
    cosine_distance,
    energy_distance,
)
from w2w.cluit.rows import Utterances, device_generator, lay_out
from w2w.networks.config import ConverterConfig
from w2w.networks.network import ConverterNetwork, Encoded, shift_pitch
from w2w.networks.style import StyleEncoder
from w2w.pretrained import GentlePlayer, PretrainedConfig, begin, tuned

Losses = dict[str, Tensor]

FULL_LEVEL_DBFS = -23.0
"""dBFS RMS, over its louder half, of speech whose loudest log mel magnitude is 0."""
KEY_DIM = 128
"""Dimension of a style embedding in the contrastive losses."""


class CLUIT(Adversary):
    """The training task: one converter, one discriminator, two memory banks. ``update`` is the algorithm."""

    def __init__(
        self,
        config: CLUITConfig,
        converter: ConverterConfig,
        discriminator: DiscriminatorConfig,
        optim_converter: OptimConfig,
        optim_discriminator: OptimConfig,
        *,
        teacher: Teacher | None = None,
        pretrained: PretrainedConfig = PretrainedConfig(),  # noqa: B008 - frozen
    ) -> None:
        self.config, self.teacher = config, teacher
        self.converter = begin(ConverterNetwork(converter), pretrained)
        self.projector = nn.Linear(converter.style.voice_dim - 1, KEY_DIM)
        self.teacher_head = nn.Conv1d(converter.content.dim, teacher.dim if teacher else 1, 1)
        # A speaker at another speed is another class of the label head.
        n_labels = discriminator.n_speakers * max(len(config.speeds), 1)
        self.discriminator = Discriminator(replace(discriminator, n_speakers=n_labels))
        self.converter_ema = EMA(self.converter, config.ema)
        self.projector_ema = EMA(self.projector, config.ema)
        self.discriminator_ema = EMA(self.discriminator, config.ema)
        self.bank = MemoryBank(config.bank_size, discriminator.projection_dim)
        self.voices = MemoryBank(config.bank_size, KEY_DIM)
        self.balancer = LossBalancer(ON_OUTPUT)
        learners = [self.converter, self.projector, self.teacher_head]
        self.players = {
            "converter": GentlePlayer(
                learners,
                optim_converter,
                "converter",
                gentle=tuned(self.converter, pretrained),
                rate=pretrained.rate,
                frozen_updates=pretrained.frozen_steps,
            ),
            "discriminator": Player(self.discriminator, optim_discriminator, "discriminator"),
        }
        self.modules: dict[str, nn.Module] = {
            "converter": self.converter,
            "converter_ema": self.converter_ema.module,
            "projector": self.projector,
            "projector_ema": self.projector_ema.module,
            "teacher_head": self.teacher_head,
            "discriminator": self.discriminator,
            "discriminator_ema": self.discriminator_ema.module,
            "bank": self.bank,
            "voices": self.voices,
            "balancer": self.balancer,
        }
        weights, rate = config.weights, converter.sample_rate
        self.comparisons = {name: make(rate) for name, make in COMPARISONS.items() if getattr(weights, name)}
        frozen = {**self.comparisons, "teacher": teacher}
        self.frozen = {name: module for name, module in frozen.items() if module is not None}
        self.augment = Augment(config.augment, converter.sample_rate)
        self.reference_augment = Augment(config.reference_augment, converter.sample_rate)
        self.last: tuple[Wave, Wave] | None = None

    def update(self, batch: HumanAndPairs, step: int) -> dict[str, Tensor]:
        """One step of both players: encode and decode every row once, then descend the losses."""
        rows = self.utterances(batch, step)
        encoded = self.encode(rows)
        timbre, mean_log_f0 = self.styles(rows)
        output = self.decode(rows, encoded, torch.cat([timbre, mean_log_f0], dim=-1))

        losses = self.reconstruction_losses(rows, output)
        losses |= self.content_losses(rows, encoded, output)
        losses |= self.voice_losses(rows, timbre, output)
        losses |= self.pitch_losses(rows, encoded, mean_log_f0)
        discriminator = {}
        if step >= self.config.adversary_from and self.discriminator_is_used:
            real, fake, target = self.windows(rows, output)
            if step % self.config.discriminator_every == 0:
                discriminator = self.discriminator_losses(rows, real, fake)
                if discriminator:
                    self.players["discriminator"].step(self.total(discriminator))
                self.discriminator_ema.update(step)
            losses |= self.adversarial_losses(rows, real, fake, target)

        if losses:
            on_output = {name: loss for name, loss in losses.items() if name in ON_OUTPUT}
            direct = {name: loss for name, loss in losses.items() if name not in ON_OUTPUT}
            balanced = self.balancer(on_output, self.shares(step), output)
            self.players["converter"].step(balanced + self.total(direct))
        self.converter_ema.update(step)
        self.projector_ema.update(step)
        self.last = rows.truth[: rows.human], rows.reference[rows.target][: rows.human]
        named = {f"loss/converter/{name}": loss for name, loss in losses.items()}
        named |= {f"loss/discriminator/{name}": loss for name, loss in discriminator.items()}
        return {name: loss.detach() for name, loss in named.items()}

    def total(self, losses: Losses) -> Float[Tensor, ""]:
        """Weighted sum of the losses; 0 if there is none."""
        weighted = (getattr(self.config.weights, name) * loss for name, loss in losses.items())
        return sum(weighted, torch.zeros(()).to(self.bank.keys))

    def shares(self, step: int) -> dict[str, float]:
        """Share of each loss in the output's gradient; linear ramp for those through the discriminator."""
        shares: dict[str, float] = dict(vars(self.config.weights))
        ramp = min((step + 1 - self.config.adversary_from) / self.config.adversary_warmup, 1.0)
        return shares | {name: shares[name] * ramp for name in THROUGH_DISCRIMINATOR}

    def utterances(self, batch: HumanAndPairs, step: int) -> Utterances:
        net: ConverterNetwork = self.converter_ema.module  # pyright: ignore[reportAssignmentType]
        return lay_out(batch, step, self.config, net)

    def encode(self, rows: Utterances) -> Encoded:
        """Content of the augmented source, with random formants and initial level; F0 of the ground truth."""
        config, n_rows, device = self.config, len(rows.source), rows.source.device
        source = self.augment(rows.source, device_generator(device))
        net, warp, level = self.converter, None, None
        if config.warp:
            warp = 1.0 + config.warp * (2 * torch.rand(n_rows, device=device) - 1)
        if config.earlier_level_db:
            change = config.earlier_level_db * (2 * torch.rand(n_rows, device=device) - 1)
            level = (config.level_dbfs + change - FULL_LEVEL_DBFS) * math.log(10.0) / 20.0
            silent = torch.rand(n_rows, device=device) < 0.5
            level = torch.where(silent, SILENCE, level)
        encoded = net.encode(net.pad_look_ahead(source), net.pad_look_ahead(rows.truth), warp, level)
        content = encoded.content
        if config.code_noise:
            content = content._replace(code=content.code + config.code_noise * torch.randn_like(content.code))
        return encoded._replace(content=content)

    def styles(self, rows: Utterances) -> tuple[Float[Tensor, "batch timbre"], Float[Tensor, "batch 1"]]:
        """Timbre and mean log-F0 of each row's voice, from its reference."""
        style: StyleEncoder = self.converter.style
        reference = self.reference_augment(rows.reference, device_generator(rows.reference.device))
        return style.timbre_of(reference), style.mean_log_f0(rows.reference)

    def decode(self, rows: Utterances, encoded: Encoded, voices: Float[Tensor, "batch voice"]) -> Wave:
        """Decode each row in its target voice; the F0 of converted rows is shifted to the target's mean."""
        voice = voices[rows.target]
        shifted = shift_pitch(encoded.pitch, voices[:, -1:, None].double(), voice.detach())
        log_f0 = torch.where(rows.converted[:, None, None], shifted.log_f0, encoded.pitch.log_f0)
        state = self.converter.begin_decoder(len(voice), random=True)
        code = encoded.content.code
        code = torch.where(rows.rebuilt[:, None, None], code.detach(), code)
        encoded = encoded._replace(content=encoded.content._replace(code=code))
        wave, _ = self.converter.decode(encoded, Pitch(log_f0, encoded.pitch.voicing), voice, state)
        return wave[..., self.converter.look_ahead :][..., : rows.source.shape[-1]]

    def reconstruction_losses(self, rows: Utterances, output: Wave) -> Losses:
        """Compare outputs with the ground truth, in the rows where it is known."""
        known = ~rows.converted
        if not bool(known.any()):
            return {}
        fake, real = output[known], rows.truth[known]
        return {name: compare(fake, real) for name, compare in self.comparisons.items()}

    def content_losses(self, rows: Utterances, encoded: Encoded, output: Wave) -> Losses:
        """Preserve linguistic content, in code and output, and frame energies in the output."""
        weights, net, losses = self.config.weights, self.converter, {}
        code = encoded.content.code
        if self.teacher is not None and (weights.content or weights.distil):
            with torch.no_grad():
                target_features = self.teacher_features(rows.truth)
            audible = audible_frames(rows.truth, target_features.shape[-1])
            if weights.distil:
                scale = self.teacher.sample_rate / net.sample_rate
                hop, look_ahead = round(net.hop * scale), round(net.look_ahead * scale)
                places = self.teacher.places(target_features.shape[-1], hop, look_ahead)
                predicted = at_times(self.teacher_head(code).float(), places)
                losses["distil"] = cosine_distance(predicted, target_features, audible)
            if weights.content:
                losses["content"] = cosine_distance(self.teacher_features(output), target_features, audible)
        paired = ~rows.converted & ~rows.rebuilt
        if weights.code_invariance and bool(paired.any()):
            truth_code = net.content.encode(net.pad_look_ahead(rows.truth[paired])).code
            similarity = F.cosine_similarity(code[paired].float(), truth_code.float(), dim=1)
            audible = torch.sigmoid(2.0 * (encoded.content.energy[paired] + 3.0))[:, 0]
            losses["code_invariance"] = ((1.0 - similarity) * audible).sum() / audible.sum().clamp_min(1e-3)
        converted = rows.converted
        if not bool(converted.any()):
            return losses
        if weights.norm:
            energy = frame_energy(net.style.analysis(output[converted]))
            losses["norm"] = energy_distance(energy, frame_energy(net.style.analysis(rows.source[converted])))
        return losses

    def teacher_features(self, wave: Wave) -> Float[Tensor, "batch dim frames"]:
        """The teacher's features of a wave, resampled to the teacher's rate."""
        assert self.teacher is not None
        return self.teacher(resample(wave, self.converter.sample_rate, self.teacher.sample_rate)).float()

    def voice_losses(self, rows: Utterances, timbre: Tensor, output: Wave) -> Losses:
        """Contrast of styles between two clips of one voice, and between output and target voice."""
        weights, losses = self.config.weights, {}
        if not (weights.contrast_style or weights.contrast_voice):
            return losses
        with torch.no_grad():
            key = self.style_key(rows.truth)
        keys, identities = gather(key), gather(rows.identity)
        negatives = torch.cat([self.voices.keys, keys]), torch.cat([self.voices.labels, identities])
        if weights.contrast_style:
            query = self.projector(timbre)
            losses["contrast_style"] = self.contrast(query, key, rows.identity, *negatives)
        changed_voice = rows.converted | (torch.arange(len(key), device=key.device) >= rows.human)
        if weights.contrast_voice and bool(changed_voice.any()):
            target = rows.target[changed_voice]
            query = self.style_key(output[changed_voice])
            losses["contrast_voice"] = self.contrast(query, key[target], rows.identity[target], *negatives)
        self.voices.push(keys, identities)
        return losses

    def style_key(self, wave: Wave) -> Float[Tensor, "batch key"]:
        """Embedding of a wave by the averaged style encoder and projector; gradients reach the wave only."""
        style: StyleEncoder = self.converter_ema.module.style  # pyright: ignore[reportAssignmentType]
        return F.normalize(self.projector_ema.module(style.timbre_of(wave)).float(), dim=-1)

    def pitch_losses(
        self, rows: Utterances, encoded: Encoded, mean_log_f0: Float[Tensor, "batch 1"]
    ) -> Losses:
        """Error of the mean log-F0 predicted from spectra, where source and ground truth have one voice."""
        if not self.config.weights.pitch_prior or self.converter.pitch_predictor is None:
            return {}
        # The mean is undefined before the first voiced frame.
        known = (encoded.pitch.voicing > 0.5).cumsum(-1).clamp_max(1).float()
        known = known * (rows.converted | rows.rebuilt)[:, None, None]
        error = (encoded.mean_log_f0.float() - mean_log_f0[..., None]) / 0.3
        return {"pitch_prior": (error.square() * known).sum() / known.sum().clamp_min(1.0)}

    @property
    def discriminator_is_used(self) -> bool:
        weights = self.config.weights
        contrast = weights.contrast_discriminator or weights.contrast_converter
        return bool(weights.adversarial or weights.feature_matching or contrast or weights.label_converter)

    def samples(self, step: int) -> Samples:
        """Audio and mels of conversions between the voices of the last batch."""
        assert self.last is not None
        return samples.samples(self.converter_ema.module, *self.last)  # pyright: ignore[reportArgumentType]

    def evaluate(self, step: int) -> dict[str, float]:
        assert self.last is not None
        return samples.conversion_scores(self.converter_ema.module, *self.last)  # pyright: ignore[reportArgumentType]
