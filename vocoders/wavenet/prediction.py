"""Linear prediction whose coefficients are read off the log-mel itself, for ExcitNet and LP-WaveNet.

A log-mel tells the spectral envelope, and an envelope is an all-pole filter: what is left of a wave after
that filter's prediction, the excitation, is nearly white and of unit level, which a small WaveNet learns
soonest. ExcitNet (Song et al., 2019) runs the WaveNet over the excitation; LP-WaveNet (Hwang et al., 2020)
runs it over the wave and adds the prediction to the means of its output. As in LPCNet (Valin and Skoglund,
2019) nothing but the mel is needed to generate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import MelConfig, mel_corners, mel_filters
from engine.user_error import UserError, at_least, within
from vocoders.wavenet.distributions import LSB

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    """How the all-pole filter is found."""

    GONE: ClassVar[Mapping[str, Any]] = {"pre_emphasis": 0.0}
    order: int = 24
    """Coefficients: about one for each kHz of bandwidth and a few for the voice's tilt, twice over."""
    subframes: int = 4
    """Filters for each mel frame, of mels interpolated in between; divides the hop."""
    lag_hz: float = 30.0
    """Standard deviation of the Gaussian that smooths the spectrum: poles keep away from single harmonics."""
    white_noise: float = 1e-5
    """Power of white noise added, as a share of the frame's: bounds the filter's dynamic range."""

    def __post_init__(self) -> None:
        at_least(1, self, "order", "subframes")
        within("(0, inf)", self, "white_noise")  # without it filters may be unstable


class Predictor(NamedTuple):
    """A filter for each subframe: the next sample is expected at Σ coefficients[k] · wave[t − 1 − k]."""

    coefficients: Float[Tensor, "batch taps subframes"]
    gain: Float[Tensor, "batch 1 subframes"]
    """Expected level (RMS) of what the prediction misses."""


class MelPrediction(nn.Module):
    """From log-mels to filters: band levels, their power spectrum, its autocorrelation, Levinson-Durbin."""

    def __init__(self, config: PredictionConfig, mel: MelConfig) -> None:
        super().__init__()
        if mel.hop % config.subframes:
            raise UserError(f"subframes={config.subframes} must divide the hop, {mel.hop} samples")
        self.config, self.mel = config, mel
        # Not in checkpoints: the configuration determines them.
        self.register_buffer("spread", _spread(mel), persistent=False)
        self.register_buffer("offset", _offset(mel), persistent=False)
        lags = torch.arange(config.order + 1) * (2 * math.pi * config.lag_hz / mel.sample_rate)
        self.register_buffer("lag_window", torch.exp(-0.5 * lags.square()), persistent=False)

    spread: Tensor
    offset: Tensor
    lag_window: Tensor

    @property
    def hop(self) -> int:
        """Samples a filter serves."""
        return self.mel.hop // self.config.subframes

    def forward(self, mel: Float[Tensor, "batch n_mels frames"]) -> Predictor:
        with torch.autocast(mel.device.type, enabled=False):
            mel = mel.float() if self.mel.log == "ln" else mel.float() * math.log(10)
            # Frames stand in the middle of their hop, and so do subframes in theirs.
            fine = F.interpolate(mel, scale_factor=self.config.subframes, mode="linear")
            lags = torch.fft.irfft(self.power(fine).transpose(1, 2))[..., : self.config.order + 1].double()
            lags = lags * self.lag_window
            lags[..., 0] = lags[..., 0] * (1 + self.config.white_noise) + LSB**2  # no excitation is quieter
            coefficients, error = levinson_durbin(lags)
            return Predictor(coefficients.transpose(1, 2).float(), error.sqrt()[:, None].float())

    def power(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch bins frames"]:
        """Power spectral density, such that its mean over the whole circle is the wave's mean square."""
        doubled = 2 if self.mel.power == 1 else 1
        return (doubled * (self.spread @ mel) + self.offset).exp()


def _spread(mel: MelConfig) -> Float[Tensor, "bins n_mels"]:
    """Weights that interpolate logarithmic band levels linearly over the transform's bins."""
    centres = mel_corners(mel)[1:-1]
    bins = np.linspace(0, mel.sample_rate / 2, mel.n_fft // 2 + 1)
    weights = np.stack([np.interp(bins, centres, row) for row in np.eye(mel.n_mels)], axis=1)
    return torch.from_numpy(weights.astype(np.float32))


def _offset(mel: MelConfig) -> Float[Tensor, "bins 1"]:
    """What turns an interpolated log band into a log power: filter area, window, mean of a magnitude."""
    area = mel_filters(mel).sum(1).clamp_min(1e-8).log()[:, None]
    window = torch.hann_window(mel.win).square().sum().log()
    if mel.power == 2:
        return -(_spread(mel) @ area) - window
    return -2 * (_spread(mel) @ area) - window + math.log(4 / math.pi)  # noise: mean |X|² = 4/π (mean |X|)²


def levinson_durbin(
    lags: Float[Tensor, "*batch lags"],
) -> tuple[Float[Tensor, "*batch order"], Float[Tensor, "*batch"]]:
    """Solve the normal equations of linear prediction; returns coefficients and the mean squared error left.

    All filters that the coefficients make are stable if the autocorrelations are those of a spectrum above 0.
    """
    error = lags[..., 0]
    coefficients = lags.new_zeros(*lags.shape[:-1], 0)
    for order in range(1, lags.shape[-1]):
        expected = (coefficients * lags[..., 1:order].flip(-1)).sum(-1)
        reflection = (lags[..., order] - expected) / error
        turned = coefficients - reflection[..., None] * coefficients.flip(-1)
        coefficients = torch.cat([turned, reflection[..., None]], dim=-1)
        error = error * (1 - reflection.square())
    return coefficients, error


def predict(
    wave: Wave, predictor: Predictor, past: Float[Tensor, "batch 1 taps"] | None = None
) -> Float[Tensor, "batch 1 samples"]:
    """Every sample as the filter expects it from those before; ``past`` are the samples before the wave."""
    taps, n_filters = predictor.coefficients.shape[1:]
    hop = _hop(wave, n_filters)
    before = wave.new_zeros(len(wave), 1, taps) if past is None else past
    windows = torch.cat([before, wave[..., :-1]], dim=-1).squeeze(1).unfold(-1, taps, 1)
    windows = windows.reshape(len(wave), n_filters, hop, taps)
    newest_last = predictor.coefficients.flip(1).transpose(1, 2)[..., None]
    with torch.autocast(wave.device.type, enabled=False):
        return (windows @ newest_last).reshape(len(wave), 1, -1)


def excitation(wave: Wave, predictor: Predictor) -> Float[Tensor, "batch 1 samples"]:
    """What the prediction misses, brought to unit level: ExcitNet's signal."""
    hop = _hop(wave, predictor.gain.shape[-1])
    return (wave - predict(wave, predictor)) / predictor.gain.repeat_interleave(hop, dim=-1)


def synthesize(
    excitation: Float[Tensor, "batch 1 samples"],
    predictor: Predictor,
    past: Float[Tensor, "batch 1 taps"] | None = None,
) -> tuple[Wave, Float[Tensor, "batch 1 taps"]]:
    """The inverse of ``excitation``: returns the wave and its end, the ``past`` of what follows.

    Blocks under one filter are a triangular system each; only the last ``taps`` samples pass between blocks.
    """
    taps, n_filters = predictor.coefficients.shape[1:]
    hop, batch = _hop(excitation, n_filters), len(excitation)
    row, column = torch.arange(hop)[:, None], torch.arange(taps + hop)[None]
    tap = (row + taps - 1 - column).to(excitation.device)  # which coefficient reaches from column to row
    table = F.pad(predictor.coefficients.double().transpose(1, 2), (0, 1))
    reach = table[
        ..., torch.where((tap >= 0) & (tap < taps), tap, taps)
    ]  # (batch, n_filters, hop, taps + hop)
    system = torch.eye(hop, dtype=torch.float64, device=excitation.device) - reach[..., taps:]
    driven = (
        excitation.double().reshape(batch, n_filters, hop, 1) * predictor.gain[:, 0, :, None, None].double()
    )
    solved = torch.linalg.solve_triangular(
        system, torch.cat([driven, reach[..., :taps]], dim=-1), upper=False, unitriangular=True
    )
    end = excitation.new_zeros(batch, taps).double() if past is None else past[:, 0].double()
    blocks = []
    for index in range(n_filters):
        block = solved[:, index, :, 0] + (solved[:, index, :, 1:] @ end[..., None])[..., 0]
        blocks.append(block)
        end = torch.cat([end, block], dim=-1)[:, -taps:]
    return torch.cat(blocks, dim=-1)[:, None].float(), end[:, None].float()


def _hop(wave: Tensor, n_filters: int) -> int:
    if n_filters == 0 or wave.shape[-1] % n_filters:
        raise ValueError(f"{wave.shape[-1]} samples are no multiple of the {n_filters} filters' stretches")
    return wave.shape[-1] // n_filters
