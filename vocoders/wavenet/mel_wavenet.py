"""A WaveNet conditioned on log-mels: plain, ExcitNet or LP-WaveNet; the network of a ``Vocoder``."""

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
from vocoders.weight_norm import Foldable

Wave = Float[Tensor, "batch 1 samples"]
Mel = Float[Tensor, "batch n_mels frames"]
HEADROOM = 32.0
"""Full scale of an excitation relative to its RMS level: glottal pulses reach 10 to 20."""
CENTRE, SPAN = -5.0, 3.0
"""Mean and scale by which natural log-mels are normalised for the network."""


@dataclass(frozen=True, kw_only=True)
class MelWaveNetConfig:
    """A WaveNet on mels, the signal it models, and its sampling."""

    GONE: ClassVar[Mapping[str, Any]] = {"match_passes": 0}
    wavenet: WaveNetConfig = field(
        default_factory=lambda: WaveNetConfig(
            output=MixtureOfLogistics(), local=LocalConfig(upsampling="repetition", scales=(160,), pad=0)
        )
    )
    """The network; its local conditioning is the mel, its hop the mel's."""
    signal: Literal["wave", "excitnet", "lp_wavenet"] = "excitnet"
    """wave: the recording itself. excitnet: its linear-prediction residual, at unit level (Song et al. 2019).
    lp_wavenet: the recording, with the linear prediction added to the output's means (Hwang et al. 2020)."""
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    """Linear-prediction filters, derived from the mel."""
    sampler: Sampler = field(default_factory=Sampler)
    """How samples are drawn."""

    def __post_init__(self) -> None:
        if self.wavenet.local is None:
            raise UserError("a WaveNet with mel input needs wavenet.local")
        if self.signal != "wave" and isinstance(self.wavenet.output, MuLaw):
            raise UserError(
                f"signal={self.signal} needs amplitudes: set wavenet.output to MixtureOfLogistics or Gaussian"
            )


class MelWaveNet(Foldable):
    """A WaveNet vocoder: log-mels of one definition to waves."""

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

    def condition(self, mel: Mel) -> Mel:
        """Convert a log-mel to the network's input: natural log, normalised."""
        natural = mel * math.log(10) if self.mel.log == "log10" else mel
        return (natural - CENTRE) / SPAN

    def loss(self, wave: Wave, mel: Mel, margin: int = 0) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of a wave's 16-bit samples given its mel, in nats, for any signal.

        ``margin`` samples at each end are left out of the mean, because a crop's mel is distorted there by
        reflection padding. Those at the beginning are still input to the network.
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
            gain = predictor.gain.repeat_interleave(predictor.hop, dim=-1)[..., margin:n_samples]
            parameters = predicted(output, parameters.float(), expected, gain)
        loss = negative_log_likelihood(output, parameters, target[..., margin:]).mean()
        if config.signal == "excitnet":  # change of variables: from the scaled excitation to the wave
            loss = loss + predictor.gain.mul(HEADROOM).log().mean()
        return loss

    @torch.no_grad()
    def forward(self, mel: Mel, **options: Any) -> Wave:
        """Generate waves of frames · hop samples; options as those of ``pieces``."""
        return torch.cat(list(self.pieces(mel, **options)), dim=-1)

    @torch.no_grad()
    def pieces(
        self, mel: Mel, *, seed: int = 0, sampler: Sampler | None = None, backend: Backend = "auto"
    ) -> Iterator[Float[Tensor, "batch 1 _"]]:
        """Generate waves in pieces; memory apart from the mel's is constant."""
        config, sampler = self.config, sampler or self.config.sampler
        predictor = self.prediction(mel)
        voiced_frames = voiced(mel, self.mel) if sampler.needs_voicing else None
        past, start = None, 0
        for drawn in pieces(
            self.wavenet,
            self.condition(mel),
            sampler=sampler,
            seed=seed,
            backend=backend,
            voiced=voiced_frames,
            predictor=predictor if config.signal == "lp_wavenet" else None,
        ):
            if config.signal != "excitnet":
                yield drawn
                continue
            part = slice(start, start + drawn.shape[-1] // predictor.hop)
            piece = Predictor(predictor.coefficients[..., part], predictor.gain[..., part], predictor.hop)
            wave, past = synthesize(drawn * HEADROOM, piece, past)
            start = part.stop
            yield wave.clamp(-1, 1)


def voiced(mel: Mel, config: MelConfig) -> Bool[Tensor, "batch frames"]:
    """Estimate which frames are voiced: low frequencies dominate and exceed the background level."""
    natural = mel * math.log(10) if config.log == "log10" else mel
    centres = torch.from_numpy(mel_corners(config)[1:-1])
    bass, treble = natural[:, centres < 1_000].mean(1), natural[:, centres > 4_000].mean(1)
    quiet = bass.flatten(1).quantile(0.1, dim=1, keepdim=True)
    return (bass - treble > 1.0) & (bass > quiet + 1.0)


@torch.no_grad()
def _expect_level(wavenet: WaveNet, level: float) -> None:
    """Scale a network's initial input and output weights for a signal of RMS ``level`` instead of 1."""
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
