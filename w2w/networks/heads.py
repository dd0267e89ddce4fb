"""From frames to samples: three ways, behind one interface.

Every head has ``begin(batch)`` and ``step(features, log_f0, state)``; frame ``t`` of the features yields
samples ``t * hop`` to ``(t + 1) * hop``, and needs nothing later.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d, CausalTransposedConv1d
from w2w.networks.content import factors
from w2w.networks.excitation import Excitation, ExcitationState
from w2w.networks.fast import convolution, kept, layer_of, packed, pointwise, project, runs_fast

HeadName = Literal["harmonic", "istft", "transposed"]
Features = Float[Tensor, "batch channels frames"]
LogF0 = Float[Tensor, "batch 1 frames"]
Wave = Float[Tensor, "batch 1 samples"]
PIECE_FRAMES = 50
"""Frames whose spectra are filtered at once, in use: they stay in the cache."""


def build_head(name: HeadName, n_channels: int, sample_rate: int, hop: int) -> nn.Module:
    """Choose how features become samples."""
    match name:
        case "harmonic":
            return HarmonicNoiseHead(n_channels, sample_rate, hop)
        case "istft":
            return InverseSTFTHead(n_channels, hop)
        case "transposed":
            return TransposedHead(n_channels, hop)


class HarmonicNoiseHead(nn.Module):
    """Pulses and noise, each through a minimum-phase filter that the features draw (harmonic plus noise).

    A frame's filter fades in over its own block and out over the next, so the head adds no latency. Learns
    fastest of the three, since it invents no phases, and puts the pitch where ``log_f0`` says.
    """

    needs_pitch = True

    spread: Tensor
    rise: Tensor

    def __init__(self, n_channels: int, sample_rate: int, hop: int, n_bands: int = 80) -> None:
        super().__init__()
        self.hop, self.n_fft = hop, 2 ** math.ceil(math.log2(3 * hop))
        self.bands = nn.Conv1d(n_channels, 2 * n_bands, 1)
        with torch.no_grad():
            self.bands.weight.mul_(0.3)
            self.bands.bias.fill_(-4.0)  # type: ignore[union-attr]
        self.excitation = Excitation(sample_rate, hop)
        self.register_buffer("spread", minimum_phase(n_bands, self.n_fft, sample_rate), persistent=False)
        fade = (torch.arange(hop) + 0.5) / hop
        self.register_buffer("rise", fade, persistent=False)

    def begin(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """Silence; pulses and noise from their beginning, or from anywhere (for training)."""
        bins = self.n_fft // 2 + 1
        return {
            "excitation": self.excitation.begin(batch, random=random),
            "filters": torch.zeros(batch, 1, 2, bins, dtype=torch.complex64, device=self.rise.device),
            "tail": self.rise.new_zeros(batch, self.n_fft - self.hop),
        }

    def step(self, features: Features, log_f0: LogF0, state: dict[str, Any]) -> tuple[Wave, dict[str, Any]]:
        """Make the samples of one chunk."""
        step = self._fast_step if runs_fast(features) and features.shape[-1] else self._step
        if torch.is_grad_enabled() or features.shape[-1] <= PIECE_FRAMES:
            return step(features, log_f0, state)
        waves = []
        for piece, curve in zip(features.split(PIECE_FRAMES, -1), log_f0.split(PIECE_FRAMES, -1)):
            wave, state = step(piece, curve, state)
            waves.append(wave)
        return torch.cat(waves, dim=-1), state

    def _step(self, features: Features, log_f0: LogF0, state: dict[str, Any]) -> tuple[Wave, dict[str, Any]]:
        pulses, noise, excitation = self.excitation.step(log_f0, state["excitation"])
        # (batch, frames, 2, bands)
        drawn = self.bands(features).unflatten(1, (2, -1)).permute(0, 3, 1, 2)
        with torch.autocast(features.device.type, enabled=False):
            shape = drawn.float().clamp(-12.0, 6.0) @ self.spread
        gain, angle = shape.chunk(2, dim=-1)
        filters = torch.polar(gain.exp(), angle)  # (batch, frames, 2, bins)
        earlier = torch.cat([state["filters"], filters[:, :-1]], dim=1)
        sources = torch.stack([pulses, noise], dim=2)  # (batch, frames, 2, hop)
        entering = torch.fft.rfft(sources * self.rise, n=self.n_fft)
        leaving = torch.fft.rfft(sources * (1.0 - self.rise), n=self.n_fft)
        blocks = torch.fft.irfft((entering * filters + leaving * earlier).sum(2), n=self.n_fft)
        wave, tail = overlap_add(blocks, self.hop, state["tail"])
        return wave, {"excitation": excitation, "filters": filters[:, -1:], "tail": tail}

    def _fast_step(
        self, features: Features, log_f0: LogF0, state: dict[str, Any]
    ) -> tuple[Wave, dict[str, Any]]:
        """The same samples on a CPU, a quarter of the time."""
        from w2w.networks.fast_head import draw, filtered, overlapped, sources

        n_frames, bins = log_f0.shape[-1], self.n_fft // 2 + 1
        before: ExcitationState = state["excitation"]
        # Zero beyond a hop, and never written there; these are this thread's, and used in this call alone.
        sounds = kept(f"sounds {self.hop} {self.n_fft}", n_frames, 4, self.n_fft)
        phase = sources(
            log_f0[0, 0].double().contiguous().numpy(),
            float(before.phase),
            float(before.log_f0),
            int(before.position),
            self.excitation.sample_rate,
            self.rise.numpy(),
            sounds.numpy(),
        )
        excitation = ExcitationState(
            torch.full_like(before.phase, phase),
            log_f0[..., -1:].double(),
            before.position + n_frames * self.hop,
        )
        bands, spread = packed(
            self, lambda: (convolution(self.bands), layer_of(self.spread, torch.zeros(2 * bins)))
        )
        drawn = pointwise(bands, features[0].T).clamp_(-12.0, 6.0)
        shapes = project(spread, drawn.reshape(2 * n_frames, -1), 2 * n_frames)
        filters = kept("filters", 2 * n_frames, 2, bins)
        draw(shapes.numpy(), bins, filters.numpy())
        earlier = torch.view_as_real(state["filters"][0, 0]).transpose(1, 2).contiguous()
        spectra, spectrum = kept("spectra", n_frames, 4, bins, 2), kept("spectrum", n_frames, bins, 2)
        torch.fft.rfft(sounds, out=torch.view_as_complex(spectra))
        filtered(spectra.numpy(), earlier.numpy(), filters.numpy(), spectrum.numpy())
        blocks = torch.fft.irfft(torch.view_as_complex(spectrum), n=self.n_fft)
        tail, wave = state["tail"].clone(), torch.empty(1, 1, n_frames * self.hop)
        overlapped(blocks.numpy(), self.hop, tail[0].numpy(), wave[0, 0].numpy())
        last = torch.complex(filters[-2:, 0], filters[-2:, 1])[None, None]
        return wave, {"excitation": excitation, "filters": last, "tail": tail}


class InverseSTFTHead(nn.Module):
    """Predicted magnitude and phase, by inverse STFT (iSTFTNet's and Vocos' end): cheapest of the three."""

    needs_pitch = False

    window: Tensor

    def __init__(self, n_channels: int, hop: int) -> None:
        super().__init__()
        self.hop, self.n_fft = hop, 2 * hop
        self.spectrum = nn.Conv1d(n_channels, 2 * (self.n_fft // 2 + 1), 1)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def begin(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """Silence; nothing here is random."""
        return {"tail": self.window.new_zeros(batch, self.n_fft - self.hop)}

    def step(self, features: Features, log_f0: LogF0, state: dict[str, Any]) -> tuple[Wave, dict[str, Any]]:
        """Make the samples of one chunk."""
        log_magnitude, phase = self.spectrum(features).float().transpose(1, 2).chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.clamp(max=6.0).exp(), phase)
        blocks = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        wave, tail = overlap_add(blocks, self.hop, state["tail"])
        return wave, {"tail": tail}


class TransposedHead(nn.Module):
    """Transposed convolutions with dilated residual blocks between (MelGAN's generator, made causal)."""

    needs_pitch = False

    def __init__(self, n_channels: int, hop: int) -> None:
        super().__init__()
        widths = [n_channels // 2**i for i in range(5)]
        strides = list(reversed(factors(hop)))
        self.up = nn.ModuleList(
            CausalTransposedConv1d(inner, outer, 2 * stride, stride=stride)
            for inner, outer, stride in zip(widths[:-1], widths[1:], strides)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(CausalConv1d(width, width, 3, dilation=3**i) for i in range(3))
            for width in widths[1:]
        )
        self.out = CausalConv1d(widths[-1], 1, 7)

    def begin(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """Silence; nothing here is random."""
        return {
            "up": [layer.begin(batch) for layer in self.up],  # type: ignore[operator]
            "blocks": [[layer.begin(batch) for layer in stack] for stack in self.blocks],  # type: ignore
            "out": self.out.begin(batch),
        }

    def step(self, features: Features, log_f0: LogF0, state: dict[str, Any]) -> tuple[Wave, dict[str, Any]]:
        """Make the samples of one chunk."""
        hidden, ups, blocks = features, [], []
        for up, stack, up_past, pasts in zip(self.up, self.blocks, state["up"], state["blocks"]):
            hidden, after = up.step(F.leaky_relu(hidden, 0.2), up_past)  # type: ignore[operator]
            ups.append(after)
            afters = []
            for layer, past in zip(stack, pasts):  # type: ignore[arg-type]
                change, after = layer.step(F.leaky_relu(hidden, 0.2), past)
                hidden = hidden + change
                afters.append(after)
            blocks.append(afters)
        wave, out = self.out.step(F.leaky_relu(hidden, 0.2), state["out"])
        return torch.tanh(wave), {"up": ups, "blocks": blocks, "out": out}


def overlap_add(
    blocks: Float[Tensor, "batch frames n_fft"], hop: int, tail: Float[Tensor, "batch rest"]
) -> tuple[Wave, Float[Tensor, "batch rest"]]:
    """Add blocks ``hop`` apart onto the tail of what came before; return what is finished and a new tail."""
    _, frames, n_fft = blocks.shape
    length = (frames - 1) * hop + n_fft
    summed = F.fold(blocks.transpose(1, 2), (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]
    summed = summed + F.pad(tail, (0, length - tail.shape[-1]))
    return summed[:, None, : frames * hop], summed[:, frames * hop :]


def minimum_phase(n_bands: int, n_fft: int, sample_rate: int) -> Float[Tensor, "n_bands two_bins"]:
    """The map from log-magnitudes at mel-spaced bands to log-gain and phase of the minimum-phase filter.

    Interpolation to bins, real cepstrum, folding it (Oppenheim & Schafer) and back are all linear.
    """
    nyquist = sample_rate / 2
    bins = n_fft // 2 + 1
    top = 2595.0 * math.log10(1.0 + nyquist / 700.0)
    knots = 700.0 * (10 ** (torch.linspace(0, top, n_bands, dtype=torch.float64) / 2595.0) - 1.0)
    knots[-1] = nyquist
    # A finer grid than n_fft, lest the cepstrum of a sharp formant wrap around.
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
    # Taper the end of the cepstrum: cutting it off rings across the spectrum.
    taper = 0.5 + 0.5 * torch.cos(math.pi * torch.arange(1, half, dtype=torch.float64) / half)
    folded[:, 1:half] = 2.0 * cepstrum[:, 1:half] * taper
    spectrum = torch.fft.rfft(folded, n=n_fft)
    assert spectrum.shape[-1] == bins
    return torch.cat([spectrum.real, spectrum.imag], dim=-1).float()
