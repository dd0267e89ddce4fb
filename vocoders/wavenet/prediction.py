"""Linear prediction with coefficients derived from the log-mel, for ExcitNet and LP-WaveNet.

A log-mel approximates the spectral envelope, which defines an all-pole filter. The residual of that filter's
prediction, the excitation, is nearly white and has unit level, which makes it easiest to learn for a small
WaveNet. ExcitNet (Song et al., 2019) models the excitation; LP-WaveNet (Hwang et al., 2020) models the wave
and adds the prediction to the means of its output. As in LPCNet (Valin and Skoglund, 2019), generation needs
only the mel.
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
    """Linear-prediction analysis of the mel."""

    GONE: ClassVar[Mapping[str, Any]] = {"pre_emphasis": 0.0}
    order: int = 24
    """Filter coefficients: twice the sum of one per kHz of bandwidth and a few for the spectral tilt."""
    subframes: int = 4
    """Filters per mel frame, from linearly interpolated mels; must divide the hop."""
    lag_hz: float = 30.0
    """Standard deviation, Hz, of the Gaussian that smooths the spectrum: no poles on single harmonics."""
    white_noise: float = 1e-5
    """Power of added white noise relative to the frame's: limits the filter's dynamic range."""

    def __post_init__(self) -> None:
        at_least(1, self, "order", "subframes")
        within("(0, inf)", self, "white_noise")  # filters may be unstable at 0


class Predictor(NamedTuple):
    """One filter per subframe: the prediction of sample t is Σ coefficients[k] · wave[t − 1 − k]."""

    coefficients: Float[Tensor, "batch taps subframes"]
    gain: Float[Tensor, "batch 1 subframes"]
    """Expected RMS level of the residual."""
    hop: int
    """Samples per subframe."""


class MelPrediction(nn.Module):
    """Log-mels to filters: power spectrum from band levels, its autocorrelation, Levinson-Durbin."""

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

    def forward(self, mel: Float[Tensor, "batch n_mels frames"]) -> Predictor:
        with torch.autocast(mel.device.type, enabled=False):
            mel = mel.float() if self.mel.log == "ln" else mel.float() * math.log(10)
            # Frames are centred in their hops, and subframes in theirs.
            fine = F.interpolate(mel, scale_factor=self.config.subframes, mode="linear")
            lags = torch.fft.irfft(self.power(fine).transpose(1, 2))[..., : self.config.order + 1].double()
            lags = lags * self.lag_window
            lags[..., 0] = lags[..., 0] * (1 + self.config.white_noise) + LSB**2  # the residual's floor
            coefficients, error = levinson_durbin(lags)
            hop = self.mel.hop // self.config.subframes
            return Predictor(coefficients.transpose(1, 2).float(), error.sqrt()[:, None].float(), hop)

    def power(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch bins frames"]:
        """Power spectral density, scaled so that its mean over the unit circle is the wave's mean square."""
        doubled = 2 if self.mel.power == 1 else 1
        return (doubled * (self.spread @ mel) + self.offset).exp()


def _spread(mel: MelConfig) -> Float[Tensor, "bins n_mels"]:
    """Weights that linearly interpolate log band levels to STFT bins."""
    centres = mel_corners(mel)[1:-1]
    bins = np.linspace(0, mel.sample_rate / 2, mel.n_fft // 2 + 1)
    weights = np.stack([np.interp(bins, centres, row) for row in np.eye(mel.n_mels)], axis=1)
    return torch.from_numpy(weights.astype(np.float32))


def _offset(mel: MelConfig) -> Float[Tensor, "bins 1"]:
    """Offset from interpolated log bands to log power: filter area, window, mean of a magnitude."""
    area = mel_filters(mel).sum(1).clamp_min(1e-8).log()[:, None]
    window = torch.hann_window(mel.win).square().sum().log()
    if mel.power == 2:
        return -(_spread(mel) @ area) - window
    return -2 * (_spread(mel) @ area) - window + math.log(4 / math.pi)  # noise: mean |X|² = 4/π (mean |X|)²


def levinson_durbin(
    lags: Float[Tensor, "*batch lags"],
) -> tuple[Float[Tensor, "*batch order"], Float[Tensor, "*batch"]]:
    """Solve the normal equations of linear prediction; return coefficients and the mean squared error.

    The filters are stable if the autocorrelations belong to a spectrum above 0.
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
    """Predict every sample from the previous ones; ``past`` are the samples before the wave."""
    taps, n_filters = predictor.coefficients.shape[1:]
    before = wave.new_zeros(len(wave), 1, taps) if past is None else past
    windows = torch.cat([before, wave[..., :-1]], dim=-1).squeeze(1).unfold(-1, taps, 1)
    windows = windows.reshape(len(wave), n_filters, predictor.hop, taps)
    newest_last = predictor.coefficients.flip(1).transpose(1, 2)[..., None]
    with torch.autocast(wave.device.type, enabled=False):
        return (windows @ newest_last).reshape(len(wave), 1, -1)


def excitation(wave: Wave, predictor: Predictor) -> Float[Tensor, "batch 1 samples"]:
    """The residual of the prediction, scaled to unit level: ExcitNet's signal."""
    return (wave - predict(wave, predictor)) / predictor.gain.repeat_interleave(predictor.hop, dim=-1)


def synthesize(
    excitation: Float[Tensor, "batch 1 samples"],
    predictor: Predictor,
    past: Float[Tensor, "batch 1 taps"] | None = None,
) -> tuple[Wave, Float[Tensor, "batch 1 taps"]]:
    """Filter an excitation to a wave (the inverse of ``excitation``); also return the next block's ``past``.

    The samples of each filter solve a triangular system, which depends on the ``taps`` samples before.
    """
    taps, n_filters = predictor.coefficients.shape[1:]
    hop, batch = predictor.hop, len(excitation)
    row, column = torch.arange(hop)[:, None], torch.arange(taps + hop)[None]
    tap = (row + taps - 1 - column).to(excitation.device)  # which coefficient reaches from column to row
    table = F.pad(predictor.coefficients.double().transpose(1, 2), (0, 1))
    tap = torch.where((tap >= 0) & (tap < taps), tap, taps)
    reach = table[..., tap]  # (batch, n_filters, hop, taps + hop)
    system = torch.eye(hop, dtype=torch.float64, device=excitation.device) - reach[..., taps:]
    gain = predictor.gain[:, 0, :, None, None].double()
    driven = excitation.double().reshape(batch, n_filters, hop, 1) * gain
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
