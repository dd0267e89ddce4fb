"""Log-mels of a wave that is still being spoken: the definition's frames, as soon as they can be known."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from data.frontends import LogMel, MelConfig


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
