"""The discriminator's part in CLUIT: its own losses, and what it says of the converter's outputs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engine import gan_losses
from engine.optim import EMA
from engine.processes import gather
from w2w.cluit.config import CLUITConfig
from w2w.cluit.losses import MemoryBank, info_nce, labelled_cross_entropy
from w2w.cluit.rows import Rows, Utterances, same_stretch
from w2w.networks.discriminator import Discriminator

Wave = Float[Tensor, "batch 1 samples"]
Window = Float[Tensor, "rows 1 window"]
Losses = dict[str, Tensor]


class Adversary:
    """Losses around the discriminator; the task that has it brings config, networks and bank."""

    config: CLUITConfig
    discriminator: Discriminator
    discriminator_ema: EMA
    bank: MemoryBank

    def windows(self, rows: Utterances, output: Wave) -> tuple[Window, Window, Int[Tensor, " rows"]]:
        """One place of truths and outputs, of the first rows; and whose voice each output should have."""
        n_rows = self.config.discriminator_batch or len(output)
        real, fake = same_stretch((rows.truth, output), self.config.discriminator_samples)
        return real[:n_rows], fake[:n_rows], rows.target[:n_rows]

    def discriminator_losses(self, rows: Utterances, real_wave: Wave, fake_wave: Wave) -> Losses:
        """Tell real from made, hold each voice's projections together, name known speakers."""
        weights, config, losses = self.config.weights, self.config, {}
        real_wave = real_wave.detach()
        real, identity = self.discriminator(real_wave), rows.identity[: len(real_wave)]
        if weights.adversarial:
            fake = self.discriminator(fake_wave.detach())
            losses["adversarial"] = gan_losses.DISCRIMINATOR["hinge"](real.scores, fake.scores, mean=True)
        if weights.contrast_discriminator or weights.contrast_converter:
            keys = self.discriminator_ema.module if config.keys == "moco" else self.discriminator
            with torch.no_grad():
                key = keys(rows.reference[: len(real_wave), :, : real_wave.shape[-1]]).projection
            all_keys, theirs = gather(key), gather(identity)
            if weights.contrast_discriminator:
                negatives = torch.cat([self.bank.keys, all_keys]), torch.cat([self.bank.labels, theirs])
                losses["contrast_discriminator"] = self.contrast(real.projection, key, identity, *negatives)
            self.bank.push(all_keys, theirs)
        if weights.label_discriminator:
            label = rows.label[: len(real_wave)]
            losses["label_discriminator"] = labelled_cross_entropy(real.speakers, label)
        return losses

    def adversarial_losses(self, rows: Utterances, real_wave: Wave, fake_wave: Wave, target: Rows) -> Losses:
        """The converter's side: sound real, sound like the reference, match the truth's features."""
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
        theirs: Int[Tensor, " negatives"],
    ) -> Tensor:
        """InfoNCE with this run's temperature; nobody is their own negative."""
        labels = {"query_label": identity, "negative_label": theirs}
        return info_nce(query, positive, negatives, temperature=self.config.temperature, **labels)
