"""Subtraction of a vocoder's constant noise (WaveGlow's published denoiser)."""

from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vocoders import cpu
from vocoders.waveglow import WaveGlow

N_FRAMES = 88
"""Frames of the zero mel from which the noise is estimated."""
Wave = Float[Tensor, "batch 1 samples"]


class Denoiser(nn.Module):
    """Subtracts ``strength`` times the magnitudes of a network's output for a zero mel and zero noise.

    As published, these are the magnitudes of the output's first STFT frame, centred on the first sample; the
    STFT has Hann windows of 1024 samples and a hop of a quarter. Phases are unchanged.
    """

    def __init__(self, network: Any, n_fft: int = 1024) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("bias_magnitude", torch.zeros(n_fft // 2 + 1, 1))
        self.to(next(network.parameters()).device)
        self.bias_magnitude = self._bias(network)

    window: Tensor
    bias_magnitude: Tensor

    @torch.no_grad()
    def forward(self, wave: Wave, strength: float = 0.1) -> Wave:
        """Return the denoised wave, with its length unchanged; ``strength`` .1 as published, 0 for none."""
        if strength == 0:
            return wave
        spectrum = self._stft(wave)
        magnitude = spectrum.abs()
        # As published: magnitudes after subtraction, floored at 0, with the original phases.
        scale = (magnitude - strength * self.bias_magnitude).clamp_min(0) / magnitude.clamp_min(1e-30)
        clean = torch.istft(spectrum * scale, self.n_fft, self.n_fft // 4, window=self.window, center=True)
        return F.pad(clean, (0, wave.shape[-1] - clean.shape[-1]))[:, None].to(wave.dtype)

    def _stft(self, wave: Wave) -> Complex[Tensor, "batch bins frames"]:
        hop, short = self.n_fft // 4, self.n_fft // 2 + 1 - wave.shape[-1]
        padded = F.pad(wave.float().squeeze(1), (0, max(short, 0) + -wave.shape[-1] % hop))
        return torch.stft(padded, self.n_fft, hop, window=self.window, center=True, return_complex=True)

    @torch.no_grad()
    def _bias(self, network: Any) -> Float[Tensor, "bins 1"]:
        mel = torch.zeros(1, network.n_mels, N_FRAMES, device=self.window.device)
        noise = None
        if isinstance(network, WaveGlow):
            noise = torch.zeros_like(network.noise(1, N_FRAMES, torch.Generator()), device=mel.device)
        return self._stft(cpu.generate(network, mel, noise)).abs()[0, :, :1]
