"""The multi-scale discriminator with its contrastive projector, and the CLUIT losses that use it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from engine import gan_losses
from engine.optim import EMA
from engine.processes import gather
from w2w.cluit.config import CLUITConfig
from w2w.cluit.losses import MemoryBank, Wave, info_nce, labelled_cross_entropy
from w2w.cluit.rows import Rows, Utterances, same_window

Window = Float[Tensor, "rows 1 window"]
Losses = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Sizes of the discriminator."""

    n_scales: int = 3
    """Sub-discriminators, each at half the sampling rate of the one before (only one does not converge)."""
    n_channels: int = 16
    """Channels of the first layer; each strided layer has up to four times as many as the one before."""
    max_channels: int = 256
    """Upper limit of the channels (MelGAN: 1024)."""
    n_strided: int = 4
    """Layers of stride 4."""
    projection_dim: int = 256
    """Dimension of a projection."""
    n_speakers: int = 0
    """Speakers that the label head classifies; 0: no label head."""


class DiscriminatorOutput(NamedTuple):
    scores: list[Tensor]
    """One score map per scale, (batch, 1, frames): large for real speech."""
    features: list[list[Tensor]]
    """Per scale, the outputs of all layers but the last."""
    projection: Float[Tensor, "batch dim"]
    """Unit-length embedding, trained to be similar for the same voice."""
    speakers: Float[Tensor, "batch n_speakers"]
    """Logits of the label head."""


class Discriminator(nn.Module):
    """Multi-scale discriminator (Kumar et al. 2019), with a projector and a label head on pooled features."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(Scale(config) for _ in range(config.n_scales))
        pooled = 2 * sum(scale.width for scale in self.scales)  # type: ignore[misc, arg-type]
        self.projector = nn.Sequential(
            nn.Linear(pooled, 2 * config.projection_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * config.projection_dim, config.projection_dim),
        )
        width, n_speakers = 2 * config.projection_dim, config.n_speakers
        self.speaker = nn.Linear(width, n_speakers) if n_speakers else None

    def forward(self, wave: Wave) -> DiscriminatorOutput:
        """Score a batch of waves, each of a few thousand samples or more."""
        scores, features, pools = [], [], []
        for i, scale in enumerate(self.scales):
            if i:
                wave = F.avg_pool1d(wave, 4, stride=2, padding=1, count_include_pad=False)
            score, maps = scale(wave)
            scores.append(score)
            features.append(maps)
            trunk = maps[-1]
            pools += [trunk.mean(-1), (trunk.var(-1, unbiased=False) + 1e-5).sqrt()]
        pooled = torch.cat(pools, dim=-1)
        hidden = self.projector[:2](pooled)
        projection = F.normalize(self.projector[2](hidden), dim=-1)
        speakers = self.speaker(hidden) if self.speaker is not None else hidden[:, :0]
        return DiscriminatorOutput(scores, features, projection, speakers)


class Scale(nn.Module):
    """Sub-discriminator: strided grouped convolutions with weight norm, one score per window of the wave."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        width = config.n_channels
        layers = [weight_norm(nn.Conv1d(1, width, 15, padding=7, padding_mode="reflect"))]
        for _ in range(config.n_strided):
            inner, width = width, min(4 * width, config.max_channels)
            groups = max(inner // 4, 1)
            layers.append(weight_norm(nn.Conv1d(inner, width, 41, stride=4, padding=20, groups=groups)))
        layers.append(weight_norm(nn.Conv1d(width, width, 5, padding=2)))
        self.layers = nn.ModuleList(layers)
        self.width = width
        self.score = weight_norm(nn.Conv1d(width, 1, 3, padding=1))

    def forward(self, wave: Wave) -> tuple[Tensor, list[Tensor]]:
        """Return the scores and the outputs of the layers before."""
        features, hidden = [], wave
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.score(hidden), features


class Adversary:
    """Mixin of the losses that use the discriminator; the task provides config, networks and memory bank."""

    config: CLUITConfig
    discriminator: Discriminator
    discriminator_ema: EMA
    bank: MemoryBank

    def windows(self, rows: Utterances, output: Wave) -> tuple[Window, Window, Int[Tensor, " rows"]]:
        """The same random window of ground truths and outputs, and the row of each target voice."""
        n_rows = self.config.discriminator_batch or len(output)
        real, fake = same_window((rows.truth, output), self.config.discriminator_samples)
        return real[:n_rows], fake[:n_rows], rows.target[:n_rows]

    def discriminator_losses(self, rows: Utterances, real_wave: Wave, fake_wave: Wave) -> Losses:
        """The discriminator's losses: real against fake, contrast between voices, speaker labels."""
        weights, config, losses = self.config.weights, self.config, {}
        real_wave = real_wave.detach()
        real, identity = self.discriminator(real_wave), rows.identity[: len(real_wave)]
        if weights.adversarial:
            fake = self.discriminator(fake_wave.detach())
            losses["adversarial"] = gan_losses.DISCRIMINATOR["hinge"](real.scores, fake.scores, mean=True)
        if weights.contrast_discriminator or weights.contrast_converter:
            key_encoder = self.discriminator_ema.module if config.keys == "moco" else self.discriminator
            with torch.no_grad():
                key = key_encoder(rows.reference[: len(real_wave), :, : real_wave.shape[-1]]).projection
            keys, identities = gather(key), gather(identity)
            if weights.contrast_discriminator:
                negatives = torch.cat([self.bank.keys, keys]), torch.cat([self.bank.labels, identities])
                losses["contrast_discriminator"] = self.contrast(real.projection, key, identity, *negatives)
            self.bank.push(keys, identities)
        if weights.label_discriminator:
            label = rows.label[: len(real_wave)]
            losses["label_discriminator"] = labelled_cross_entropy(real.speakers, label)
        return losses

    def adversarial_losses(self, rows: Utterances, real_wave: Wave, fake_wave: Wave, target: Rows) -> Losses:
        """The converter's losses: adversarial, contrast to the reference, labels, feature matching."""
        weights, losses = self.config.weights, {}
        fake = self.discriminator(fake_wave)
        if weights.adversarial:
            losses["adversarial"] = gan_losses.GENERATOR["hinge"](fake.scores, mean=True)
        if weights.contrast_converter:
            with torch.no_grad():
                key = self.discriminator(rows.reference[target, :, : real_wave.shape[-1]]).projection
            bank = self.bank.keys, self.bank.labels
            losses["contrast_converter"] = self.contrast(fake.projection, key, rows.identity[target], *bank)
        if weights.label_converter:
            losses["label_converter"] = labelled_cross_entropy(fake.speakers, rows.label[target])
        known = ~rows.converted[: len(fake_wave)]
        if weights.feature_matching and bool(known.any()):
            with torch.no_grad():
                real = self.discriminator(real_wave[known]).features
            matched = [[layer[known] for layer in scale] for scale in fake.features]
            losses["feature_matching"] = gan_losses.feature_matching(real, matched, mean=True)
        return losses

    def contrast(
        self,
        query: Tensor,
        positive: Tensor,
        identity: Rows,
        negatives: Tensor,
        negative_identity: Int[Tensor, " negatives"],
    ) -> Tensor:
        """InfoNCE at the configured temperature, with negatives of the query's own identity masked."""
        labels = {"query_label": identity, "negative_label": negative_identity}
        return info_nce(query, positive, negatives, temperature=self.config.temperature, **labels)
