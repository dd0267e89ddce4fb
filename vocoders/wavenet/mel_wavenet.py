"""A WaveNet that speaks from log-mels: plain, ExcitNet or LP-WaveNet; the network of a ``Vocoder``.

Mel matching pulls a generated wave towards the mel it was made from: each pass multiplies the wave's STFT by
the ratio of the wanted to the present log-mel, spread over the bins, and goes back to a wave. Where
Griffin-Lim must invent every phase, this starts from a wave that has them. It is a post-filter: what it does
to a log-mel distance says little of how the wave sounds, so figures with and without it belong side by side
(it would bring even white noise near to any mel).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig, mel_corners, stft
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

REACH = 4.6
"""Nepers (40 dB) that a pass may at most raise or lower a band."""


class MelMatching(nn.Module):
    """The post-filter for one mel definition."""

    def __init__(self, mel: MelConfig, *, strength: float = 1.5) -> None:
        super().__init__()
        if mel.padding != "same":
            raise UserError(f"mel matching goes back from frames of padding 'same', not {mel.padding!r}")
        self.mel, self.strength = mel, strength
        self.log_mel = LogMel(mel)
        filters = self.log_mel.filters
        total = filters.sum(0, keepdim=True)
        # Not in checkpoints: the configuration determines them.
        self.register_buffer("spread", (filters / total.clamp_min(1e-8)).T, persistent=False)
        window = F.pad(self.log_mel.window, _sides(mel.n_fft - mel.win))
        self.register_buffer("window", window, persistent=False)

    spread: Tensor
    window: Tensor

    def forward(
        self, wave: Float[Tensor, "batch 1 samples"], mel: Float[Tensor, "batch n_mels frames"], passes: int
    ) -> Float[Tensor, "batch 1 samples"]:
        """Return the wave after ``passes``; it must have the mel's frames, a hop each."""
        config = self.mel
        neper = 2.302585 if config.log == "log10" else 1.0
        per_magnitude = neper / config.power * self.strength
        for _ in range(passes):
            spectrum = stft(
                wave, n_fft=config.n_fft, hop=config.hop, win=config.win, window=self.log_mel.window
            )
            present = self.log_mel.compress(self.log_mel.energies(spectrum))
            ratio = (self.spread @ (mel - present).mul(per_magnitude).clamp(-REACH, REACH)).exp()
            wave = self.inverse(spectrum * ratio, wave.shape[-1])
        return wave

    def inverse(
        self, spectrum: Complex[Tensor, "batch bins frames"], n_samples: int
    ) -> Float[Tensor, "batch 1 samples"]:
        """The wave whose STFT of this definition is nearest (least squares)."""
        n_fft, hop, n_frames = self.mel.n_fft, self.mel.hop, spectrum.shape[-1]
        frames = torch.fft.irfft(spectrum, n_fft, dim=1) * self.window[:, None]
        weight = self.window.square()[None, :, None].expand(1, n_fft, n_frames)
        shape = (1, (n_frames - 1) * hop + n_fft)
        total, weights = (F.fold(x, shape, (1, n_fft), stride=(1, hop))[:, :, 0] for x in (frames, weight))
        start = (n_fft - hop) // 2
        return (total / weights.clamp_min(1e-3))[..., start : start + n_samples]


def _sides(n: int) -> tuple[int, int]:
    return n // 2, n - n // 2


Wave = Float[Tensor, "batch 1 samples"]
Mel = Float[Tensor, "batch n_mels frames"]
HEADROOM = 32.0
"""An excitation's full scale over its level: glottal pulses reach 10 to 20."""
CENTRE, SPAN = -5.0, 3.0
"""Natural log-mels less the one, over the other, are what the network sees."""


@dataclass(frozen=True, kw_only=True)
class MelWaveNetConfig:
    """A WaveNet, what it runs over, and how it is sampled."""

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
    match_passes: int = 0
    """Passes of the post-filter ``MelMatching``; 0: the wave as it was drawn."""

    def __post_init__(self) -> None:
        if self.wavenet.local is None:
            raise UserError("a WaveNet that speaks from mels needs wavenet.local")
        if self.match_passes < 0:
            raise UserError(f"match_passes={self.match_passes} must be 0 or more")
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
        """Remove weight norm in place."""
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
        match_passes: int | None = None,
        backend: Backend = "auto",
    ) -> Wave:
        """Draw waves of frames · hop samples from ``seed``; ``noise`` is not used."""
        whole = torch.cat(list(self.pieces(mel, seed=seed, sampler=sampler, backend=backend)), dim=-1)
        passes = self.config.match_passes if match_passes is None else match_passes
        return MelMatching(self.mel).to(mel.device)(whole, mel, passes) if passes else whole

    def stream(
        self,
        mels: Iterable[Float[Tensor, "batch n_mels _"]],
        seeds: Sequence[int] = (0,),
        **options: Any,
    ) -> Iterator[Float[Tensor, "batch 1 _"]]:
        """As ``Vocoder.stream`` wants it: the mel is gathered, the wave comes in pieces.

        With ``match_passes`` it comes whole. Row i is drawn from ``(seeds[0], i)``.
        """
        mel, passes = torch.cat(list(mels), dim=-1), options.pop("match_passes", self.config.match_passes)
        if passes:
            yield self.generate(mel, seed=seeds[0], match_passes=passes, **options)
        else:
            yield from self.pieces(mel, seed=seeds[0], **options)

    @torch.no_grad()
    def pieces(
        self, mel: Mel, *, seed: int = 0, sampler: Sampler | None = None, backend: Backend = "auto"
    ) -> Iterator[Float[Tensor, "batch 1 _"]]:
        """``generate`` without mel matching, piece after piece; only the mel takes memory that grows."""
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
            own = Predictor(predictor.coefficients[..., start:stop], predictor.gain[..., start:stop])
            wave, past = synthesize(drawn * HEADROOM, own, past)
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
