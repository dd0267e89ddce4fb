"""Mel matching: pull a generated wave towards the mel it was made from, its phases and fine structure kept.

Each pass multiplies the wave's STFT by the ratio of the wanted to the present log-mel, spread over the bins,
and goes back to a wave. Where Griffin-Lim must invent every phase, this starts from a wave that has them. It
is a post-filter: what it does to a log-mel distance says little of how the wave sounds, so figures with and
without it belong side by side (it would bring even white noise near to any mel).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig, stft
from engine.user_error import UserError

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
