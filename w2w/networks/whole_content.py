"""Content encoders that hear whole utterances; by a frozen recogniser, words and hardly any voice."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.sinc import resample
from engine.streaming import CausalConv1d
from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoder, CausalEncoderConfig, Content, PerItem
from pretrain.moonshine import ENCODER_ALONE, RELEASED, load_moonshine
from pretrain.teacher import Teacher, at_times

Wave = Float[Tensor, "batch 1 samples"]
Hidden = Float[Tensor, "batch hidden frames"]

WHOLE_S = 30.0
"""Seconds heard at once; a longer wave is heard in pieces, each with some context on both sides."""
PIECE_S, CONTEXT_S = 20.0, 2.0
LEVEL = 10 ** (-23.0 / 20)
"""Root mean square of the louder half of what is heard at once."""
LOWEST_HZ = 50.0
"""Below are rumble and offset, which the recogniser never met."""


class WholeContent(CausalEncoder):
    """A content encoder whose mels are replaced by the frames of an encoder that hears whole utterances."""

    def __init__(self, config: CausalEncoderConfig, sample_rate: int, n_hidden: int) -> None:
        super().__init__(config, sample_rate)
        self.stem = CausalConv1d(n_hidden, config.n_channels, 5)
        self.mean.prior.requires_grad_(False)  # the mels' mean serves energies alone

    def hidden(self, wave: Wave, warp: PerItem | None = None) -> Hidden:
        """Frames of a wave of whole hops, heard at once; ``warp`` plays each item so much faster."""
        raise NotImplementedError

    def encode(self, wave: Wave, warp: PerItem | None = None, level: PerItem | None = None) -> Content:
        """Content of a whole wave, in pieces that bound memory where nothing is learned from it."""
        if not torch.is_grad_enabled():
            return Content(*(torch.cat(part, dim=-1) for part in zip(*self.pieces(wave, level))))
        state = self.begin(len(wave), level)
        _, levels, _ = self.features(wave, state)
        return Content(self.from_features(self.hidden(wave, warp), state)[0], *levels)

    def pieces(self, wave: Wave, level: PerItem | None = None) -> Iterator[Content]:
        """Content of a wave of any length and of whole hops, piece by piece."""
        state, frames = self.begin(len(wave), level), wave.shape[-1] // self.hop
        rate = self.sample_rate / self.hop
        length = frames if frames <= WHOLE_S * rate else round(PIECE_S * rate)
        context = round(CONTEXT_S * rate)
        for start in range(0, frames, length):
            stop, first = min(start + length, frames), max(start - context, 0)
            hidden = self.hidden(wave[..., first * self.hop : (stop + context) * self.hop])
            _, levels, after = self.features(wave[..., start * self.hop : stop * self.hop], state)
            code, after_code = self.from_features(hidden[..., start - first : stop - first], state)
            state = after | after_code
            yield Content(code, *levels)


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
