"""Log-mels of a whole wave, and of one that is still being spoken: the definition's frames either way."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.frontends import LogMel, MelConfig
from vocoders.streaming import mels_of_blocks

BLOCK_FRAMES = 400
"""Frames that are made at once."""


def mel_of(wave: Float[Tensor, "batch 1 samples"], mel: MelConfig) -> Float[Tensor, "batch n_mels frames"]:
    """The log-mel of a wave of any length; what is left of its last hop is filled with silence."""
    blocks = wave.cpu().split(BLOCK_FRAMES * mel.hop, dim=-1)
    return torch.cat(list(mels_of_blocks(blocks, mel)), dim=-1).to(wave.device)


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
