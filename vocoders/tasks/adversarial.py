"""Train HiFi-GAN and MelGAN: a generator against discriminators, with feature matching and a mel loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from data.frontends import LogMel, MelConfig
from engine import gan_losses
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import UserError
from vocoders.discriminators import (
    DiscriminatorOutput,
    MelGANCriticConfig,
    MultiPeriodConfig,
    MultiScaleConfig,
    build_discriminator,
)
from vocoders.hifigan import HiFiGANConfig
from vocoders.melgan import MelGANConfig
from vocoders.scores.copies import MultiResolutionSTFT, evaluate, resynthesise
from vocoders.vocoder import build_network
from vocoders.vocos import VocosConfig

Wave = Float[Tensor, "batch 1 samples"]
Outputs = Mapping[str, DiscriminatorOutput]
"""Discriminator outputs by kind: periods, scales, windows."""
_HIFIGAN = OptimConfig(
    lr=2e-4, betas=(0.8, 0.99), weight_decay=0.01, schedule="exponential", decay_steps=2_500_000
)


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """A generator, its discriminators and its loss weights; the defaults are HiFi-GAN's."""

    network: HiFiGANConfig | MelGANConfig | VocosConfig = field(default_factory=HiFiGANConfig)
    """The generator."""
    periods: MultiPeriodConfig | None = field(default_factory=MultiPeriodConfig)
    """HiFi-GAN's multi-period discriminators."""
    scales: MultiScaleConfig | None = field(default_factory=MultiScaleConfig)
    """HiFi-GAN's multi-scale discriminators."""
    windows: MelGANCriticConfig | None = None
    """MelGAN's discriminators."""
    loss: Literal["least_squares", "hinge"] = "least_squares"
    """Adversarial loss. HiFi-GAN: least squares. MelGAN: hinge."""
    feature_matching: float = 2.0
    """Weight of the L1 between features, summed over layers. MelGAN: 10, with its own layer weights."""
    mel: float = 45.0
    """Weight of the L1 between log-mels up to half the sample rate (HiFi-GAN, eq. 5)."""
    stft: float = 0.0
    """Weight of the multi-resolution STFT distance (Yamamoto et al. 2020)."""
    adversary_from: int = 0
    """First step with discriminators; before it only mel and STFT losses are used, at half the cost."""
    order: Literal["alternating", "kept", "simultaneous"] = "alternating"
    """alternating: the generator's loss uses the discriminators after their step (HiFi-GAN's code). kept: the
    same, but features of real waves from before their step (MelGAN's code). simultaneous: both losses use one
    forward pass of the discriminators, which costs little more than half as much."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the generator, which is exported; 0: no average."""
    generator: OptimConfig = field(default_factory=lambda: _HIFIGAN)
    """The generator's optimiser. HiFi-GAN multiplies the learning rate by .999 per epoch."""
    critic: OptimConfig = field(default_factory=lambda: _HIFIGAN)
    """The discriminators' optimiser."""

    def __post_init__(self) -> None:
        if not any((self.periods, self.scales, self.windows)):
            raise UserError(
                "a vocoder needs a discriminator: set one of task.periods, task.scales, task.windows"
            )


class Adversarial:
    """Adversarial training as in HiFi-GAN, section 2.4, and MelGAN, section 2.3."""

    def __init__(self, config: AdversarialConfig, mel: MelConfig, validation: Sequence[Wave] = ()) -> None:
        self.config, self.mel, self.validation = config, mel, list(validation)
        self.network = build_network(config.network, mel)
        chosen = {"periods": config.periods, "scales": config.scales, "windows": config.windows}
        self.discriminators = nn.ModuleDict(
            {name: build_discriminator(c) for name, c in chosen.items() if c is not None}
        )
        self.ema = EMA(self.network, config.ema_decay) if config.ema_decay else None
        # As published: the network's input mel ends at 8 kHz, the loss's mel does not.
        full_band = replace(mel, f_max=mel.sample_rate / 2, log="ln", magnitude_floor=1e-9)
        self.log_mel, self.full_band_mel = LogMel(mel), LogMel(full_band)
        self.stft = MultiResolutionSTFT()
        self.frozen = {"log_mel": self.log_mel, "full_band_mel": self.full_band_mel, "stft": self.stft}
        self.modules: dict[str, nn.Module] = {"network": self.network, "critics": self.discriminators}
        if self.ema:
            self.modules["network_ema"] = self.ema.module
        self.players = {
            "generator": Player(self.network, config.generator, "generator"),
            "critic": Player(self.discriminators, config.critic, "critic"),
        }

    def update(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        """Update the discriminators, then the generator (``simultaneous``: in reverse order)."""
        config, wave = self.config, batch.wave
        mel = batch.mel if hasattr(batch, "mel") else self.log_mel(wave)
        fake = self.network(mel)
        scalars: dict[str, Tensor] = {}

        spectral = self._spectral_loss(fake, wave, scalars)
        if step < config.adversary_from:
            self.players["generator"].step(spectral)
        elif config.order == "simultaneous":
            with parametrize.cached():
                real, fake_outputs = self.discriminate(wave), self.discriminate(fake)
            # The generator first: the discriminators' gradient does not need the weights changed by its step.
            self.players["generator"].step(
                spectral + self._generator_loss(real, fake_outputs, scalars), retain_graph=True
            )
            self.players["critic"].step(self._discriminator_loss(real, fake_outputs, scalars))
        else:
            with parametrize.cached():  # computes weight norm once for both waves
                real, fake_outputs = self.discriminate(wave), self.discriminate(fake.detach())
            self.players["critic"].step(self._discriminator_loss(real, fake_outputs, scalars))
            with parametrize.cached():
                if config.order == "alternating":
                    with torch.no_grad():
                        real = self.discriminate(wave)
                fake_outputs = self.discriminate(fake)
            self.players["generator"].step(spectral + self._generator_loss(real, fake_outputs, scalars))
        if self.ema:
            self.ema.update(step)
        return scalars

    def discriminate(self, wave: Wave) -> Outputs:
        return {name: discriminator(wave) for name, discriminator in self.discriminators.items()}

    def _discriminator_loss(self, real: Outputs, fake: Outputs, scalars: dict[str, Tensor]) -> Tensor:
        rule = gan_losses.DISCRIMINATOR[self.config.loss]
        loss = torch.stack([rule(real[name].scores, fake[name].scores) for name in real]).sum()
        scalars["loss/critic/adversarial"] = loss
        return loss

    def _generator_loss(self, real: Outputs, fake: Outputs, scalars: dict[str, Tensor]) -> Tensor:
        """The generator's adversarial and feature-matching losses; ``real`` gets no gradient."""
        rule = gan_losses.GENERATOR[self.config.loss]
        match = dict.fromkeys(real, gan_losses.feature_matching)
        match |= {"windows": gan_losses.melgan_feature_matching}
        adversarial = torch.stack([rule(output.scores) for output in fake.values()]).sum()
        matching = torch.stack([match[name](real[name].features, fake[name].features) for name in real]).sum()
        scalars["loss/generator/adversarial"] = adversarial
        scalars["loss/generator/feature_matching"] = matching
        return adversarial + self.config.feature_matching * matching

    def _spectral_loss(self, fake: Wave, wave: Wave, scalars: dict[str, Tensor]) -> Tensor:
        """Weighted L1 of log-mels and, unless its weight is 0, the multi-resolution STFT distance."""
        with torch.set_grad_enabled(self.config.mel > 0 and torch.is_grad_enabled()):
            mel = F.l1_loss(self.full_band_mel(fake), self.full_band_mel(wave))
        scalars["loss/generator/mel"] = mel
        loss = self.config.mel * mel
        if self.config.stft:
            scalars["loss/generator/stft"] = self.stft(fake, wave)
            loss = loss + self.config.stft * scalars["loss/generator/stft"]
        return loss

    @property
    def trained(self) -> nn.Module:
        return self.ema.module if self.ema else self.network

    def samples(self, step: int) -> Samples:
        return resynthesise(self.trained, self.log_mel, self.validation)

    def evaluate(self, step: int) -> dict[str, float]:
        return evaluate(self.trained, self.log_mel, self.validation)
