"""Mels too long to be converted at once: in windows of equal length, faded into one another."""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from data.frontends import MelConfig

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
