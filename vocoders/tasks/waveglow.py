"""Train WaveGlow: the likelihood of the waves, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.optim import OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import at_least, within
from vocoders import cpu
from vocoders.scores.copies import evaluate, resynthesise
from vocoders.vocoder import build_network
from vocoders.waveglow import WaveGlowConfig, negative_log_likelihood

Wave = Float[Tensor, "1 1 samples"]
Mel = Float[Tensor, "1 n_mels frames"]


@dataclass(frozen=True, kw_only=True)
class WaveGlowTaskConfig:
    """The network and its loss; the defaults are the published ones."""

    network: WaveGlowConfig = field(default_factory=WaveGlowConfig)
    """The flow."""
    sigma: float = 1.0
    """Standard deviation of the noise that waves are mapped to."""
    temperature: float = 0.6
    """Standard deviation of the noise that sounds and scores are generated from."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, betas=(0.9, 0.999)))
    """The optimiser: Adam. Published batches are 12 crops of 16000 samples (15872 are whole hops)."""

    def __post_init__(self) -> None:
        within("(0, inf)", self, "sigma")
        at_least(0, self, "temperature")


class WaveGlowTask:
    """Section 2 of the paper: one network, maximum likelihood."""

    def __init__(self, config: WaveGlowTaskConfig, mel: MelConfig, validation: Sequence[Wave] = ()) -> None:
        self.config, self.mel, self.validation = config, mel, list(validation)
        self.network = build_network(config.network, mel)
        self.log_mel = LogMel(mel)
        self.frozen = {"log_mel": self.log_mel}
        self.modules: dict[str, nn.Module] = {"network": self.network}
        self.players = {"network": Player(self.network, config.optim, "network")}

    def update(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        """One step up the likelihood."""
        mel = batch.mel if hasattr(batch, "mel") else self.log_mel(batch.wave)
        loss = negative_log_likelihood(self.network(mel, batch.wave), self.config.sigma)
        self.players["network"].step(loss)
        return {"loss/network/likelihood": loss}

    @property
    def trained(self) -> nn.Module:
        return self.network

    def samples(self, step: int) -> Samples:
        return resynthesise(self._generate, self.log_mel, self.validation)

    def evaluate(self, step: int) -> dict[str, float]:
        """The validation waves' likelihood loss, and the scores of their copies."""
        if not self.validation:
            return {}
        losses = []
        for wave in self.validation:
            wave = wave.to(self.log_mel.window.device)
            loss = negative_log_likelihood(self.network(self.log_mel(wave), wave), self.config.sigma)
            losses.append(float(loss))
        figures = evaluate(self._generate, self.log_mel, self.validation)
        return {"likelihood": sum(losses) / len(losses), **figures}

    def _generate(self, mel: Mel) -> Wave:
        """From the same noise at every step, so that sounds and scores can be compared."""
        noise = self.network.noise(1, mel.shape[-1], torch.Generator().manual_seed(0))
        return cpu.generate(self.network, mel, noise.to(mel.device), temperature=self.config.temperature)
