"""Interfaces of the networks that a converter can use: from wave and voice to wave, by whatever means."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.audio.checking import check_floats, check_number
from engine.user_error import UserError

Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch dim"]
MOST_SEMITONES = 36.0
"""Largest shift of the pitch: three octaves."""


@runtime_checkable
class Engine(Protocol):
    """Executor of a network's steps: the network itself, or a compiled form of it."""

    def begin(self, batch: int) -> Any:
        """Return the state before the first step."""

    def step(self, source: Wave, voice: Voice, state: Any, semitones: float = 0.0) -> tuple[Wave, Any]:
        """Convert one chunk, a whole number of hops long; the output lags by the network's look-ahead."""
        ...


@runtime_checkable
class WaveNetwork(Protocol):
    """Source wave and a voice to converted wave: wave-to-wave, or through a mel and a vocoder.

    If it ``streams``, it is also an ``Engine``.
    """

    config: Any
    """The configuration that it was built from."""
    sample_rate: int
    """Sampling rate of input and output waves in Hz."""
    hop: int
    """Samples per hop; a step takes whole hops."""
    look_ahead: int
    """Lag of the output of steps in samples, which bounds the future input that it depends on."""
    voice_dim: int
    """Dimension of a voice."""
    moves_pitch: bool
    """Whether ``semitones`` may be other than 0."""
    streams: bool
    """Whether conversion can run chunk by chunk."""
    needs_whole: str
    """The part that needs the whole utterance, and why; empty if there is none."""

    def style(self, wave: Wave, /) -> Voice:
        """Encode speech into a voice."""
        ...

    def __call__(self, source: Wave, voice: Voice, semitones: float = 0.0, /) -> Wave:
        """Convert whole waves; the result is as long as the source."""
        ...

    def eval(self) -> Any: ...

    def requires_grad_(self, requires_grad: bool = True) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def check_voice(network: WaveNetwork, voice: Tensor, semitones: float = 0.0) -> None:
    """Raise if the voice does not fit the network, or if the network cannot shift the pitch."""
    check_floats(voice, "the voice")
    check_number(semitones, "semitones", MOST_SEMITONES)
    if voice.shape != (1, network.voice_dim):
        raise UserError(
            f"the voice has shape {tuple(voice.shape)}, this converter's are (1, {network.voice_dim}): "
            "embed it with the same converter"
        )
    if not bool(torch.isfinite(voice).all()):
        raise UserError("the voice holds NaN or infinite numbers: embed it from a recording again")
    if semitones and not network.moves_pitch:
        raise UserError(
            "this converter cannot move the pitch, only a wave-to-wave one can: leave the semitones out"
            " (--pitch)"
        )
