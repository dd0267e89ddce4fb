"""What the encoders see of a wave: causal windows, turned into log-mels and frame energy."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from w2w.networks.fast import layer_of, packed, project, runs_fast

Wave = Float[Tensor, "batch 1 samples"]
Frames = Float[Tensor, "batch n_mels frames"]

FLOOR = 1e-3
"""Magnitude floor, ten times the quantisation noise of 16-bit audio: what lies below is silence."""
PIECE_FRAMES = 48
"""Frames analysed at once, in use."""


class CausalLogMel(nn.Module):
    """Log-mels of a wave whose frame ``t`` has seen samples before ``(t + 1) * hop`` and none after.

    Fixed, not learned: a learned analysis of the raw wave needs an order of magnitude more steps to
    reach the same codes, and costs more per second of audio than all the rest of the encoder.
    """

    taper: Tensor
    bands: Tensor

    def __init__(self, sample_rate: int, hop: int, window: int, n_mels: int) -> None:
        super().__init__()
        self.hop, self.window, self.n_mels = hop, window, n_mels
        self.n_fft = 2 ** math.ceil(math.log2(window))
        self.sample_rate = sample_rate
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        self.register_buffer("bands", self._bands(torch.ones(1))[0], persistent=False)

    @property
    def context(self) -> int:
        """Past samples that the next frame still needs."""
        return self.window - self.hop

    def forward(self, wave: Wave, warp: Float[Tensor, " batch"] | None = None) -> Frames:
        """Frames of a whole wave; ``warp`` scales frequencies (vocal tract length perturbation)."""
        return self.step(wave, self.begin(wave.shape[0]), warp)[0]

    def begin(self, batch: int) -> Float[Tensor, "batch 1 context"]:
        """Silence before the first sample."""
        return self.taper.new_zeros(batch, 1, self.context)

    def step(
        self,
        wave: Wave,
        past: Float[Tensor, "batch 1 context"],
        warp: Float[Tensor, " batch"] | None = None,
    ) -> tuple[Frames, Float[Tensor, "batch 1 context"]]:
        """Analyse one chunk, a whole number of hops long."""
        heard = torch.cat([past, wave], dim=-1)
        if warp is None and runs_fast(heard):
            return self._fast_mels(heard), heard[..., heard.shape[-1] - self.context :]
        frames = heard[:, 0].unfold(-1, self.window, self.hop) * self.taper  # (batch, frames, window)
        spectrum = torch.fft.rfft(frames.float(), n=self.n_fft)
        # The root of power, not abs(): its gradient at silence is finite.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + FLOOR**2).sqrt()
        bands = self.bands if warp is None else self._bands(warp)
        with torch.autocast(wave.device.type, enabled=False):
            mels = magnitude @ bands
        return torch.log(mels.clamp_min(FLOOR)).transpose(1, 2), heard[..., heard.shape[-1] - self.context :]

    def _fast_mels(self, heard: Float[Tensor, "1 1 samples"]) -> Float[Tensor, "1 n_mels frames"]:
        """The same mels on a CPU, frames in pieces that stay in the cache."""
        from w2w.networks.fast_analysis import magnitudes, raise_to, windowed

        wave, n_frames = heard[0, 0].numpy(), (heard.shape[-1] - self.context) // self.hop
        mels = torch.empty(n_frames, self.n_mels)
        bands = packed(self, lambda: layer_of(self.bands, torch.zeros(self.n_mels)))
        for start in range(0, n_frames, PIECE_FRAMES):
            n = min(PIECE_FRAMES, n_frames - start)
            frames, magnitude = torch.zeros(n, self.n_fft), torch.empty(n, bands.depth)
            windowed(wave[start * self.hop :], self.hop, self.taper.numpy(), frames.numpy())
            spectra = torch.view_as_real(torch.fft.rfft(frames))
            magnitudes(spectra.numpy(), FLOOR, magnitude.numpy())
            raise_to(FLOOR, project(bands, magnitude, n).numpy(), mels[start : start + n].numpy())
        return mels.log_().T[None]

    def _bands(self, warp: Float[Tensor, " batch"]) -> Float[Tensor, "batch bins n_mels"]:
        """Triangular mel filters, with band edges moved by ``warp`` (1 leaves them), each of unit sum."""
        nyquist = self.sample_rate / 2
        top = 2595.0 * math.log10(1.0 + nyquist / 700.0)
        mels = torch.linspace(0.0, top, self.n_mels + 2, device=warp.device)
        edges = 700.0 * (10 ** (mels / 2595.0) - 1.0)
        # Piecewise linear, so that 0 and the Nyquist frequency stay where they are.
        knee = 0.6 * nyquist
        scaled = edges * warp[:, None]
        slope = (nyquist - knee * warp[:, None]) / (nyquist - knee)
        edges = torch.where(edges < knee, scaled, knee * warp[:, None] + slope * (edges - knee))
        bins = torch.linspace(0.0, nyquist, self.n_fft // 2 + 1, device=warp.device)
        low, centre, high = edges[:, None, :-2], edges[:, None, 1:-1], edges[:, None, 2:]
        # Low bands are narrower than a bin: each keeps at least one bin's width on both sides.
        width = nyquist / (self.n_fft // 2)
        rise = (bins[None, :, None] - low) / (centre - low).clamp_min(width)
        fall = (high - bins[None, :, None]) / (high - centre).clamp_min(width)
        triangles = torch.minimum(rise, fall).clamp_min(0.0)
        return triangles / triangles.sum(1, keepdim=True).clamp_min(1e-3)


def frame_energy(mels: Frames) -> Float[Tensor, "batch 1 frames"]:
    """Loudness of each frame: the log of the mean mel magnitude."""
    if runs_fast(mels):
        return (mels.exp().mean(1, keepdim=True)).log()
    return torch.logsumexp(mels, dim=1, keepdim=True) - math.log(mels.shape[1])
