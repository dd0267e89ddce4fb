"""Streaming in constant memory: mels of waves in blocks, overlapping windows of mels, de-emphasis."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.frontends import LogMel, MelConfig, edges
from vocoders.griffin_lim import mel_window

WavePiece = Float[Tensor, "batch 1 _"]
MelPiece = Float[Tensor, "batch n_mels _"]


class Window(NamedTuple):
    """A segment of a mel with context on both sides."""

    mel: MelPiece
    before: int
    """Context frames before the segment."""
    frames: int
    """Frames of the segment."""
    start: int
    """First frame of the segment within the whole mel."""


def windows(pieces: Iterable[MelPiece], block: int, halo: int) -> Iterator[Window]:
    """Split a mel given in pieces into segments of ``block`` frames, with ``halo`` frames of context.

    The last segment is up to ``halo`` frames longer. The result does not depend on how the mel is cut.
    """
    waiting: list[Tensor] = []
    length = before = start = 0
    for piece in pieces:
        waiting.append(piece)
        length += piece.shape[-1]
        while length > before + block + halo:
            joined = torch.cat(waiting, dim=-1)
            yield Window(joined[..., : before + block + halo], before, block, start)
            kept = min(halo, before + block)
            waiting = [joined[..., before + block - kept :]]
            length, before, start = waiting[0].shape[-1], kept, start + block
    if length > before:
        yield Window(torch.cat(waiting, dim=-1), before, length - before, start)


def mels_of_blocks(blocks: Iterable[WavePiece], config: MelConfig) -> Iterator[MelPiece]:
    """The log-mel of a wave given in blocks of any length; concatenated, it equals that of the whole wave.

    The wave is padded with silence to whole hops, and to the minimum length for reflecting its edges.
    """
    log_mel = LogMel(replace(config, padding="none", win=config.n_fft))
    log_mel.window = mel_window(config)
    before, after = edges(config.n_fft, config.hop, config.padding)
    waiting: list[Tensor] = []
    length, total, begun = 0, 0, False
    for block in blocks:
        waiting.append(block)
        length, total = length + block.shape[-1], total + block.shape[-1]
        if not begun and length > max(before, config.n_fft):
            waiting, begun = [_extended(torch.cat(waiting, -1), before, 0, config.pad_mode)], True
            length += before
        # Samples needed for reflection at the end are held back.
        n_frames = (length - after - 1 - config.n_fft) // config.hop + 1 if begun else 0
        if n_frames > 0:
            joined = torch.cat(waiting, dim=-1)
            yield log_mel(joined[..., : (n_frames - 1) * config.hop + config.n_fft])
            waiting = [joined[..., n_frames * config.hop :]]
            length = waiting[0].shape[-1]
    if total == 0:
        return
    least = max(before, after) + 1 if config.padding != "none" else config.n_fft
    silence = max(-total % config.hop, least - total + (-least % config.hop))
    tail = F.pad(torch.cat(waiting, dim=-1), (0, silence))
    rest = _extended(tail, 0 if begun else before, after, config.pad_mode)
    if rest.shape[-1] >= config.n_fft:
        yield log_mel(rest)


def de_emphasised(pieces: Iterable[WavePiece], pre_emphasis: float, gain: float) -> Iterator[WavePiece]:
    """Undo a pre-emphasis, x[t] − a·x[t − 1], and then a gain, in pieces."""
    # The inverse's impulse response, a to the power of t, is truncated below 1e-9.
    n_taps = 1 if pre_emphasis == 0 else math.ceil(math.log(1e-9) / math.log(pre_emphasis))
    past = None
    for piece in pieces:
        if n_taps > 1:
            powers = pre_emphasis ** torch.arange(n_taps - 1, -1, -1, device=piece.device)
            before = piece.new_zeros(len(piece), 1, n_taps - 1) if past is None else past
            window = torch.cat([before, piece], dim=-1)
            past = window[..., window.shape[-1] - n_taps + 1 :]
            piece = F.conv1d(window, powers[None, None].to(piece))
        yield piece / gain if gain != 1 else piece


def _extended(wave: Tensor, before: int, after: int, mode: str) -> Tensor:
    return F.pad(wave, (before, after), mode=mode) if before or after else wave
