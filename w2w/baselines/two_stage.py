"""Two networks in a row, with the face of one: a converter of log-mels, and a vocoder that speaks them."""

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
"""Frames that a live network is given at once where the whole is there: memory does not grow with it."""


def mel_of(wave: Float[Tensor, "batch 1 samples"], mel: MelConfig) -> Float[Tensor, "batch n_mels frames"]:
    """The log-mel of a wave of any length; what is left of its last hop is filled with silence."""
    blocks = wave.cpu().split(BLOCK_FRAMES * mel.hop, dim=-1)
    return torch.cat(list(mels_of_blocks(blocks, mel)), dim=-1).to(wave.device)


def log_floor(mel: MelConfig) -> float:
    floor = torch.tensor(mel.floor)
    return float(floor.log() if mel.log == "ln" else floor.log10())


def reach_ahead(mel: MelConfig) -> int:
    """Samples after its own hop that a frame hears: those under its window's right side."""
    if mel.padding == "causal":
        return 0
    # Of the transform, which reaches further, the window leaves the outermost samples out.
    silent = mel.n_fft - mel.win - (mel.n_fft - mel.win) // 2
    after = mel.n_fft - mel.hop - (mel.n_fft - mel.hop) // 2
    return max(after - silent, 0)


def live_log_mel(mel: MelConfig) -> LogMel:
    """The definition with every frame's window at the end of what has come.

    A wave with the ``n_fft − hop`` samples before it gives a frame for each hop: those of the wave
    ``reach_ahead`` samples ago. Magnitudes do not tell where in the transform the window stands.
    """
    hear = LogMel(replace(mel, padding="none", win=mel.n_fft))
    hear.window = F.pad(torch.hann_window(mel.win), (mel.n_fft - mel.win, 0))
    return hear


Mel = Float[Tensor, "batch n_mels frames"]
Voice = Float[Tensor, "batch dim"]
Piece = Float[Tensor, "batch n_mels _"]

LONGEST_S = 60.0
"""Seconds that are converted at once, which bounds memory: statistics are over so much at most."""
SHARED_S = 1.0
"""Seconds that neighbouring windows share, over which one fades into the next."""


def converted_in_windows(
    convert: Callable[[Mel, Voice], Mel], definition: MelConfig, mel: Mel, voice: Voice
) -> Iterator[Piece]:
    """Convert a mel in pieces: one, where it is no longer than ``LONGEST_S``.

    A longer one is cut into windows as long as each other. Each is normalised by statistics of its own, and
    what two of them share is the mean of both, weighted from the first to the second: a level that they do
    not have in common changes over a second, and not in a frame.
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
WavePiece = Float[Tensor, "batch 1 _"]


class Progress(NamedTuple):
    """What a live conversion remembers between steps."""

    wave: WavePiece
    """The source's last samples, which coming frames still hear."""
    network: Any
    """The mel network's state."""
    mel: Float[Tensor, "batch n_mels _"]
    """Converted frames that the vocoder has yet to speak, after ``before`` frames that it hears again."""
    before: int
    spoken: int
    """Frames that are out."""


class TwoStage(nn.Module):
    """Source wave and a voice to converted wave, over a log-mel that a ``CluitMelNetwork`` converts.

    Live, a step frames what has come, converts the new frames, and speaks those whose surroundings have been
    converted too. The vocoder is not causal: its halo is look-ahead, and what it computes of the frames
    around a step is computed again in the next. Before and after the source there is silence, in the whole
    form as well, which runs through the same steps. A network that needs the whole utterance gets its mel
    by the definition's own rule, in windows where it is very long (``mel_windows``).
    """

    moves_pitch = False
    """Nothing in a log-mel names the pitch."""

    def __init__(self, mel_network: Any, vocoder: Vocoder) -> None:
        super().__init__()
        check_definition(mel_network.mel, vocoder.mel, "what this converter makes")
        self.mel_network, self.vocoder = mel_network, vocoder
        self.config, self.mel = mel_network.config, mel_network.mel
        self.log_mel: LogMel | None = live_log_mel(self.mel) if self.streams else None

    @property
    def sample_rate(self) -> int:
        return self.mel.sample_rate

    @property
    def hop(self) -> int:
        return self.mel.hop * self.mel_network.frames_per_step

    @property
    def look_ahead(self) -> int:
        """Samples by which steps lag behind: what a frame's window and the vocoder hear of the future."""
        return reach_ahead(self.mel) + self.halo * self.mel.hop if self.streams else 0

    @property
    def halo(self) -> int:
        """Frames on either side of a frame that the vocoder hears."""
        return self.vocoder.network.halo

    @property
    def voice_dim(self) -> int:
        return self.mel_network.voice_dim

    @property
    def streams(self) -> bool:
        """Whether a signal may be converted in pieces."""
        return not self.needs_whole

    @property
    def needs_whole(self) -> str:
        """Which part needs the whole utterance, and why; empty where none does."""
        name = kind_of(self.vocoder.config.network)
        if not self.mel_network.streams:
            return self.mel_network.needs_whole
        if not hasattr(self.vocoder.network, "halo"):
            return f"vocoder is {name}, which does not speak live (released_hifigan does)"
        if self.vocoder.config.pre_emphasis:
            return "vocoder undoes a pre-emphasis, which it does not live"
        if self.mel.padding not in ("same", "causal"):
            return f"mel definition's padding is {self.mel.padding!r}, whose frames are no whole hops"
        return ""

    def style(self, wave: Wave) -> Voice:
        return self.mel_network.style_of_mel(mel_of(wave, self.mel))

    def converted_mel(self, source: Wave, voice: Voice) -> Mel:
        """The mel that the vocoder is to speak, frame for frame in the source's time."""
        return torch.cat(list(self._converted(mel_of(source, self.mel), voice)), dim=-1)

    def _converted(self, mel: Mel, voice: Voice) -> Iterator[Float[Tensor, "batch n_mels _"]]:
        for piece in converted_in_windows(self.mel_network, self.mel, mel, voice):
            yield self._audible(piece)

    def _audible(self, mel: Mel) -> Mel:
        """No log-mel of a wave lies below its floor, and no vocoder has heard one that did."""
        return mel.float().clamp_min(log_floor(self.mel))

    @torch.no_grad()
    def forward(self, source: Wave, voice: Voice, semitones: float = 0.0) -> Wave:
        """Convert whole waves; the result is as long as the source. ``semitones`` can only be 0."""
        samples = source.shape[-1]
        if not self.streams:
            pieces = self.vocoder.stream(self._converted(mel_of(source, self.mel), voice))
            return torch.cat(list(pieces), dim=-1)[..., :samples]
        led = F.pad(source, (0, self.look_ahead + -(samples + self.look_ahead) % self.hop), mode="replicate")
        block = max(BLOCK_FRAMES // self.mel_network.frames_per_step, 1) * self.hop
        state, parts = self.begin(len(source)), []
        for chunk in led.split(block, dim=-1):
            part, state = self.step(chunk, voice, state)
            parts.append(part)
        return torch.cat(parts, dim=-1)[..., self.look_ahead :][..., :samples]

    def begin(self, batch: int) -> Progress:
        """Silence, and nothing converted."""
        like = next(self.parameters())
        past = self.mel.n_fft - self.mel.hop
        return Progress(
            wave=like.new_zeros(batch, 1, past),
            network=self.mel_network.begin(batch),
            mel=like.new_zeros(batch, self.mel.n_mels, 0),
            before=0,
            spoken=0,
        )

    @torch.no_grad()
    def step(
        self, source: Wave, voice: Voice, state: Progress, semitones: float = 0.0
    ) -> tuple[Wave, Progress]:
        """Convert one chunk, a whole number of hops long; the output lags by ``look_ahead`` samples."""
        assert self.log_mel is not None
        joined = torch.cat([state.wave, source], dim=-1)
        mel, network = self.mel_network.step(self.log_mel(joined), voice, state.network)
        mel = torch.cat([state.mel, self._audible(mel)], dim=-1)

        wave, before = source.new_zeros(len(source), 1, 0), state.before
        ready = max(mel.shape[-1] - before - self.halo, 0)
        if ready:
            wave = self.vocoder.make(Window(mel, before, ready, state.spoken), (0,), {})
            wave = wave / self.vocoder.config.gain
        # At the beginning no frame's surroundings are there yet: the lag is silence.
        wave = F.pad(wave, (source.shape[-1] - wave.shape[-1], 0))
        kept = min(self.halo, before + ready)
        return wave, Progress(
            wave=joined[..., source.shape[-1] :],
            network=network,
            mel=mel[..., before + ready - kept :],
            before=kept,
            spoken=state.spoken + ready,
        )
