"""A frozen recogniser's encoder as the converter's ears: it hears words and hardly any voice."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.sinc import resample
from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoderConfig, PerItem
from pretrain.moonshine import ENCODER_ALONE, RELEASED, load_moonshine
from pretrain.teacher import Teacher, at_times
from w2w.networks.trunk import Hidden, Wave, WholeContent

LEVEL = 10 ** (-23.0 / 20)
"""Root mean square of the louder half of what is heard at once."""
LOWEST_HZ = 50.0
"""Below are rumble and offset, which the recogniser never met."""


class RecogniserContent(WholeContent):
    """A content encoder that hears by the last hidden states of a frozen recogniser.

    Frame ``t`` is interpolated at the middle of the samples that the decoder makes of it, which are those of
    the source ``look_ahead`` samples earlier. The recogniser's weights are no part of the converter's: they
    stay where ``folder`` says, ``moonshine`` being those that come with the code.
    """

    def __init__(self, config: CausalEncoderConfig, folder: str, sample_rate: int, look_ahead: int) -> None:
        frozen = frozen_recogniser(folder)
        super().__init__(config, sample_rate, frozen.dim)
        self.look_ahead, self.frozen = look_ahead, (frozen,)  # in a tuple, and so no submodule

    @torch.no_grad()
    def hidden(self, wave: Wave, warp: PerItem | None = None) -> Hidden:
        """The recogniser's states; ``warp``, which changes the voice, is not used: it hears words alone."""
        recogniser = self.frozen[0].to(wave.device)
        clean = conditioned(wave, self.sample_rate)
        states = recogniser(resample(clean, self.sample_rate, recogniser.sample_rate))
        middle = torch.arange(wave.shape[-1] // self.hop) * self.hop + (self.hop - 1) / 2 - self.look_ahead
        middle = middle * (recogniser.sample_rate / self.sample_rate)
        return at_times(states, (middle - recogniser.offset) / recogniser.hop)


def frozen_recogniser(folder: str) -> Teacher:
    """Load Moonshine's encoder without transformers, and any other teacher with it."""
    path = RELEASED if folder == "moonshine" else Path(folder)
    if (path / ENCODER_ALONE).is_file():
        return load_moonshine(path)
    try:
        from pretrain.teachers import load_teacher
    except ImportError as error:
        raise UserError(
            f"the recogniser {folder} needs {error.name}: pip install 'timbre[train]', or copy its folder"
            " again, if it is Moonshine's"
        ) from None
    return load_teacher(folder)


def conditioned(wave: Wave, sample_rate: int) -> Float[Tensor, "batch 1 samples"]:
    """Each wave without rumble and offset, and at one level."""
    spectrum = torch.fft.rfft(wave)
    spectrum[..., : 1 + int(LOWEST_HZ * wave.shape[-1] / sample_rate)] = 0
    wave = torch.fft.irfft(spectrum, wave.shape[-1])
    frame = sample_rate // 50
    power = torch.nn.functional.pad(wave, (0, -wave.shape[-1] % frame)).unflatten(-1, (-1, frame))
    power = power.square().mean(-1)
    loud = power.topk(max(power.shape[-1] // 2, 1), dim=-1).values.mean(-1, keepdim=True)
    return wave * (LEVEL * torch.rsqrt(loud + 1e-10))
