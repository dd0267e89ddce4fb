"""Train a WaveNet: likelihood of each next sample given a mel, features, a speaker or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from vocoders.scores.copies import evaluate, resynthesise
from vocoders.wavenet.generation import generate
from vocoders.wavenet.mel_wavenet import MelWaveNet, MelWaveNetConfig
from vocoders.wavenet.network import WaveNet, WaveNetConfig
from vocoders.wavenet.spoken import Spoken

Wave = Float[Tensor, "batch 1 samples"]
ADAM = OptimConfig(
    lr=1e-3,
    betas=(0.9, 0.999),
    gradient_clip=1.0,
    schedule="exponential",
    decay_steps=1_000_000,
    final=1 / 32,
)
"""The published learning rate: 1e-3, halved every 200 000 steps; the decay is smooth here."""


@dataclass(frozen=True, kw_only=True)
class WaveNetTaskConfig:
    """Network and optimiser of a WaveNet."""

    network: MelWaveNetConfig | WaveNetConfig = field(default_factory=MelWaveNetConfig)
    """MelWaveNetConfig: a vocoder. WaveNetConfig: audio from features, a speaker's number, or nothing."""
    optim: OptimConfig = field(default_factory=lambda: ADAM)
    """The network's optimiser."""
    ema_decay: float = 0.9999
    """Decay of the exponential moving average of the network, which is exported, scored and sampled."""
    margin_frames: int = 3
    """Frames left out of the loss at a crop's ends, because reflection padding distorts their mels."""
    n_heard: int = 2
    """Validation waves that are resynthesised, logged and scored; the likelihood is over all of them."""
    seconds: float = 1.0
    """Length of the audio samples of a network without mels."""


class WaveNetTask:
    """Maximum-likelihood training (van den Oord et al. 2016, equation 1)."""

    def __init__(
        self, config: WaveNetTaskConfig, mel: MelConfig, validation: Sequence[Tensor | Spoken] = ()
    ) -> None:
        self.config, self.mel, self.validation = config, mel, list(validation)
        self.log_mel = LogMel(mel)
        self.frozen: dict[str, nn.Module] = {"log_mel": self.log_mel}
        network = config.network
        self.network = MelWaveNet(network, mel) if isinstance(network, MelWaveNetConfig) else WaveNet(network)
        self.ema = EMA(self.network, config.ema_decay)
        self.modules: dict[str, nn.Module] = {"network": self.network, "network_ema": self.ema.module}
        self.players = {"wavenet": Player(self.network, config.optim, "wavenet")}

    def update(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        """One maximum-likelihood step."""
        loss = self.loss(self.network, batch)
        self.players["wavenet"].step(loss)
        self.ema.update(step)
        return {"loss/wavenet/nll": loss}

    def loss(self, network: nn.Module, batch: Any) -> Float[Tensor, ""]:
        """Negative log-likelihood, nats per sample; a batch may contain its ``mel`` or ``local`` features."""
        if isinstance(network, MelWaveNet):
            with torch.autocast(batch.wave.device.type, enabled=False):
                mel = batch.mel if hasattr(batch, "mel") else self.log_mel(batch.wave)
            return network.loss(batch.wave, mel, self.config.margin_frames * self.mel.hop)
        assert isinstance(network, WaveNet)
        local = getattr(batch, "local", None) if network.config.local else None
        speaker = batch.speaker if network.config.global_ else None
        if speaker is not None and (speaker < 0).any():
            raise ValueError("a WaveNet with speakers needs the speaker of every recording: label them all")
        return network.loss(batch.wave, local, speaker)

    @property
    def trained(self) -> nn.Module:
        return self.ema.module

    def samples(self, step: int) -> Samples:
        """Validation waves with their resynthesis; for a network without mels, generated audio."""
        if isinstance(self.trained, MelWaveNet):
            return resynthesise(self.trained, self.log_mel, self.waves[: self.config.n_heard])
        named = {f"generated/{i}": wave for i, wave in enumerate(self.unconditional())}
        return Samples(
            audio={name: (wave, self.mel.sample_rate) for name, wave in named.items()},
            mels={name: self.log_mel(wave[None])[0] for name, wave in named.items()},
        )

    def unconditional(self) -> Wave:
        """Two generated waves: of two validation texts, of the first two speakers, or unconditional."""
        network = self.trained
        assert isinstance(network, WaveNet)
        if network.config.local:
            frames = round(self.config.seconds * self.mel.sample_rate / network.hop)
            spoken = self.validation_batches()[:2]
            local = torch.cat([one.local[..., :frames] for one in spoken])
            speaker = torch.cat([one.speaker for one in spoken]) if network.config.global_ else None
            return generate(network, local, speaker=speaker, n_samples=local.shape[-1] * network.hop)
        n_samples = round(self.config.seconds * self.mel.frame_rate) * self.mel.hop
        speakers = network.config.global_
        speaker = torch.arange(2) % speakers.n_speakers if speakers else None
        return generate(network, speaker=speaker, n_samples=n_samples, n=2)

    def evaluate(self, step: int) -> dict[str, float]:
        """Likelihood of the validation data and, for a vocoder, scores of the resynthesis."""
        losses = [float(self.loss(self.trained, batch)) for batch in self.validation_batches()]
        scores = {"nll": sum(losses) / len(losses)} if losses else {}
        if isinstance(self.trained, MelWaveNet):
            scores |= evaluate(self.trained, self.log_mel, self.waves[: self.config.n_heard])
        return scores

    @property
    def waves(self) -> list[Tensor]:
        return [one.wave if isinstance(one, Spoken) else one for one in self.validation]

    def validation_batches(self) -> list[Any]:
        """Validation batches, one per recording; none if the network needs speakers and they are unknown."""
        device = self.log_mel.window.device
        if self.validation and isinstance(self.validation[0], Spoken):
            return [send_to_device(one, device) for one in self.validation]
        if isinstance(self.config.network, WaveNetConfig) and self.config.network.global_:
            return []
        return [WaveBatch(wave.to(device)) for wave in self.waves]


class WaveBatch(NamedTuple):
    """A batch of waves without labels or features."""

    wave: Wave
