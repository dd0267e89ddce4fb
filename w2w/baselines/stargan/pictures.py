"""StarGAN in use on recordings of any length: pictures window by window, faded into one another."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from w2w.baselines.stargan.config import StarGANConfig
from w2w.baselines.stargan.discriminator import Discriminator
from w2w.baselines.stargan.generator import Generator
from w2w.baselines.stargan.inversion import edge
from w2w.baselines.stargan.spectrogram import Spectrogram

Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch n_in"]
PicturePiece = Float[Tensor, "batch 1 bins _"]


class StarGANPictures(nn.Module):
    """Both networks; an export holds their weights and nothing else. Waves are expected at full scale.

    The networks hear pictures of ``n_frames`` frames, as in training. A longer wave has a row of them, evenly
    spread, whose neighbours share a quarter or more; in the middle of what they share, over half of that
    quarter, the one fades into the other. A shorter wave is repeated, as in training, and the rest cut off.
    """

    def __init__(self, config: StarGANConfig) -> None:
        super().__init__()
        self.config, self.spectrogram = config, Spectrogram(config.spectrogram)
        self.generator, self.discriminator = Generator(config), Discriminator(config)

    def label_logits(self, wave: Wave) -> Float[Tensor, "batch n_out"]:
        """What the discriminator's class head makes of a wave, mean over its windows."""
        starts = self.starts(wave.shape[-1])
        heard = [self.discriminator(self._picture(wave, start)).labels for start in starts]
        return torch.stack(heard).mean(0)

    def converted(self, wave: Wave, voice: Voice) -> Iterator[PicturePiece]:
        """The wave's picture with a voice, a frame for each hop begun, in pieces."""
        size, n_frames = self.config.spectrogram.n_frames, self.n_frames(wave.shape[-1])
        starts = self.starts(wave.shape[-1])
        fade = max(size // 8, 1)
        ramp = torch.linspace(0.0, 1.0, fade + 2, device=wave.device)[1:-1]
        done, tail = 0, None  # frames that are out; what fades into the next window
        for start, following in zip(starts, [*starts[1:], None]):
            window = self.generator(self._picture(wave, start), voice)[..., done - start :]
            if tail is not None:
                window = torch.cat([tail.lerp(window[..., :fade], ramp), window[..., fade:]], dim=-1)
            if following is None:
                yield window[..., : n_frames - done]
                return
            turn = (following + start + size - fade) // 2
            yield window[..., : turn - done]
            tail = window[..., turn - done : turn - done + fade]
            done = turn

    def n_frames(self, samples: int) -> int:
        """Frames of a wave."""
        return -(-samples // self.config.spectrogram.hop)

    def starts(self, samples: int) -> list[int]:
        """The first frames of the windows of a wave."""
        size, n_frames = self.config.spectrogram.n_frames, self.n_frames(samples)
        if n_frames <= size:
            return [0]
        n_more = math.ceil((n_frames - size) / (size - size // 4))
        return [round(number * (n_frames - size) / n_more) for number in range(n_more + 1)]

    def _picture(self, wave: Wave, start: int) -> Float[Tensor, "batch 1 bins frames"]:
        """The window that begins with a frame."""
        config = self.config.spectrogram
        if self.n_frames(wave.shape[-1]) <= config.n_frames:
            wave = wave.repeat(1, 1, -(-config.crop_samples // wave.shape[-1]))[..., : config.crop_samples]
        first = start * config.hop - edge(config)
        cut = wave[..., max(first, 0) : first + config.crop_samples]
        before = max(-first, 0)
        return self.spectrogram(F.pad(cut, (before, config.crop_samples - before - cut.shape[-1])))
