"""What a converter drives: any network from wave and voice to wave, whatever lies between."""

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
"""How far the pitch may be moved: three octaves."""


@runtime_checkable
class Engine(Protocol):
    """What computes a network's steps: the network itself, or a compiled form of it."""

    def begin(self, batch: int) -> Any:
        """The state before the first step."""
        ...

    def step(self, source: Wave, voice: Voice, state: Any, semitones: float = 0.0) -> tuple[Wave, Any]:
        """Convert one chunk, a whole number of hops long; the output lags by the network's look-ahead."""
        ...


@runtime_checkable
class WaveNetwork(Engine, Protocol):
    """Source wave and a voice to converted wave: wave-to-wave, or over a mel and a vocoder."""

    config: Any
    """What it was built from."""

    @property
    def sample_rate(self) -> int:
        """Hz, of waves in and out."""
        ...

    @property
    def hop(self) -> int:
        """Samples that a step takes a multiple of."""
        ...

    @property
    def look_ahead(self) -> int:
        """Samples by which steps lag behind: of future that every output sample may hear, at most."""
        ...

    @property
    def voice_dim(self) -> int:
        """Entries of a voice."""
        ...

    @property
    def moves_pitch(self) -> bool:
        """Whether ``semitones`` may be other than 0."""
        ...

    @property
    def streams(self) -> bool:
        """Whether a signal may be converted in pieces."""
        ...

    @property
    def needs_whole(self) -> str:
        """Which part needs the whole utterance, and why; empty where none does."""
        ...

    def style(self, wave: Wave, /) -> Voice:
        """Take a voice from speech."""
        ...

    def __call__(self, source: Wave, voice: Voice, semitones: float = 0.0, /) -> Wave:
        """Convert whole waves; the result is as long as the source."""
        ...

    def eval(self) -> Any:
        """Turn off what only training does."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Say whether its parameters are learned."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What was learned."""
        ...


def check_voice(network: WaveNetwork, voice: Tensor, semitones: float = 0.0) -> None:
    """Refuse a voice that is not the network's, or a pitch that it cannot move to."""
    check_floats(voice, "the voice")
    check_number(semitones, "semitones", MOST_SEMITONES)
    if voice.shape != (1, network.voice_dim):
        raise UserError(
            f"the voice has shape {tuple(voice.shape)}, this converter's are (1, {network.voice_dim}): "
            "embed it with the same converter"
        )
    if not bool(torch.isfinite(voice).all()):
        raise UserError("the voice holds NaN or infinite numbers: take it from a recording again")
    if semitones and not network.moves_pitch:
        raise UserError(
            "this converter cannot move the pitch, only a wave-to-wave one can: leave the semitones out"
            " (--pitch)"
        )
