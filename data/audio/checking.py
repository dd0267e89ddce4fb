"""Validation of waves and numbers passed to the Python API."""

import math

import torch
from torch import Tensor

from engine.user_error import UserError

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000
"""Accepted sample rates in Hz. Others are mistakes, and resampling to them could exhaust the memory."""
LOUDEST_PEAK = 1.3
"""Peak that decoders of lossy formats may reach by overshooting full scale."""
INTEGER_PEAK = 100.0
"""Peak above which samples are taken to be integers (±32768) stored as floats."""


def check_wave(wave: object, name: str) -> None:
    """Raise unless a wave is a finite float tensor of shape (1, 1, samples) with at least one sample."""
    check_floats(wave, name)
    assert isinstance(wave, Tensor)
    if wave.ndim != 3 or wave.shape[:2] != (1, 1):
        raise UserError(f"{name} has shape {tuple(wave.shape)}; a wave is (1, 1, samples)")
    if wave.shape[-1] == 0:
        raise UserError(f"{name} is empty")
    if not bool(torch.isfinite(wave).all()):
        raise UserError(f"{name} holds NaN or infinite samples; repair the file first")


def check_floats(wave: object, name: str) -> None:
    """Raise unless a wave is a float tensor; integers are refused because their full scale is not 1."""
    if not isinstance(wave, Tensor):
        kind = type(wave).__name__
        raise UserError(
            f"{name} is of type {kind}, not a tensor: read a file by load(path, sample_rate), convert an"
            " array by torch.from_numpy(samples).float()[None, None]"
        )
    if wave.is_floating_point():
        return
    if wave.is_complex() or wave.dtype in (torch.bool, torch.uint8):
        raise UserError(f"{name} is of type {wave.dtype}: give floats within -1 and 1")
    scale = 2 ** (torch.iinfo(wave.dtype).bits - 1)
    raise UserError(f"{name} holds integers ({wave.dtype}), not floats within -1 and 1: divide it by {scale}")


def check_rate(rate: object) -> None:
    """Raise unless a sample rate is an integer between ``LOWEST_RATE`` and ``HIGHEST_RATE``."""
    if not isinstance(rate, int) or isinstance(rate, bool) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(f"sample_rate={rate!r} is no sample rate: give a whole number of Hz such as 16000")


def check_number(value: object, name: str, most: float = math.inf) -> None:
    """Raise unless a value is a finite number between −``most`` and ``most``."""
    if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > most:
        within = f" within {most:g} of 0" if most < math.inf else ""
        raise UserError(f"{name}={value!r} must be a number{within}")
