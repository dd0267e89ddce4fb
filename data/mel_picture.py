"""Log-mels as small pictures: PNGs with a palette, a quarter of the size of RGB ones."""

import io
import math

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from data.frontends import SPEECH_16K, LogMel

DEPTH = 9.0
"""Dynamic range of the picture in nepers."""
N_SHADES = 64
MAGMA = "000003 1c1046 50127b 822581 b63679 e65162 fb8861 fec488 fbfcbf"
"""Equidistant colours of matplotlib's colour map of this name, from dark to bright."""


def mel_png(wave: Float[Tensor, "1 1 samples"], *, columns: int = 1200, n_shades: int = N_SHADES) -> bytes:
    """Render a wave at 16 kHz, 80 pixels high and at most ``columns`` wide, low frequencies at the bottom."""
    short = max(0, SPEECH_16K.n_fft - wave.shape[-1])
    mel = LogMel(SPEECH_16K)(F.pad(wave, (0, short)))[0].numpy()
    if mel.shape[1] > columns:
        cuts = np.linspace(0, mel.shape[1], columns + 1).astype(int)[:-1]
        mel = np.maximum.reduceat(mel, cuts, axis=1)
    loudest = max(float(mel.max()), math.log(SPEECH_16K.floor) + DEPTH)  # keeps silence dark
    shade = np.clip((mel - loudest) / DEPTH + 1, 0, 1)[::-1]
    picture = Image.fromarray((shade * (n_shades - 1)).round().astype(np.uint8), mode="P")
    points = np.array([list(bytes.fromhex(colour)) for colour in MAGMA.split()])
    at = np.linspace(0, len(points) - 1, n_shades)
    palette = [np.interp(at, np.arange(len(points)), channel) for channel in points.T]
    picture.putpalette(np.stack(palette, axis=1).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
