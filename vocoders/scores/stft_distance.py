"""The multi-resolution STFT distance (Yamamoto, Song, Kim 2020, arXiv:1910.11480): a loss, and a score."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import stft

Wave = Float[Tensor, "batch 1 samples"]


class Resolution(NamedTuple):
    """One transform."""

    n_fft: int
    """Samples of the transform."""
    hop: int
    """Samples between frames."""
    win: int
    """Samples of the Hann window."""


@dataclass(frozen=True, kw_only=True)
class MultiResolutionConfig:
    """The transforms; the defaults are the paper's (its table 1), made for 24 kHz and used at every rate."""

    resolutions: tuple[Resolution, ...] = (
        Resolution(1024, 120, 600),
        Resolution(2048, 240, 1200),
        Resolution(512, 50, 240),
    )
    """Of which the mean is taken."""
    power_floor: float = 1e-7
    """Powers are clamped here: keeps the root's and the logarithm's gradients finite in silence."""


class MultiResolutionSTFT(nn.Module):
    """Spectral convergence plus the L1 of log-magnitudes, the mean over resolutions; 0 where waves are equal.

    Gradients reach the generated wave only. Spectral convergence is one ratio of norms over the whole batch,
    as published: a silent crop then weighs nothing, and does not divide by nothing. Waves shorter than half
    of the longest transform raise ``ValueError``.
    """

    def __init__(self, config: MultiResolutionConfig | None = None) -> None:
        super().__init__()
        self.config = config or MultiResolutionConfig()
        for i, resolution in enumerate(self.config.resolutions):
            self.register_buffer(f"window_{i}", torch.hann_window(resolution.win), persistent=False)

    def forward(self, generated: Wave, reference: Wave) -> Float[Tensor, ""]:
        terms = []
        for i in range(len(self.config.resolutions)):
            fake = self.magnitudes(generated, i)
            with torch.no_grad():
                real = self.magnitudes(reference, i)
            convergence = torch.linalg.vector_norm(real - fake) / torch.linalg.vector_norm(real)
            terms.append(convergence + (real.log() - fake.log()).abs().mean())
        return torch.stack(terms).mean()

    def magnitudes(self, wave: Wave, i: int) -> Float[Tensor, "batch bins frames"]:
        """The floored magnitudes at one resolution."""
        n_fft, hop, win = self.config.resolutions[i]
        window = self.get_buffer(f"window_{i}")
        spectrum = stft(wave, n_fft=n_fft, hop=hop, win=win, padding="center", window=window)
        power = spectrum.real.square() + spectrum.imag.square()
        return power.clamp_min(self.config.power_floor).sqrt()
