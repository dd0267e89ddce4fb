"""What StarGAN converts: a square log-power spectrogram scaled to [0, 1]."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import stft
from engine.user_error import UserError

Wave = Float[Tensor, "batch 1 samples"]
Spectrograms = Float[Tensor, "batch 1 bins frames"]


@dataclass(frozen=True, kw_only=True)
class SpectrogramConfig:
    """A linear spectrogram from above DC: by default 256 bins (to 4 kHz) of 256 frames (4.1 s)."""

    sample_rate: int = 16_000
    """Hz."""
    n_fft: int = 1024
    """Samples of one transform and of its Hamming window."""
    hop: int = 256
    """Samples between frames. The experiment's notes say 512, but its crops of 66304 samples are
    1024 + 255 · 256, which makes 256 frames only with hops of 256; 512 would make 128 of them."""
    n_frames: int = 256
    """Frames of a spectrogram that is trained on."""
    n_bins: int = 256
    """Bins, from the first above DC."""
    floor: float = 1e-3
    """Powers below are raised to it before the logarithm."""

    def __post_init__(self) -> None:
        if not 0 < self.hop <= self.n_fft:
            raise UserError(f"hop={self.hop} must lie in 1 … n_fft={self.n_fft}")
        if not 0 < self.n_bins <= self.n_fft // 2:
            raise UserError(f"n_bins={self.n_bins} must lie in 1 … {self.n_fft // 2}, half of n_fft")
        if self.n_bins % 4 or self.n_frames % 4 or self.n_frames < 1:
            raise UserError(
                f"n_bins={self.n_bins} and n_frames={self.n_frames} must be multiples of 4: "
                "the generator halves both twice"
            )
        if self.floor <= 0:
            raise UserError(f"floor={self.floor} must be above 0: its logarithm is taken")

    @property
    def crop_samples(self) -> int:
        """Samples of a spectrogram: 66304 by default."""
        return self.n_fft + (self.n_frames - 1) * self.hop

    @property
    def low(self) -> float:
        """The log-power that becomes 0: the floor's."""
        return math.log(self.floor)

    @property
    def high(self) -> float:
        """The log-power that becomes 1: no sample above 1 means no coefficient above the window's sum.

        A fixed bound, not the clip's own maximum: a spectrogram's values then mean the same in every clip,
        and a converted spectrogram can be taken back to powers without its source.
        """
        return 2.0 * math.log(0.54 * self.n_fft) - math.log(self.n_fft)


class Spectrogram(nn.Module):
    """Waves to spectrograms and back to magnitudes; float32 throughout, also under autocast."""

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hamming_window(config.n_fft), persistent=False)

    window: Tensor

    def forward(self, wave: Wave) -> Spectrograms:
        """Power / n_fft of whole frames alone, floored, its natural logarithm scaled to [0, 1].

        Waves are expected with peaks of 1 (see ``batches``); quieter ones make darker spectrograms.
        """
        config = self.config
        spectrum = stft(wave, n_fft=config.n_fft, hop=config.hop, padding="none", window=self.window)
        spectrum = spectrum[:, 1 : config.n_bins + 1]
        power = (spectrum.real.square() + spectrum.imag.square()) / config.n_fft
        level = power.clamp_min(config.floor).log()
        return ((level - config.low) / (config.high - config.low)).clamp_max(1.0)[:, None]

    def magnitudes(self, spectrogram: Spectrograms) -> Float[Tensor, "batch bins frames"]:
        """The coefficients' magnitudes a spectrogram stands for, from the first bin above DC."""
        config = self.config
        level = spectrogram[:, 0].float() * (config.high - config.low) + config.low
        return (0.5 * level).exp() * math.sqrt(config.n_fft)


def at_full_scale(wave: Wave) -> Wave:
    """Scale each wave so that its peak is 1; digital silence stays as it is."""
    peak = wave.abs().amax(dim=-1, keepdim=True)
    return wave / peak.where(peak > 0, 1.0)
