"""A log-mel converter followed by a vocoder, with the interface of one wave-to-wave network."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from vocoders.loading import kind_of
from vocoders.mel_files import check_definition
from vocoders.streaming import Window, mels_of_blocks
from vocoders.vocoder import Vocoder

BLOCK_FRAMES = 400
"""Frames per step when a streaming network converts a whole recording; bounds memory."""


def mel_of(wave: Float[Tensor, "batch 1 samples"], mel: MelConfig) -> Float[Tensor, "batch n_mels frames"]:
    """The log-mel of a wave of any length; the last hop is padded with silence."""
    blocks = wave.cpu().split(BLOCK_FRAMES * mel.hop, dim=-1)
    return torch.cat(list(mels_of_blocks(blocks, mel)), dim=-1).to(wave.device)


def log_floor(mel: MelConfig) -> float:
    floor = torch.tensor(mel.floor)
    return float(floor.log() if mel.log == "ln" else floor.log10())


def reach_ahead(mel: MelConfig) -> int:
    """Look-ahead of a mel frame: the samples after its own hop that its window covers."""
    if mel.padding == "causal":
        return 0
    # The FFT may be longer than the window, which then ignores the outermost samples.
    silent = mel.n_fft - mel.win - (mel.n_fft - mel.win) // 2
    after = mel.n_fft - mel.hop - (mel.n_fft - mel.hop) // 2
    return max(after - silent, 0)


def live_log_mel(mel: MelConfig) -> LogMel:
    """The streaming form of a log-mel: every frame's window ends at the newest sample.

    A wave preceded by its ``n_fft − hop`` past samples gives one frame per hop, delayed by ``reach_ahead``
    samples. Magnitudes do not depend on the window's position within the FFT.
    """
    log_mel = LogMel(replace(mel, padding="none", win=mel.n_fft))
    log_mel.window = F.pad(torch.hann_window(mel.win), (mel.n_fft - mel.win, 0))
    return log_mel


Mel = Float[Tensor, "batch n_mels frames"]
Voice = Float[Tensor, "batch dim"]
Piece = Float[Tensor, "batch n_mels _"]

LONGEST_S = 60.0
"""Longest window in seconds that is converted, and normalised, as one; bounds memory."""
SHARED_S = 1.0
"""Overlap of neighbouring windows in seconds, over which they are cross-faded."""


def converted_in_windows(
    convert: Callable[[Mel, Voice], Mel], definition: MelConfig, mel: Mel, voice: Voice
) -> Iterator[Piece]:
    """Convert a mel, in overlapping windows of equal length if it is longer than ``LONGEST_S``.

    Each window is normalised by its own statistics. Overlaps are cross-faded linearly, so that a difference
    in level between windows changes over a second and not within a frame.
    """
    frames, rate = mel.shape[-1], definition.frame_rate
    longest, shared = round(LONGEST_S * rate), round(SHARED_S * rate)
    if frames <= longest:
        yield convert(mel, voice)
        return
    n_windows = math.ceil((frames - shared) / (longest - shared))
    stride = math.ceil((frames - shared) / n_windows)
    ramp = torch.linspace(0.0, 1.0, shared + 2, device=mel.device)[1:-1]
    tail = None
    for start in range(0, n_windows * stride, stride):
        window = convert(mel[..., start : start + stride + shared], voice)
        if tail is not None:
            window = torch.cat([tail.lerp(window[..., :shared], ramp), window[..., shared:]], dim=-1)
        if start + stride + shared >= frames:
            yield window
            return
        yield window[..., :stride]
        tail = window[..., stride:]


Wave = Float[Tensor, "batch 1 samples"]


class Progress(NamedTuple):
    """State of a streaming conversion between steps."""

    wave: Float[Tensor, "batch 1 _"]
    """The source's last samples, which the next frames' windows cover."""
    network: Any
    """The mel network's state."""
    mel: Piece
    """Converted frames: ``before`` frames of left context for the vocoder, then those not yet synthesised."""
    before: int
    n_synthesised: int
    """Number of frames synthesised so far."""


class TwoStage(nn.Module):
    """Source wave and a voice to converted wave, by way of a log-mel that a ``CluitMelNetwork`` converts.

    A streaming step computes the log-mel of the new samples, converts it, and synthesises the frames that
    have all their context. The vocoder is not causal: its halo adds look-ahead, and overlapping context is
    computed again in the next step. The source is preceded and followed by silence; whole waves run through
    the same steps. A network that needs the whole utterance uses the mel definition's own padding, and
    windows for a very long mel (``converted_in_windows``).
    """

    moves_pitch = False
    """A log-mel has no explicit pitch that could be shifted."""

    def __init__(self, mel_network: Any, vocoder: Vocoder) -> None:
        super().__init__()
        check_definition(mel_network.mel, vocoder.mel, "the output of this converter")
        self.mel_network, self.vocoder = mel_network, vocoder
        self.config, self.mel = mel_network.config, mel_network.mel
        self.sample_rate, self.voice_dim = self.mel.sample_rate, mel_network.voice_dim
        self.hop = self.mel.hop * mel_network.frames_per_step
        self.needs_whole = mel_network.needs_whole or self._vocoder_needs_whole()
        self.streams = not self.needs_whole
        self.halo = vocoder.network.halo if self.streams else 0
        """Context frames that the vocoder needs on either side of a frame."""
        self.look_ahead = reach_ahead(self.mel) + self.halo * self.mel.hop if self.streams else 0
        self.log_mel = live_log_mel(self.mel) if self.streams else None

    def _vocoder_needs_whole(self) -> str:
        if not hasattr(self.vocoder.network, "halo"):
            kind = kind_of(self.vocoder.config.network)
            return f"vocoder is {kind}, which cannot stream (released_hifigan can)"
        if self.vocoder.config.pre_emphasis:
            return "vocoder undoes a pre-emphasis, which it cannot do when streaming"
        if self.mel.padding not in ("same", "causal"):
            return f"mel definition's padding is {self.mel.padding!r}, which does not give one frame per hop"
        return ""

    def style(self, wave: Wave) -> Voice:
        return self.mel_network.style_of_mel(mel_of(wave, self.mel))

    def converted_mel(self, source: Wave, voice: Voice) -> Mel:
        """The converted mel, the vocoder's input; its frames are aligned with the source's."""
        return torch.cat(list(self._converted(mel_of(source, self.mel), voice)), dim=-1)

    def _converted(self, mel: Mel, voice: Voice) -> Iterator[Piece]:
        return map(self._floored, converted_in_windows(self.mel_network, self.mel, mel, voice))

    def _floored(self, mel: Mel) -> Mel:
        """Clamp a mel to its definition's floor, below which no training mel of a vocoder lies."""
        return mel.float().clamp_min(log_floor(self.mel))

    @torch.no_grad()
    def forward(self, source: Wave, voice: Voice, semitones: float = 0.0) -> Wave:
        """Convert whole waves; the result is as long as the source. ``semitones`` must be 0."""
        samples = source.shape[-1]
        if not self.streams:
            pieces = self.vocoder.stream(self._converted(mel_of(source, self.mel), voice))
            return torch.cat(list(pieces), dim=-1)[..., :samples]
        extra = self.look_ahead + -(samples + self.look_ahead) % self.hop
        padded = F.pad(source, (0, extra), mode="replicate")
        block = max(BLOCK_FRAMES // self.mel_network.frames_per_step, 1) * self.hop
        state, parts = self.begin(len(source)), []
        for chunk in padded.split(block, dim=-1):
            part, state = self.step(chunk, voice, state)
            parts.append(part)
        return torch.cat(parts, dim=-1)[..., self.look_ahead :][..., :samples]

    def begin(self, batch: int) -> Progress:
        """The state before the first chunk: silence."""
        like, past = next(self.parameters()), self.mel.n_fft - self.mel.hop
        wave, mel = like.new_zeros(batch, 1, past), like.new_zeros(batch, self.mel.n_mels, 0)
        return Progress(wave, self.mel_network.begin(batch), mel, before=0, n_synthesised=0)

    @torch.no_grad()
    def step(
        self, source: Wave, voice: Voice, state: Progress, semitones: float = 0.0
    ) -> tuple[Wave, Progress]:
        """Convert one chunk, a whole number of hops long; the output lags by ``look_ahead`` samples."""
        assert self.log_mel is not None
        joined = torch.cat([state.wave, source], dim=-1)
        mel, network = self.mel_network.step(self.log_mel(joined), voice, state.network)
        mel = torch.cat([state.mel, self._floored(mel)], dim=-1)

        wave, before = source.new_zeros(len(source), 1, 0), state.before
        ready = max(mel.shape[-1] - before - self.halo, 0)
        if ready:
            wave = self.vocoder.make(Window(mel, before, ready, state.n_synthesised), (0,), {})
            wave = wave / self.vocoder.config.gain
        # The first frames lack their context: the output starts with silence as long as the lag.
        wave = F.pad(wave, (source.shape[-1] - wave.shape[-1], 0))
        context = min(self.halo, before + ready)
        return wave, Progress(
            wave=joined[..., source.shape[-1] :],
            network=network,
            mel=mel[..., before + ready - context :],
            before=context,
            n_synthesised=state.n_synthesised + ready,
        )
