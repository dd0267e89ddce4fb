"""Train the network of a neural Griffin-Lim by regression of log-magnitudes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig, stft
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import UserError, at_least, within
from vocoders.griffin_lim import Magnitudes
from vocoders.neural_griffin_lim import NeuralGriffinLimConfig
from vocoders.scores.copies import evaluate, resynthesise
from vocoders.vocoder import build_network

Wave = Float[Tensor, "1 1 samples"]
Waves = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class MagnitudesTaskConfig:
    """Network, losses and optimiser of a neural Griffin-Lim."""

    network: NeuralGriffinLimConfig = field(default_factory=NeuralGriffinLimConfig)
    """The network, mels to magnitudes."""
    floor: float = 1e-3
    """Added to magnitudes before the log: smaller ones, some 50 dB below full-scale speech, hardly count."""
    convergence: float = 1.0
    """Weight of the linear magnitudes' relative error; the log-magnitudes' likelihood has weight 1."""
    peaks_db: tuple[float, float] = (-24.0, -1.0)
    """Range of random peak levels, dBFS, that crops are scaled to; not applied with predicted mels."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the network, which is scored and exported."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-3,
            betas=(0.9, 0.99),
            gradient_clip=1.0,
            warmup_steps=100,
            schedule="cosine",
            decay_steps=20_000,
            final=0.02,
        )
    )
    """The optimiser."""

    def __post_init__(self) -> None:
        at_least(0, self, "convergence", "ema_decay")
        within("(0, inf)", self, "floor")
        if not self.peaks_db[0] <= self.peaks_db[1] <= 0:
            raise UserError(f"peaks_db={self.peaks_db} must rise, and be 0 at most")


class MagnitudesTask:
    """Trains one network and its averaged copy."""

    def __init__(self, config: MagnitudesTaskConfig, mel: MelConfig, validation: Sequence[Wave] = ()) -> None:
        self.config, self.mel, self.validation = config, mel, list(validation)
        self.network = build_network(config.network, mel)
        self.average = EMA(self.network, config.ema_decay)
        self.log_mel = LogMel(mel)
        self.frozen = {"log_mel": self.log_mel}
        self.modules: dict[str, nn.Module] = {"network": self.network, "network_ema": self.average.module}
        self.players = {"network": Player(self.network, config.optim, "network")}

    def update(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        """One optimisation step on a batch's magnitudes."""
        mel = getattr(batch, "mel", None)
        wave = batch.wave if mel is not None else self.at_random_levels(batch.wave)
        losses = self.losses(self.network, wave, mel)
        self.players["network"].step(losses["likelihood"] + self.config.convergence * losses["convergence"])
        self.average.update(step)
        return {f"loss/network/{name}": loss for name, loss in losses.items()}

    def at_random_levels(self, wave: Waves) -> Waves:
        """Scale each crop to a random peak level within ``peaks_db``."""
        peaks = torch.empty(len(wave), 1, 1, device=wave.device).uniform_(*self.config.peaks_db)
        return wave * 10 ** (peaks / 20) / wave.abs().amax(-1, keepdim=True).clamp_min(1e-3)

    def losses(self, network: nn.Module, wave: Waves, mel: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of a network's magnitudes, made from a wave's mel, against the wave's."""
        mel = self.log_mel(wave) if mel is None else mel
        true, floor = self.magnitudes(wave), self.config.floor
        mean, deviation = network.log_magnitudes(mel)  # pyright: ignore[reportCallIssue]
        error = (mean.exp() + floor).log() - (true + floor).log()
        return {
            "likelihood": (0.5 * (error / deviation.exp()).square() + deviation).mean(),
            "convergence": spectral_convergence(mean.exp(), true),
        }

    @torch.no_grad()
    def magnitudes(self, wave: Waves) -> Magnitudes:
        """Magnitudes of the STFT from which the mel is computed."""
        mel, window = self.mel, self.network.griffin_lim.phases.window
        spectrum = stft(wave, n_fft=mel.n_fft, hop=mel.hop, padding=mel.padding, window=window)
        return spectrum.abs().transpose(1, 2)

    @property
    def trained(self) -> nn.Module:
        return self.average.module

    def samples(self, step: int) -> Samples:
        return resynthesise(self.trained, self.log_mel, self.validation)

    def evaluate(self, step: int) -> dict[str, float]:
        """Losses of the validation waves, and scores of their resynthesis."""
        if not self.validation:
            return {}
        scores = [self.losses(self.trained, wave.to(self.log_mel.window.device)) for wave in self.validation]
        mean = {name: float(torch.stack([one[name] for one in scores]).mean()) for name in scores[0]}
        return mean | evaluate(self.trained, self.log_mel, self.validation)


def spectral_convergence(made: Magnitudes, magnitudes: Magnitudes) -> Float[Tensor, ""]:
    """Relative error of a spectrogram in the Frobenius norm (Arık et al. 2018, arXiv:1808.06719)."""
    error, size = ((x.square().sum((1, 2)) + 1e-9).sqrt() for x in (made - magnitudes, magnitudes))
    return (error / size).mean()
