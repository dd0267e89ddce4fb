"""A voice on its way to another one."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Voice = Float[Tensor, "batch dim"]


class Glide(NamedTuple):
    """A voice and a pitch that move in a straight line from one place in the source to another."""

    start: Voice
    end: Voice
    start_semitones: float
    end_semitones: float
    began: float
    """Samples of the source, at the network's rate, that the first voice spoke."""
    lasts: float
    """Samples over which the voice moves; 0 for at once."""

    @classmethod
    def staying(cls, voice: Voice, semitones: float = 0.0) -> "Glide":
        """A voice that does not move."""
        return cls(voice, voice, semitones, semitones, 0.0, 0.0)

    def at(self, place: float) -> tuple[Voice, float]:
        """Voice and semitones at a place; from the end on exactly those that were asked for."""
        gone = place - self.began
        if gone >= self.lasts:
            return self.end, self.end_semitones
        share = max(gone, 0.0) / self.lasts
        moved = self.start_semitones + share * (self.end_semitones - self.start_semitones)
        return torch.lerp(self.start, self.end, share), moved

    def toward(self, voice: Voice | None, semitones: float | None, place: float, lasts: float) -> "Glide":
        """Turn, wherever it is now, to another voice or pitch; what is None goes where it was going."""
        start, start_semitones = self.at(place)
        end = self.end if voice is None else voice
        return Glide(
            start, end, start_semitones, self.end_semitones if semitones is None else semitones, place, lasts
        )

    def moving(self, place: int, hop: int) -> int:
        """How many hops from a place on end before the voice has arrived: each has a voice of its own."""
        return max(math.ceil((self.began + self.lasts - place) / hop) - 1, 0)
