"""Waves and numbers that a program hands over, refused at the door with the way out."""

import math

import torch
from torch import Tensor

from engine.user_error import UserError

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000
"""Hz. Beyond, a rate is a mistake, and resampling could fill the memory."""
LOUDEST_PEAK = 1.3
"""Above full scale, but no more than decoders of lossy formats overshoot."""
INTEGER_PEAK = 100.0
"""No float wave is so loud; samples of ±32768 are."""


def check_wave(wave: object, name: str) -> None:
    """Refuse what is no wave: float samples, finite, shaped (1, 1, samples), one sample at least."""
    check_floats(wave, name)
    assert isinstance(wave, Tensor)
    if wave.ndim != 3 or wave.shape[:2] != (1, 1):
        raise UserError(f"{name} has shape {tuple(wave.shape)}; a wave is (1, 1, samples)")
    if wave.shape[-1] == 0:
        raise UserError(f"{name} is empty")
    if not bool(torch.isfinite(wave).all()):
        raise UserError(f"{name} holds NaN or infinite samples; mend the file first")


def check_floats(wave: object, name: str) -> None:
    """Refuse what is no tensor, and integers, whose full scale is another."""
    if not isinstance(wave, Tensor):
        kind = type(wave).__name__
        raise UserError(
            f"{name} is of type {kind}, not a tensor: give a file by load(path, sample_rate), an array by"
            " torch.from_numpy(samples).float()[None, None]"
        )
    if wave.is_floating_point():
        return
    if wave.is_complex() or wave.dtype in (torch.bool, torch.uint8):
        raise UserError(f"{name} is of type {wave.dtype}: give floats within -1 and 1")
    scale = 2 ** (torch.iinfo(wave.dtype).bits - 1)
    raise UserError(f"{name} holds integers ({wave.dtype}), not floats within -1 and 1: divide it by {scale}")


def check_rate(rate: object) -> None:
    """Refuse what is no rate: a whole number of Hz that some recording has."""
    if not isinstance(rate, int) or isinstance(rate, bool) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(f"sample_rate={rate!r} is no sample rate: give a whole number of Hz, such as 16000")


def check_number(value: object, name: str, most: float = math.inf) -> None:
    """Refuse what is no finite number, or is further from 0 than ``most``."""
    if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > most:
        within = f" within {most:g} of 0" if most < math.inf else ""
        raise UserError(f"{name}={value!r} must be a number{within}")
