"""Causal front end: log-mels of windows that end with their frame, and a running speech level."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import running_maximum

Wave = Float[Tensor, "batch 1 samples"]
Frames = Float[Tensor, "batch n_mels frames"]
Curve = Float[Tensor, "batch 1 frames"]

FLOOR = 1e-3
"""Magnitude floor of mels without level normalisation: ten times the quantisation noise of 16-bit audio."""
FAINT = 1e-7
"""Magnitude floor of mels before level normalisation: far below the noise of any recording."""
LEVEL_FRAMES = 8
"""Frames over which power is averaged; the level is the maximum of these averages."""
LEVEL_DECAY = 0.01 * math.log(10.0) / 20.0
"""Decay of the level per frame: .01 dB."""
CONFIRM_FRAMES = 18
"""Distance in frames of the two averages that confirm a level; a slam or a click is in only one of them."""
CONFIRM_MARGIN = 0.35
"""Log magnitude by which the earlier of the two averages may be lower."""
PEAK_DECAY = 0.4 * math.log(10.0) / 20.0
"""Decay per frame of the level of unconfirmed peaks: .4 dB."""
SILENCE = -9.0
"""Log magnitude of the initial level: about −95 dBFS."""


class CausalLogMel(nn.Module):
    """A causal log-mel front end: frame ``t`` depends only on samples before ``(t + 1) * hop``.

    With ``f_min`` above 0, a DC offset reaches no band. ``exact`` in ``step`` computes in float64, so that
    rounding differences between chunkings become negligible.
    """

    taper: Tensor
    bands: Tensor

    def __init__(
        self,
        sample_rate: int,
        hop: int,
        window: int,
        n_mels: int,
        *,
        f_min: float = 0.0,
        floor: float = FLOOR,
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.window, self.n_mels = sample_rate, hop, window, n_mels
        self.f_min, self.floor = f_min, floor
        self.n_fft = 2 ** math.ceil(math.log2(window))
        self.register_buffer("taper", torch.hann_window(window, dtype=torch.float64), persistent=False)
        self.register_buffer("bands", self._bands(torch.ones(1))[0], persistent=False)

    @property
    def context(self) -> int:
        """Number of past samples that the next frame depends on."""
        return self.window - self.hop

    def forward(self, wave: Wave, warp: Float[Tensor, " batch"] | None = None) -> Frames:
        """Analyse a whole wave; ``warp`` scales frequencies (vocal tract length perturbation)."""
        return self.step(wave, self.begin(wave.shape[0]), warp)[0]

    def begin(self, batch: int) -> Float[Tensor, "batch 1 context"]:
        """Return the state before the first sample: zeros, or NaN if ``f_min`` is above 0.

        NaN is replaced by the value of the first sample, so that a DC offset does not begin with a click.
        """
        return self.bands.new_full((batch, 1, self.context), math.nan if self.f_min else 0.0)

    def step(
        self,
        wave: Wave,
        past: Float[Tensor, "batch 1 context"],
        warp: Float[Tensor, " batch"] | None = None,
        *,
        exact: bool = False,
    ) -> tuple[Frames, Float[Tensor, "batch 1 context"]]:
        """Analyse one chunk, whose length is a multiple of the hop size."""
        if self.f_min:
            past = torch.where(past.isnan(), wave[..., :1], past)
        window = torch.cat([past, wave], dim=-1)
        dtype = torch.float64 if exact else torch.float32
        bands = (self.bands if warp is None else self._bands(warp)).to(dtype)
        with torch.autocast(wave.device.type, enabled=False):
            frames = window[:, 0].to(dtype).unfold(-1, self.window, self.hop)  # (batch, frames, window)
            spectrum = torch.fft.rfft(frames * self.taper.to(dtype), n=self.n_fft)
            # Not abs(), whose gradient is infinite in silence.
            magnitude = (spectrum.real.square() + spectrum.imag.square() + self.floor**2).sqrt()
            mels = (magnitude @ bands).clamp_min(self.floor).log().transpose(1, 2)
        return mels, window[..., window.shape[-1] - self.context :]

    def _bands(self, warp: Float[Tensor, " batch"]) -> Float[Tensor, "batch bins n_mels"]:
        """Make triangular mel filters of unit sum, with band edges scaled by ``warp``."""
        nyquist = self.sample_rate / 2
        low, top = (2595.0 * math.log10(1.0 + f / 700.0) for f in (self.f_min, nyquist))
        mels = torch.linspace(low, top, self.n_mels + 2, device=warp.device)
        edges = 700.0 * (10 ** (mels / 2595.0) - 1.0)
        # Piecewise linear, so that 0 and the Nyquist frequency remain fixed.
        knee = 0.6 * nyquist
        scaled = edges * warp[:, None]
        slope = (nyquist - knee * warp[:, None]) / (nyquist - knee)
        edges = torch.where(edges < knee, scaled, knee * warp[:, None] + slope * (edges - knee))
        bins = torch.linspace(0.0, nyquist, self.n_fft // 2 + 1, device=warp.device)
        low_edge, centre, high_edge = edges[:, None, :-2], edges[:, None, 1:-1], edges[:, None, 2:]
        # Low bands are narrower than a bin, so flanks are at least one bin wide.
        width = nyquist / (self.n_fft // 2)
        rise = (bins[None, :, None] - low_edge) / (centre - low_edge).clamp_min(width)
        fall = (high_edge - bins[None, :, None]) / (high_edge - centre).clamp_min(width)
        triangles = torch.minimum(rise, fall).clamp_min(0.0)
        if self.f_min:  # without the bins into which the window spreads a DC offset
            triangles = triangles * (bins[None, :, None] > 1.5 * width)
        return triangles / triangles.sum(1, keepdim=True).clamp_min(1e-3)


def frame_energy(mels: Frames) -> Curve:
    """Return the level of each frame, the log of its mean mel magnitude."""
    return torch.logsumexp(mels, dim=1, keepdim=True) - math.log(mels.shape[1])


class LevelState(NamedTuple):
    """The state of a level tracker between chunks, in float64."""

    power: Float[Tensor, "batch 1 past"]
    """Power of the last frames."""
    level: Float[Tensor, "batch 1 1"]
    peak: Float[Tensor, "batch 1 1"]
    """Level of unconfirmed peaks."""


class LevelTracker(nn.Module):
    """A causal tracker of the speech level: log magnitude of the loudest tenth of a second, with slow decay.

    Later modules receive mels minus this level, which makes them independent of the recording level. Single
    peaks such as a slamming door decay within a second.
    """

    def begin(self, batch: int, device: torch.device | None = None) -> LevelState:
        power = torch.zeros(batch, 1, LEVEL_FRAMES - 1 + CONFIRM_FRAMES, device=device, dtype=torch.float64)
        level = torch.full_like(power[..., :1], SILENCE)
        return LevelState(power, level, level)

    @torch.no_grad()
    def step(self, energy: Curve, state: LevelState) -> tuple[Curve, LevelState]:
        """Return the level at each frame of one chunk, from the frames' log magnitudes."""
        past, level, peak = (part.to(energy.dtype) for part in state)
        power = torch.cat([past, (2.0 * energy).exp()], dim=-1)
        smooth = power.unfold(-1, LEVEL_FRAMES, 1).mean(-1).clamp_min(1e-12).log() / 2.0
        now, before = smooth[..., CONFIRM_FRAMES:], smooth[..., :-CONFIRM_FRAMES]
        peaks = decaying_maximum(now, peak, PEAK_DECAY)
        levels = decaying_maximum(torch.minimum(now, before + CONFIRM_MARGIN), level, LEVEL_DECAY)
        last = (power[..., energy.shape[-1] :], levels[..., -1:], peaks[..., -1:])
        return torch.maximum(levels, peaks), LevelState(*(part.double() for part in last))


def decaying_maximum(x: Curve, before: Float[Tensor, "batch 1 1"], decay: float) -> Curve:
    """Return the running maximum of a curve with a linear ``decay`` per frame."""
    # Equals a running maximum after adding a linear ramp.
    rise = decay * torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    return (running_maximum(torch.maximum(x + rise, before)) - rise).clamp_min(SILENCE)
