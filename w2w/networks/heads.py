"""From frames to samples: pulses at F0 and noise, through filters that are predicted from the features."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

Blocks = Float[Tensor, "batch frames hop"]


class ExcitationState(NamedTuple):
    """State of the pulse train and the noise."""

    phase: Tensor
    """Phase of the pulses in cycles, float64 (batch, 1)."""
    log_f0: Tensor
    """Log-F0 of the last frame, float64 (batch, 1, 1)."""
    position: Int64[Tensor, "batch 1"]
    """Number of samples so far, which is the index of the next noise sample."""


class Excitation(nn.Module):
    """A band-limited pulse train that follows F0, and white noise; both of unit power.

    The noise is a hash of the sample's position, so that it does not depend on the chunking.
    """

    ramp: Tensor

    def __init__(self, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop
        ramp = (torch.arange(hop, dtype=torch.float64) + 1) / hop
        self.register_buffer("ramp", ramp, persistent=False)

    def begin(self, batch: int, *, random: bool = False) -> ExcitationState:
        """State before the first frame: phase and position 0, or ``random`` (for training)."""
        device = self.ramp.device
        if random:
            phase = torch.rand(batch, 1, device=device).double()
            position = torch.randint(2**30, (batch, 1), device=device)
        else:
            phase = torch.zeros(batch, 1, dtype=torch.float64, device=device)
            position = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return ExcitationState(
            phase, torch.full((batch, 1, 1), math.log(150.0), dtype=torch.float64, device=device), position
        )

    @torch.no_grad()
    def step(
        self, log_f0: Float[Tensor, "batch 1 frames"], state: ExcitationState
    ) -> tuple[Blocks, Blocks, ExcitationState]:
        """Generate pulses and noise, a block of ``hop`` samples for each frame."""
        batch, _, frames = log_f0.shape
        log_f0 = log_f0.double()
        before = torch.cat([state.log_f0, log_f0[..., :-1]], dim=-1)[:, 0, :, None]
        now = log_f0[:, 0, :, None]
        f0 = (before + (now - before) * self.ramp).exp().flatten(1)  # (batch, samples)
        # Float64, so that pulses are placed exactly after an hour of accumulated phase.
        cycles = state.phase + (f0 / self.sample_rate).cumsum(-1)
        angle = math.pi * (cycles - cycles.floor())
        harmonics = torch.floor(0.5 * self.sample_rate / f0)
        # Sum of cosines 1..n in closed form (the Dirichlet kernel).
        sine = angle.sin()
        peak = sine.abs() < 1e-9
        ratio = ((2 * harmonics + 1) * angle).sin() / torch.where(peak, torch.ones_like(sine), sine)
        pulses = 0.5 * (torch.where(peak, 2 * harmonics + 1, ratio) - 1.0) * (2.0 / harmonics).sqrt()
        places = state.position + torch.arange(frames * self.hop, device=log_f0.device)
        after = ExcitationState(cycles[:, -1:] % 1.0, log_f0[..., -1:], state.position + frames * self.hop)
        shape = (batch, frames, self.hop)
        return pulses.float().reshape(shape), white_noise(places).reshape(shape), after


def white_noise(position: Int64[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Uniform noise of unit power as a function of the position only (the `lowbias32` integer hash)."""
    x = position & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return (x.double() / 2**31 - 1.0).float() * math.sqrt(3.0)


FORMANTS_S = 0.000625
"""Quefrency in seconds from which the cepstrum describes formants; below it, the spectrum's tilt."""
Features = Float[Tensor, "batch channels frames"]
LogF0 = Float[Tensor, "batch 1 frames"]
Wave = Float[Tensor, "batch 1 samples"]


class HarmonicNoiseHead(nn.Module):
    """Harmonic-plus-noise head: pulses and noise, each through a minimum-phase filter predicted per frame.

    A frame's filter fades in over its own block and out over the next, so the head adds no latency. Phases
    are not predicted, and the pitch is exactly that of ``log_f0``. Fourier transforms are products with real
    bases: frames are short, and ONNX export needs no complex numbers.

    Regression predicts over-smoothed formants: ``sharpen`` amplifies their cepstrum by the fraction
    ``sharpness`` (the cepstral post-filter of speech synthesis, Yoshimura et al. 2005).
    """

    spread: Tensor
    sharp_spread: Tensor
    analysis: Tensor
    synthesis: Tensor
    rise: Tensor

    def __init__(
        self, n_channels: int, sample_rate: int, hop: int, n_bands: int = 80, *, sharpness: float = 0.0
    ) -> None:
        super().__init__()
        self.hop, self.n_fft, self.sharpness = hop, 2 ** math.ceil(math.log2(3 * hop)), sharpness
        self.bands = nn.Conv1d(n_channels, 2 * n_bands, 1)
        with torch.no_grad():
            self.bands.weight.mul_(0.3)
            self.bands.bias.fill_(-4.0)  # type: ignore[union-attr]
        self.excitation = Excitation(sample_rate, hop)
        for name, share in ("spread", 0.0), ("sharp_spread", sharpness):
            filters = minimum_phase(n_bands, self.n_fft, sample_rate, share)
            self.register_buffer(name, filters, persistent=False)
        analysis, synthesis = fourier_bases(hop, self.n_fft)
        self.register_buffer("analysis", analysis, persistent=False)
        self.register_buffer("synthesis", synthesis, persistent=False)
        self.register_buffer("rise", (torch.arange(hop) + 0.5) / hop, persistent=False)

    def begin(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """State before the first frame: silence; ``random`` draws the state of pulses and noise."""
        bins = self.n_fft // 2 + 1
        return {
            "excitation": self.excitation.begin(batch, random=random),
            "filters": self.rise.new_zeros(batch, 1, 2, 2 * bins),
            "tail": self.rise.new_zeros(batch, self.n_fft - self.hop),
        }

    def step(
        self, features: Features, log_f0: LogF0, state: dict[str, Any], *, sharpen: bool = False
    ) -> tuple[Wave, dict[str, Any]]:
        """Synthesise one chunk."""
        pulses, noise, excitation = self.excitation.step(log_f0, state["excitation"])
        # (batch, frames, 2, bands)
        log_magnitude = self.bands(features).unflatten(1, (2, -1)).permute(0, 3, 1, 2)
        with torch.autocast(features.device.type, enabled=False):
            log_magnitude = log_magnitude.float().clamp(-12.0, 6.0)
            gain, angle = (log_magnitude @ self.spread).chunk(2, dim=-1)
            gain = gain.exp()
            if sharpen and self.sharpness:
                power = gain.square().sum(-1, keepdim=True)
                gain, angle = (log_magnitude @ self.sharp_spread).chunk(2, dim=-1)
                gain = gain.exp()
                gain = gain * (power / gain.square().sum(-1, keepdim=True)).sqrt()  # at the same power
            filters = torch.cat([gain * angle.cos(), gain * angle.sin()], dim=-1)
            earlier = torch.cat([state["filters"], filters[:, :-1]], dim=1)
            sources = torch.stack([pulses, noise], dim=2)  # (batch, frames, 2, hop)
            entering = (sources * self.rise) @ self.analysis
            leaving = (sources * (1.0 - self.rise)) @ self.analysis
            spectrum = complex_product(entering, filters) + complex_product(leaving, earlier)
            wave, tail = overlap_add(spectrum.sum(2) @ self.synthesis, self.hop, state["tail"])
        return wave, {"excitation": excitation, "filters": filters[:, -1:], "tail": tail}


def complex_product(a: Float[Tensor, "*shape two_bins"], b: Float[Tensor, "*shape two_bins"]) -> Tensor:
    """Product of spectra stored as real parts followed by imaginary parts."""
    (a_real, a_imaginary), (b_real, b_imaginary) = a.chunk(2, dim=-1), b.chunk(2, dim=-1)
    real = a_real * b_real - a_imaginary * b_imaginary
    return torch.cat([real, a_real * b_imaginary + a_imaginary * b_real], dim=-1)


def fourier_bases(
    samples: int, n_fft: int
) -> tuple[Float[Tensor, "samples two_bins"], Float[Tensor, "two_bins n_fft"]]:
    """Bases that map samples to their half spectrum of ``n_fft`` points, and a half spectrum to samples."""
    angle = 2 * math.pi / n_fft * torch.outer(torch.arange(n_fft), torch.arange(n_fft // 2 + 1)).double()
    analysis = torch.cat([angle[:samples].cos(), -angle[:samples].sin()], dim=1)
    # Every bin but the first and the last also represents its mirror image.
    twice = torch.full((n_fft // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = twice[-1] = 1.0
    synthesis = torch.cat([angle.cos() * twice, -angle.sin() * twice], dim=1).T / n_fft
    return analysis.float(), synthesis.float().contiguous()


def overlap_add(
    blocks: Float[Tensor, "batch frames n_fft"], hop: int, tail: Float[Tensor, "batch rest"]
) -> tuple[Wave, Float[Tensor, "batch rest"]]:
    """Overlap-add blocks onto the tail of the previous ones; return the finished samples and the new tail."""
    _, frames, n_fft = blocks.shape
    length = (frames - 1) * hop + n_fft
    summed = F.fold(blocks.transpose(1, 2), (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]
    summed = summed + F.pad(tail, (0, length - tail.shape[-1]))
    return summed[:, None, : frames * hop], summed[:, frames * hop :]


def minimum_phase(
    n_bands: int, n_fft: int, sample_rate: int, sharpness: float = 0.0
) -> Float[Tensor, "n_bands two_bins"]:
    """Linear map from log-magnitudes at mel-spaced bands to log-gain and phase of the minimum-phase filter.

    Interpolation to bins, real cepstrum, its folding (Oppenheim & Schafer) and the inverse are all linear.
    The cepstrum beyond ``FORMANTS_S`` is amplified by the fraction ``sharpness``.
    """
    nyquist = sample_rate / 2
    top = 2595.0 * math.log10(1.0 + nyquist / 700.0)
    knots = 700.0 * (10 ** (torch.linspace(0, top, n_bands, dtype=torch.float64) / 2595.0) - 1.0)
    knots[-1] = nyquist
    # A finer grid than n_fft keeps the cepstrum of a sharp formant from wrapping around.
    fine = 4 * n_fft
    frequencies = torch.linspace(0, nyquist, fine // 2 + 1, dtype=torch.float64)
    right = torch.searchsorted(knots, frequencies).clamp(1, n_bands - 1)
    share = (frequencies - knots[right - 1]) / (knots[right] - knots[right - 1])
    interpolate = torch.zeros(n_bands, len(frequencies), dtype=torch.float64)
    places = torch.arange(len(frequencies))
    interpolate[right - 1, places] += 1.0 - share
    interpolate[right, places] += share
    cepstrum = torch.fft.irfft(interpolate.to(torch.complex128), n=fine)
    folded = torch.zeros(n_bands, n_fft, dtype=torch.float64)
    half = n_fft // 2
    folded[:, 0] = cepstrum[:, 0]
    # The end of the cepstrum is tapered: truncation would ring across the spectrum.
    taper = 0.5 + 0.5 * torch.cos(math.pi * torch.arange(1, half, dtype=torch.float64) / half)
    folded[:, 1:half] = 2.0 * cepstrum[:, 1:half] * taper
    folded[:, round(FORMANTS_S * sample_rate) : half] *= 1.0 + sharpness
    spectrum = torch.fft.rfft(folded, n=n_fft)
    return torch.cat([spectrum.real, spectrum.imag], dim=-1).float()
