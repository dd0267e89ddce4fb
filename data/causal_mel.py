"""What causal encoders see of a wave: log-mels of windows that end with their frame, and their level."""

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
"""Magnitude floor of absolute mels: ten times the quantisation noise of 16-bit audio."""
FAINT = 1e-7
"""Magnitude floor before a level is taken away: far below any recording's own noise."""
LEVEL_FRAMES = 8
"""Over which power is averaged: their loudest mean is the level."""
FALL = 0.01 * math.log(10.0) / 20.0
"""By which a level falls in a frame: .01 dB."""
APART = 18
"""Frames between the two means that tell a level: what is in one alone was a slam or a click."""
TWICE = 0.35
"""By which the earlier of the two may be fainter."""
FORGETS = 0.4 * math.log(10.0) / 20.0
"""By which the level of what was loud but once falls in a frame: .4 dB."""
SILENCE = -9.0
"""Log magnitude of the level before any sound: some −95 dBFS."""


class CausalLogMel(nn.Module):
    """Log-mels of a wave whose frame ``t`` has seen samples before ``(t + 1) * hop`` and none after.

    With an ``f_min`` a constant offset of the wave has no part in any band. ``exact`` computes in float64,
    whose rounding no chunking shows.
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
        """Past samples that the next frame still needs."""
        return self.window - self.hop

    def forward(self, wave: Wave, warp: Float[Tensor, " batch"] | None = None) -> Frames:
        """Frames of a whole wave; ``warp`` scales frequencies (vocal tract length perturbation)."""
        return self.step(wave, self.begin(wave.shape[0]), warp)[0]

    def begin(self, batch: int) -> Float[Tensor, "batch 1 context"]:
        """Before the first sample: silence, or with an ``f_min`` the first sample's value (marked by NaN).

        A recording with an offset would else begin with a click.
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
        """Analyse one chunk, a whole number of hops long."""
        if self.f_min:
            past = torch.where(past.isnan(), wave[..., :1], past)
        window = torch.cat([past, wave], dim=-1)
        dtype = torch.float64 if exact else torch.float32
        bands = (self.bands if warp is None else self._bands(warp)).to(dtype)
        with torch.autocast(wave.device.type, enabled=False):
            frames = window[:, 0].to(dtype).unfold(-1, self.window, self.hop)  # (batch, frames, window)
            spectrum = torch.fft.rfft(frames * self.taper.to(dtype), n=self.n_fft)
            # The root of power, not abs(): its gradient at silence is finite.
            magnitude = (spectrum.real.square() + spectrum.imag.square() + self.floor**2).sqrt()
            mels = (magnitude @ bands).clamp_min(self.floor).log().transpose(1, 2)
        return mels, window[..., window.shape[-1] - self.context :]

    def _bands(self, warp: Float[Tensor, " batch"]) -> Float[Tensor, "batch bins n_mels"]:
        """Triangular mel filters, with band edges moved by ``warp`` (1 leaves them), each of unit sum."""
        nyquist = self.sample_rate / 2
        low, top = (2595.0 * math.log10(1.0 + f / 700.0) for f in (self.f_min, nyquist))
        mels = torch.linspace(low, top, self.n_mels + 2, device=warp.device)
        edges = 700.0 * (10 ** (mels / 2595.0) - 1.0)
        # Piecewise linear, so that 0 and the Nyquist frequency stay where they are.
        knee = 0.6 * nyquist
        scaled = edges * warp[:, None]
        slope = (nyquist - knee * warp[:, None]) / (nyquist - knee)
        edges = torch.where(edges < knee, scaled, knee * warp[:, None] + slope * (edges - knee))
        bins = torch.linspace(0.0, nyquist, self.n_fft // 2 + 1, device=warp.device)
        low_edge, centre, high_edge = edges[:, None, :-2], edges[:, None, 1:-1], edges[:, None, 2:]
        # Low bands are narrower than a bin: each keeps at least one bin's width on both sides.
        width = nyquist / (self.n_fft // 2)
        rise = (bins[None, :, None] - low_edge) / (centre - low_edge).clamp_min(width)
        fall = (high_edge - bins[None, :, None]) / (high_edge - centre).clamp_min(width)
        triangles = torch.minimum(rise, fall).clamp_min(0.0)
        if self.f_min:  # The bins that a constant offset reaches through the window.
            triangles = triangles * (bins[None, :, None] > 1.5 * width)
        return triangles / triangles.sum(1, keepdim=True).clamp_min(1e-3)


def frame_energy(mels: Frames) -> Curve:
    """Loudness of each frame: the log of the mean mel magnitude."""
    return torch.logsumexp(mels, dim=1, keepdim=True) - math.log(mels.shape[1])


class LevelState(NamedTuple):
    """What a level tracker carries from chunk to chunk, in float64."""

    power: Float[Tensor, "batch 1 past"]
    """Of the last frames."""
    level: Float[Tensor, "batch 1 1"]
    peak: Float[Tensor, "batch 1 1"]
    """Of what was loud but once."""


class LevelTracker(nn.Module):
    """The level of the speech so far: log magnitude of its loudest tenth of a second, slowly forgotten.

    Everything behind it hears mels less this level: a quiet recording is the same voice as a loud one.
    What is loud but once, as a door's slam, is forgotten within a second.
    """

    def begin(self, batch: int, device: torch.device | None = None) -> LevelState:
        power = torch.zeros(batch, 1, LEVEL_FRAMES - 1 + APART, device=device, dtype=torch.float64)
        level = torch.full_like(power[..., :1], SILENCE)
        return LevelState(power, level, level)

    @torch.no_grad()
    def step(self, energy: Curve, state: LevelState) -> tuple[Curve, LevelState]:
        """Level at each frame of one chunk, from the frames' log magnitudes."""
        past, level, peak = (part.to(energy.dtype) for part in state)
        power = torch.cat([past, (2.0 * energy).exp()], dim=-1)
        smooth = power.unfold(-1, LEVEL_FRAMES, 1).mean(-1).clamp_min(1e-12).log() / 2.0
        now, before = smooth[..., APART:], smooth[..., :-APART]
        peaks = falling(now, peak, FORGETS)
        levels = falling(torch.minimum(now, before + TWICE), level, FALL)
        last = (power[..., energy.shape[-1] :], levels[..., -1:], peaks[..., -1:])
        return torch.maximum(levels, peaks), LevelState(*(part.double() for part in last))


def falling(x: Curve, before: Float[Tensor, "batch 1 1"], fall: float) -> Curve:
    """The largest value so far, which falls by so much in every frame."""
    # A peak that falls in a straight line is a running maximum over what rises in one.
    rise = fall * torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    return (running_maximum(torch.maximum(x + rise, before)) - rise).clamp_min(SILENCE)
