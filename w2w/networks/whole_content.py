"""Content encoders on whole utterances; a frozen recogniser's states hold words and hardly any voice."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
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
"""Longest wave in seconds that is encoded at once; longer ones are encoded in pieces."""
PIECE_S, CONTEXT_S = 20.0, 2.0
"""Seconds of a piece, and of its context on either side."""
LEVEL = 10 ** (-23.0 / 20)
"""RMS of the louder half of the recogniser's input."""
LOWEST_HZ = 50.0
"""Below are rumble and offset, which the recogniser was not trained on."""


class WholeContent(CausalEncoder):
    """Content encoder whose mels are replaced by the features of an encoder of whole utterances."""

    def __init__(self, config: CausalEncoderConfig, sample_rate: int, n_hidden: int) -> None:
        super().__init__(config, sample_rate)
        self.stem = CausalConv1d(n_hidden, config.n_channels, 5)
        self.mean.prior.requires_grad_(False)  # the mean-normalised mels are not used here

    def hidden(self, wave: Wave, warp: PerItem | None = None) -> Hidden:
        """Features of a wave of whole hops, encoded at once; ``warp`` is the playback speed of each item."""
        raise NotImplementedError

    def encode(self, wave: Wave, warp: PerItem | None = None, level: PerItem | None = None) -> Content:
        """Content of a whole wave; without gradients, in pieces, which bound memory."""
        if not torch.is_grad_enabled():
            return Content(*(torch.cat(part, dim=-1) for part in zip(*self.pieces(wave, level))))
        state = self.begin(len(wave), level)
        _, levels, _ = self.features(wave, state)
        return Content(self.from_features(self.hidden(wave, warp), state)[0], *levels)

    def pieces(self, wave: Wave, level: PerItem | None = None) -> Iterator[Content]:
        """Yield the content of a wave of any number of whole hops, piece by piece."""
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
    """Content encoder on the last hidden states of a frozen recogniser, and on those of ``earlier`` layers.

    Frame ``t`` is interpolated at the middle of the samples that are decoded from it, which are those of
    the source ``look_ahead`` samples earlier. The recogniser's weights are not part of the converter's: they
    are read from ``folder``, where ``moonshine`` stands for those included with the code.
    """

    def __init__(
        self,
        config: CausalEncoderConfig,
        folder: str,
        sample_rate: int,
        look_ahead: int,
        earlier: Sequence[int] = (),
    ) -> None:
        frozen = frozen_recogniser(folder, earlier)
        super().__init__(config, sample_rate, frozen.dim)
        self.look_ahead, self.frozen = look_ahead, (frozen,)  # a tuple, so that it is not a submodule

    @torch.no_grad()
    def hidden(self, wave: Wave, warp: PerItem | None = None) -> Hidden:
        """The recogniser's states; ``warp`` is ignored, since they hardly depend on the voice."""
        recogniser = self.frozen[0].to(wave.device)
        clean = conditioned(wave, self.sample_rate)
        states = recogniser(resample(clean, self.sample_rate, recogniser.sample_rate))
        ratio = recogniser.sample_rate / self.sample_rate
        middle = middles(wave.shape[-1] // self.hop, self.hop, self.look_ahead, ratio)
        return at_times(states, (middle - recogniser.offset) / recogniser.hop)


def middles(
    frames: int, hop: int, look_ahead: int, ratio: float, device: torch.device | None = None
) -> Float[Tensor, " frames"]:
    """Middle of the samples that are decoded from each frame, in samples at ``ratio`` times the rate."""
    return (torch.arange(frames, device=device) * hop + (hop - 1) / 2 - look_ahead) * ratio


def frozen_recogniser(folder: str, earlier: Sequence[int] = ()) -> Teacher:
    """Load Moonshine's encoder without transformers, and any other recogniser with it."""
    path = RELEASED if folder == "moonshine" else Path(folder)
    if (path / ENCODER_ALONE).is_file():
        return load_moonshine(path, earlier)
    if earlier:
        raise UserError(f"{folder} is not Moonshine's encoder: converter.recogniser_layers must be empty")
    try:
        from pretrain.teachers import load_teacher
    except ImportError as error:
        raise UserError(
            f"the recogniser {folder} needs {error.name}: pip install 'timbre[train]', or copy its folder"
            " again, if it is Moonshine's"
        ) from None
    return load_teacher(folder)


def conditioned(wave: Wave, sample_rate: int) -> Float[Tensor, "batch 1 samples"]:
    """Remove rumble and offset from each wave, and bring it to one level."""
    spectrum = torch.fft.rfft(wave)
    spectrum[..., : 1 + int(LOWEST_HZ * wave.shape[-1] / sample_rate)] = 0
    wave = torch.fft.irfft(spectrum, wave.shape[-1])
    frame = sample_rate // 50
    power = F.pad(wave, (0, -wave.shape[-1] % frame)).unflatten(-1, (-1, frame))
    power = power.square().mean(-1)
    loud = power.topk(max(power.shape[-1] // 2, 1), dim=-1).values.mean(-1, keepdim=True)
    return wave * (LEVEL * torch.rsqrt(loud + 1e-10))
