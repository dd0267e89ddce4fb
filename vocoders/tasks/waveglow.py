"""Train WaveGlow by maximum likelihood."""

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
    """Network, loss and optimiser of a WaveGlow; the defaults are the published ones."""

    network: WaveGlowConfig = field(default_factory=WaveGlowConfig)
    """The flow network."""
    sigma: float = 1.0
    """Standard deviation of the noise that waves are mapped to."""
    temperature: float = 0.6
    """Standard deviation of the noise for validation audio and scores."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, betas=(0.9, 0.999)))
    """Adam. Published batches are 12 crops of 16000 samples (15872 are whole hops)."""

    def __post_init__(self) -> None:
        within("(0, inf)", self, "sigma")
        at_least(0, self, "temperature")


class WaveGlowTask:
    """Maximum-likelihood training of one network (section 2 of the paper)."""

    def __init__(self, config: WaveGlowTaskConfig, mel: MelConfig, validation: Sequence[Wave] = ()) -> None:
        self.config, self.mel, self.validation = config, mel, list(validation)
        self.network = build_network(config.network, mel)
        self.log_mel = LogMel(mel)
        self.frozen = {"log_mel": self.log_mel}
        self.modules: dict[str, nn.Module] = {"network": self.network}
        self.players = {"network": Player(self.network, config.optim, "network")}

    def update(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        """One maximum-likelihood step."""
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
        """Likelihood loss of the validation waves, and scores of their resynthesis."""
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
        """Generate from the same noise at every step, so that audio and scores are comparable."""
        noise = self.network.noise(1, mel.shape[-1], torch.Generator().manual_seed(0))
        return cpu.generate(self.network, mel, noise.to(mel.device), temperature=self.config.temperature)
