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
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import UserError
from vocoders import losses
from vocoders.discriminators import (
    Judgement,
    MelGANCriticConfig,
    MultiPeriodConfig,
    MultiScaleConfig,
    build_critic,
)
from vocoders.hifigan import HiFiGAN, HiFiGANConfig
from vocoders.melgan import MelGAN, MelGANConfig
from vocoders.scores.stft_distance import MultiResolutionSTFT
from vocoders.tasks.showcase import resynthesise, score

Wave = Float[Tensor, "batch 1 samples"]
Heard = Mapping[str, list[Judgement]]
"""Judgements by adversary."""
_HIFIGAN = OptimConfig(
    lr=2e-4, betas=(0.8, 0.99), weight_decay=0.01, schedule="exponential", decay_steps=2_500_000
)


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """A generator, its adversaries, and the weights of its losses; the defaults are HiFi-GAN's."""

    network: HiFiGANConfig | MelGANConfig = field(default_factory=HiFiGANConfig)
    """The generator."""
    periods: MultiPeriodConfig | None = field(default_factory=MultiPeriodConfig)
    """HiFi-GAN's multi-period discriminators."""
    scales: MultiScaleConfig | None = field(default_factory=MultiScaleConfig)
    """HiFi-GAN's multi-scale discriminators."""
    windows: MelGANCriticConfig | None = None
    """MelGAN's discriminators."""
    loss: Literal["least_squares", "hinge"] = "least_squares"
    """HiFi-GAN: least squares. MelGAN: hinge."""
    feature_matching: float = 2.0
    """Weight of the L1 between features, summed over layers. MelGAN: 10, of its own weighting of layers."""
    mel: float = 45.0
    """Weight of the L1 between log-mels up to half the rate (HiFi-GAN, eq. 5)."""
    stft: float = 0.0
    """Weight of the multi-resolution STFT distance (Yamamoto et al. 2020)."""
    adversary_from: int = 0
    """Step at which the adversaries begin; before it only the mel and STFT losses teach, at half the cost."""
    order: Literal["alternating", "kept", "simultaneous"] = "alternating"
    """alternating: after the adversaries' step both waves are heard anew (HiFi-GAN's code). kept: only the
    generated one is, real features are kept from before (MelGAN's code). simultaneous: both players answer
    one hearing, which costs little more than half as much."""
    ema_decay: float = 0.0
    """Of the averaged generator that is exported; 0: the last one is."""
    generator: OptimConfig = field(default_factory=lambda: _HIFIGAN)
    """The generator's optimiser. HiFi-GAN multiplies the rate by .999 an epoch."""
    critic: OptimConfig = field(default_factory=lambda: _HIFIGAN)
    """The adversaries' optimiser."""

    def __post_init__(self) -> None:
        if not any((self.periods, self.scales, self.windows)):
            raise UserError(
                "a vocoder needs an adversary: set one of task.periods, task.scales, task.windows"
            )


class Adversarial:
    """The algorithm of HiFi-GAN, section 2.4, and MelGAN, section 2.3."""

    def __init__(self, config: AdversarialConfig, mel: MelConfig, validation: Sequence[Wave] = ()) -> None:
        self.config, self.mel, self.validation = config, mel, list(validation)
        if (config.network.hop, config.network.n_mels) != (mel.hop, mel.n_mels):
            raise UserError(
                f"the generator makes {config.network.hop} samples of {config.network.n_mels} bands, the mel "
                f"has {mel.hop} and {mel.n_mels}: change task.network or mel"
            )
        self.network = (
            HiFiGAN(config.network) if isinstance(config.network, HiFiGANConfig) else MelGAN(config.network)
        )
        chosen = {"periods": config.periods, "scales": config.scales, "windows": config.windows}
        self.critics = nn.ModuleDict({name: build_critic(c) for name, c in chosen.items() if c is not None})
        self.ema = EMA(self.network, config.ema_decay) if config.ema_decay else None
        # Published: what the network hears ends at 8 kHz, what it is judged by does not.
        full_band = replace(mel, f_max=mel.sample_rate / 2, log="ln", magnitude_floor=1e-9)
        self.log_mel, self.judged_mel = LogMel(mel), LogMel(full_band)
        self.stft = MultiResolutionSTFT()
        self.frozen = {"log_mel": self.log_mel, "judged_mel": self.judged_mel, "stft": self.stft}
        self.modules: dict[str, nn.Module] = {"network": self.network, "critics": self.critics}
        if self.ema:
            self.modules["network_ema"] = self.ema.module
        self.players = {
            "generator": Player(self.network, config.generator, "generator"),
            "critic": Player(self.critics, config.critic, "critic"),
        }

    def update(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        """One step of the adversaries, then one of the generator."""
        config, wave = self.config, batch.wave
        mel = batch.mel if hasattr(batch, "mel") else self.log_mel(wave)
        fake = self.network(mel)
        scalars: dict[str, Tensor] = {}

        spectral = self._spectral_loss(fake, wave, scalars)
        if step < config.adversary_from:
            self.players["generator"].descend(spectral)
        elif config.order == "simultaneous":
            with parametrize.cached():
                real, heard = self.hear(wave), self.hear(fake)
            # The generator first: the adversaries' gradient does not pass through what its step changes.
            self.players["generator"].descend(spectral + self._fool(real, heard, scalars), retain_graph=True)
            self.players["critic"].descend(self._tell_apart(real, heard, scalars))
        else:
            with parametrize.cached():  # weight norm once for both hearings
                real, heard = self.hear(wave), self.hear(fake.detach())
            self.players["critic"].descend(self._tell_apart(real, heard, scalars))
            with parametrize.cached():
                if config.order == "alternating":
                    with torch.no_grad():
                        real = self.hear(wave)
                heard = self.hear(fake)
            self.players["generator"].descend(spectral + self._fool(real, heard, scalars))
        if self.ema:
            self.ema.update(step)
        return scalars

    def hear(self, wave: Wave) -> Heard:
        """Every adversary's judgements."""
        return {name: critic(wave) for name, critic in self.critics.items()}

    def _tell_apart(self, real: Heard, fake: Heard, scalars: dict[str, Tensor]) -> Tensor:
        """The adversaries' loss."""
        rule = losses.hinge_critic if self.config.loss == "hinge" else losses.least_squares_critic
        loss = torch.stack([rule(real[name], fake[name]) for name in real]).sum()
        scalars["loss/critic/adversarial"] = loss
        return loss

    def _fool(self, real: Heard, fake: Heard, scalars: dict[str, Tensor]) -> Tensor:
        """The generator's adversarial and feature matching losses; ``real`` is data."""
        rule = losses.hinge_generator if self.config.loss == "hinge" else losses.least_squares_generator
        match = dict.fromkeys(real, losses.feature_matching) | {"windows": losses.melgan_feature_matching}
        adversarial = torch.stack([rule(heard) for heard in fake.values()]).sum()
        matching = torch.stack([match[name](real[name], fake[name]) for name in real]).sum()
        scalars["loss/generator/adversarial"] = adversarial
        scalars["loss/generator/feature_matching"] = matching
        return adversarial + self.config.feature_matching * matching

    def _spectral_loss(self, fake: Wave, wave: Wave, scalars: dict[str, Tensor]) -> Tensor:
        """L1 of log-mels, and the multi-resolution STFT distance where it has a weight."""
        with torch.set_grad_enabled(self.config.mel > 0 and torch.is_grad_enabled()):
            mel = F.l1_loss(self.judged_mel(fake), self.judged_mel(wave))
        scalars["loss/generator/mel"] = mel
        loss = self.config.mel * mel
        if self.config.stft:
            scalars["loss/generator/stft"] = self.stft(fake, wave)
            loss = loss + self.config.stft * scalars["loss/generator/stft"]
        return loss

    @property
    def trained(self) -> nn.Module:
        """The generator for use."""
        return self.ema.module if self.ema else self.network

    def samples(self, step: int) -> Samples:
        """Validation waves and what comes of their mels."""
        return resynthesise(self.trained, self.log_mel, self.validation)

    def evaluate(self, step: int) -> dict[str, float]:
        """Validation figures."""
        return score(self.trained, self.log_mel, self.validation)
