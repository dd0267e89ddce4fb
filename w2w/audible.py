"""Whether a voice can be taken from a clip."""

from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError

Wave = Float[Tensor, "1 1 samples"]

SHORTEST_S = 0.1
"""Seconds of speech without which there is no voice."""
SILENCE_DB = -85.0
"""dBFS, RMS of a clip's loudest tenth of a second: below it, a clip is silent."""


def check_audible(wave: Wave, sample_rate: int, name: str) -> None:
    """Refuse a clip that is too short or silent."""
    if wave.shape[-1] < round(SHORTEST_S * sample_rate):
        seconds = wave.shape[-1] / sample_rate
        raise UserError(
            f"{name} lasts {seconds:.4f} s; a voice needs at least {SHORTEST_S} s, better some seconds"
        )
    if not audible(wave, sample_rate):
        raise UserError(f"{name} is silent; a voice cannot be taken from silence")


def audible(wave: Wave, sample_rate: int) -> bool:
    """Whether a clip is louder than silence anywhere."""
    shortest = round(SHORTEST_S * sample_rate)
    return float(wave.square().unfold(-1, shortest, shortest).mean(-1).max()) >= 10 ** (SILENCE_DB / 10)
