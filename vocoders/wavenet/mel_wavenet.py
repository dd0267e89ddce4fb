"""A WaveNet that speaks from log-mels: plain, ExcitNet or LP-WaveNet; the network of a ``Vocoder``."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.frontends import MelConfig, mel_corners
from engine.user_error import UserError
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import (
    MixtureOfLogistics,
    MuLaw,
    delay,
    dither,
    encode,
    negative_log_likelihood,
    predicted,
)
from vocoders.wavenet.generation import Backend, pieces
from vocoders.wavenet.network import WaveNet, WaveNetConfig
from vocoders.wavenet.prediction import (
    MelPrediction,
    PredictionConfig,
    Predictor,
    excitation,
    predict,
    synthesize,
)
from vocoders.wavenet.sampling import Sampler

Wave = Float[Tensor, "batch 1 samples"]
Mel = Float[Tensor, "batch n_mels frames"]
HEADROOM = 32.0
"""An excitation's full scale over its level: glottal pulses reach 10 to 20."""
CENTRE, SPAN = -5.0, 3.0
"""Natural log-mels less the one, over the other, are what the network sees."""


@dataclass(frozen=True, kw_only=True)
class MelWaveNetConfig:
    """A WaveNet, what it runs over, and how it is sampled."""

    GONE: ClassVar[Mapping[str, Any]] = {"match_passes": 0}
    wavenet: WaveNetConfig = field(
        default_factory=lambda: WaveNetConfig(
            output=MixtureOfLogistics(), local=LocalConfig(upsampling="repetition", scales=(160,), pad=0)
        )
    )
    """The network. Its local conditioning is the mel, its hop the mel's."""
    signal: Literal["wave", "excitnet", "lp_wavenet"] = "excitnet"
    """wave: the recording itself. excitnet: what linear prediction misses in it, at unit level (Song et al.
    2019). lp_wavenet: the recording, the prediction added to its distribution's means (Hwang et al. 2020)."""
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    """The filters, read off the mel."""
    sampler: Sampler = field(default_factory=Sampler)
    """How samples are drawn."""

    def __post_init__(self) -> None:
        if self.wavenet.local is None:
            raise UserError("a WaveNet that speaks from mels needs wavenet.local")
        if self.signal != "wave" and isinstance(self.wavenet.output, MuLaw):
            raise UserError(
                f"signal={self.signal} needs amplitudes: set wavenet.output to MixtureOfLogistics or Gaussian"
            )


class MelWaveNet(nn.Module):
    """From log-mels of one definition to waves."""

    def __init__(self, config: MelWaveNetConfig, mel: MelConfig) -> None:
        super().__init__()
        local = config.wavenet.local
        assert local is not None
        if (local.n, local.hop) != (mel.n_mels, mel.hop):
            raise UserError(
                f"wavenet.local has {local.n} channels and a hop of {local.hop}, the mel has "
                f"{mel.n_mels} bands and a hop of {mel.hop}: make them agree"
            )
        self.config, self.mel, self.hop, self.n_mels = config, mel, mel.hop, mel.n_mels
        self.wavenet = WaveNet(config.wavenet)
        self.prediction = MelPrediction(config.prediction, mel)
        if config.signal == "excitnet":
            _expect_level(self.wavenet, 1 / HEADROOM)

    def fold(self) -> "MelWaveNet":
        self.wavenet.fold()
        return self

    def condition(self, mel: Mel) -> Mel:
        """The mel as the network sees it."""
        natural = mel * math.log(10) if self.mel.log == "log10" else mel
        return (natural - CENTRE) / SPAN

    def loss(self, wave: Wave, mel: Mel, margin: int = 0) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of a wave's 16-bit samples given its mel, in nats, for any signal.

        ``margin`` samples at either end are left out: there, mels of a crop know its mirrored edges. Those
        at the beginning are still heard.
        """
        config, output, n_samples = self.config, self.config.wavenet.output, wave.shape[-1] - margin
        if self.training and config.wavenet.lsb_noise:
            wave = dither(wave)
        predictor = self.prediction(mel)
        signal = wave
        if config.signal == "excitnet":
            signal = (excitation(wave, predictor) / HEADROOM).clamp(-1, 1)
        target = encode(output, signal)[..., :n_samples]
        past = delay(output, target)
        parameters = self.wavenet(past, self.condition(mel)[..., : n_samples // self.hop])[..., margin:]
        if config.signal == "lp_wavenet":
            expected = predict(wave, predictor)[..., margin:n_samples]
            gain = predictor.gain.repeat_interleave(self.prediction.hop, dim=-1)[..., margin:n_samples]
            parameters = predicted(output, parameters.float(), expected, gain)
        surprise = negative_log_likelihood(output, parameters, target[..., margin:]).mean()
        if config.signal == "excitnet":  # the same step is that much smaller, seen as excitation
            surprise = surprise + predictor.gain.mul(HEADROOM).log().mean()
        return surprise

    def forward(self, mel: Mel) -> Wave:
        return self.generate(mel)

    @torch.no_grad()
    def generate(
        self,
        mel: Mel,
        noise: None = None,
        *,
        seed: int = 0,
        sampler: Sampler | None = None,
        backend: Backend = "auto",
    ) -> Wave:
        """Draw waves of frames · hop samples from ``seed``; ``noise`` is not used."""
        return torch.cat(list(self.pieces(mel, seed=seed, sampler=sampler, backend=backend)), dim=-1)

    @torch.no_grad()
    def pieces(
        self, mel: Mel, *, seed: int = 0, sampler: Sampler | None = None, backend: Backend = "auto"
    ) -> Iterator[Float[Tensor, "batch 1 _"]]:
        """``generate``, piece after piece; only the mel takes memory that grows."""
        config, sampler = self.config, sampler or self.config.sampler
        predictor = self.prediction(mel)
        inside = config.signal == "lp_wavenet"
        spoken = voiced(mel, self.mel) if sampler.needs_voicing else None
        past, start = None, 0
        for drawn in pieces(
            self.wavenet,
            self.condition(mel),
            sampler=sampler,
            seed=seed,
            backend=backend,
            voiced=spoken,
            prediction=predictor.coefficients if inside else None,
            gain=predictor.gain if inside else None,
        ):
            if config.signal != "excitnet":
                yield drawn
                continue
            stop = start + drawn.shape[-1] // self.prediction.hop
            piece = Predictor(predictor.coefficients[..., start:stop], predictor.gain[..., start:stop])
            wave, past = synthesize(drawn * HEADROOM, piece, past)
            start = stop
            yield wave.clamp(-1, 1)


def voiced(mel: Mel, config: MelConfig) -> Bool[Tensor, "batch frames"]:
    """Guess which frames are voiced: the bass outweighs the treble, and is no hum of a quiet room."""
    natural = mel * math.log(10) if config.log == "log10" else mel
    centres = torch.from_numpy(mel_corners(config)[1:-1])
    bass, treble = natural[:, centres < 1_000].mean(1), natural[:, centres > 4_000].mean(1)
    quiet = bass.flatten(1).quantile(0.1, dim=1, keepdim=True)
    return (bass - treble > 1.0) & (bass > quiet + 1.0)


@torch.no_grad()
def _expect_level(wavenet: WaveNet, level: float) -> None:
    """Begin a network as if its signal had unit level, though it has ``level``."""
    output = wavenet.config.output
    assert not isinstance(output, MuLaw)
    wavenet.first_conv.weight = wavenet.first_conv.weight / level
    last = wavenet.last_conv_layers[3]
    assert isinstance(last, nn.Conv1d)
    assert last.bias is not None
    weight, first = last.weight.clone(), output.n_out - 2 * output.n
    means, log_scales = slice(first, first + output.n), slice(first + output.n, None)
    weight[means] *= level
    last.weight = weight
    last.bias[means] = torch.linspace(-level, level, output.n) if output.n > 1 else 0.0
    last.bias[log_scales] = math.log(level / 2)
