"""STFTs and log-mel spectrograms, with named mel definitions, and pictures of them."""

import io
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from engine.user_error import UserError

Padding = Literal["same", "center", "causal", "none"]
Scale = Literal["slaney", "htk"]


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """A log-mel front end, which networks that exchange mels must share. The defaults are HiFi-GAN's."""

    sample_rate: int = 22_050
    """Sample rate in Hz."""
    n_fft: int = 1024
    """FFT size in samples."""
    win: int = 1024
    """Length of the Hann window in samples, centred in the FFT; at most ``n_fft``."""
    hop: int = 256
    """Hop size in samples."""
    n_mels: int = 80
    """Number of mel bands."""
    f_min: float = 0.0
    """Lower edge of the lowest band in Hz."""
    f_max: float = 8_000.0
    """Upper edge of the highest band in Hz; at most half the sample rate."""
    power: Literal[1, 2] = 1
    """1: bands sum magnitudes; 2: bands sum powers."""
    magnitude_floor: float = 1e-9
    """Added to the power before the square root, which keeps its gradient finite in silence."""
    scale: Scale = "slaney"
    """Mel scale: linear below 1 kHz (slaney) or logarithmic throughout (htk)."""
    norm: Literal["slaney", "none"] = "slaney"
    """Filter normalisation: unit area (slaney) or a peak of 1 (none)."""
    log: Literal["ln", "log10"] = "ln"
    """The logarithm: natural for all models here; log10 is for published MelGAN weights."""
    floor: float = 1e-5
    """Minimum of the bands before the logarithm."""
    padding: Padding = "same"
    """Padding at the edges, see ``stft``."""
    pad_mode: Literal["reflect", "constant"] = "reflect"
    """Content of the padding: the mirrored wave, or zeros."""

    def __post_init__(self) -> None:
        nyquist = self.sample_rate / 2
        if not 0 <= self.f_min < self.f_max:
            raise UserError(f"f_min={self.f_min} Hz must lie between 0 and f_max={self.f_max} Hz")
        if self.f_max > nyquist:
            raise UserError(f"f_max={self.f_max} Hz is above {nyquist} Hz, half of sample_rate")
        if not 0 < self.hop <= self.win <= self.n_fft:
            raise UserError(f"hop={self.hop} ≤ win={self.win} ≤ n_fft={self.n_fft} must hold, from 1 on")
        if self.floor <= 0:
            raise UserError(f"floor={self.floor} must be above 0 because of the logarithm")

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop


HIFIGAN = MelConfig()
SPEECH_16K = MelConfig(sample_rate=16_000, win=640, hop=160)
NAMED: dict[str, MelConfig] = {
    "hifigan": HIFIGAN,
    "hifigan_full_band": replace(HIFIGAN, f_max=11_025.0),  # for HiFi-GAN's training loss
    "melgan": replace(HIFIGAN, f_max=11_025.0, magnitude_floor=0.0, log="log10"),
    "speech16k": SPEECH_16K,
    "speech24k": replace(SPEECH_16K, sample_rate=24_000, win=960, hop=240, n_mels=100, f_max=12_000.0),
    "speech16k_causal": replace(SPEECH_16K, padding="causal", pad_mode="constant"),
}


def named_mel(name: str) -> MelConfig:
    if name not in NAMED:
        raise UserError(f"mel definition {name!r} is unknown; choose one of {', '.join(NAMED)}")
    return NAMED[name]


def stft(
    wave: Float[Tensor, "batch 1 samples"],
    *,
    n_fft: int,
    hop: int,
    win: int | None = None,
    padding: Padding = "same",
    pad_mode: Literal["reflect", "constant"] = "reflect",
    window: Float[Tensor, "win"] | None = None,
) -> Complex[Tensor, "batch bins frames"]:
    """Compute a short-time Fourier transform in float32, by default with a Hann window.

    Padding ``same``: (n_fft − hop) / 2 on each side, which gives samples // hop frames (HiFi-GAN's).
    ``center``: n_fft // 2 on each side, which gives 1 + samples // hop frames (librosa's). ``causal``:
    n_fft − hop only at the front, with the window at the end of the FFT, so that frame t ends with hop t.
    ``none``: no padding, only complete windows.
    """
    before, after = edges(n_fft, hop, padding)
    n_samples = wave.shape[-1]
    if pad_mode == "reflect" and n_samples <= max(before, after):
        raise ValueError(
            f"{n_samples} samples are too few for reflect padding by {max(before, after)} samples"
        )
    if n_samples + before + after < n_fft:
        raise ValueError(f"{n_samples} samples are too few for one FFT of {n_fft}")
    win = win or n_fft
    if window is None:
        window = torch.hann_window(win, device=wave.device)
    if padding == "causal":  # torch would centre it, which would delay every frame by (n_fft − win) / 2
        window, win = F.pad(window, (n_fft - win, 0)), n_fft
    padded = F.pad(wave.float(), (before, after), mode=pad_mode).squeeze(1)
    with torch.autocast(wave.device.type, enabled=False):
        return torch.stft(padded, n_fft, hop, win, window, center=False, return_complex=True)


def edges(n_fft: int, hop: int, padding: Padding) -> tuple[int, int]:
    """Samples by which ``stft`` extends a wave at its front and end."""
    return {
        "same": ((n_fft - hop) // 2, n_fft - hop - (n_fft - hop) // 2),
        "center": (n_fft // 2, n_fft // 2),
        "causal": (n_fft - hop, 0),
        "none": (0, 0),
    }[padding]


class LogMel(nn.Module):
    """A log-mel front end; always computes in float32, also under autocast."""

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        # Not in checkpoints, because the configuration determines both.
        self.register_buffer("window", torch.hann_window(config.win), persistent=False)
        self.register_buffer("filters", mel_filters(config), persistent=False)

    window: Tensor
    filters: Tensor

    def forward(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch n_mels frames"]:
        c, window = self.config, self.window
        spectrum = stft(
            wave, n_fft=c.n_fft, hop=c.hop, win=c.win, padding=c.padding, pad_mode=c.pad_mode, window=window
        )
        return self.compress(self.energies(spectrum))

    def energies(self, spectrum: Complex[Tensor, "batch bins frames"]) -> Float[Tensor, "batch bins frames"]:
        """Return the magnitudes or powers of a spectrum, depending on ``config.power``."""
        # Not abs(): the gradient of the root at 0 is infinite without the floor.
        power = spectrum.real.square() + spectrum.imag.square()
        if self.config.power == 2:
            return power
        return (power + self.config.magnitude_floor).sqrt() if self.config.magnitude_floor else spectrum.abs()

    def compress(self, energies: Float[Tensor, "batch bins frames"]) -> Float[Tensor, "batch n_mels frames"]:
        """Apply the mel filters and the floored logarithm."""
        with torch.autocast(energies.device.type, enabled=False):
            bands = (self.filters @ energies.float()).clamp_min(self.config.floor)
        return bands.log() if self.config.log == "ln" else bands.log10()


def mel_filters(config: MelConfig) -> Float[Tensor, "n_mels bins"]:
    """Return triangular mel filters over the FFT bins, equal to librosa's.

    torchaudio computes them in float32, in which the edges of narrow filters are wrong by up to .2 % and
    log-mels by more than the tolerance of reproducing published outputs.
    """
    bins = np.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    corners = mel_corners(config)
    widths = np.diff(corners)
    ramps = corners[:, None] - bins[None]
    rising = -ramps[:-2] / widths[:-1, None]
    falling = ramps[2:] / widths[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling))
    if config.norm == "slaney":
        filters *= (2 / (corners[2:] - corners[:-2]))[:, None]
    return torch.from_numpy(filters.astype(np.float32))


def mel_corners(config: MelConfig) -> Float[np.ndarray, "n_mels_and_2"]:
    """Return the corners of the triangles in Hz: band i begins, peaks and ends at i, i + 1 and i + 2."""
    ends = hz_to_mel(np.array([config.f_min, config.f_max]), config.scale)
    return mel_to_hz(np.linspace(ends[0], ends[1], config.n_mels + 2), config.scale)


# Slaney's Auditory Toolbox: 3 mels per 200 Hz up to 1 kHz, then 27 mels per factor of 6.4.
_HZ_PER_MEL, _CORNER_HZ, _LOG_STEP = 200 / 3, 1_000.0, math.log(6.4) / 27
_CORNER_MEL = _CORNER_HZ / _HZ_PER_MEL


def hz_to_mel(hz: np.ndarray, scale: Scale = "slaney") -> np.ndarray:
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    above = _CORNER_MEL + np.log(np.maximum(hz, _CORNER_HZ) / _CORNER_HZ) / _LOG_STEP
    return np.where(hz < _CORNER_HZ, hz / _HZ_PER_MEL, above)


def mel_to_hz(mel: np.ndarray, scale: Scale = "slaney") -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = _CORNER_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _CORNER_MEL) - _CORNER_MEL))
    return np.where(mel < _CORNER_MEL, mel * _HZ_PER_MEL, above)


PICTURE_DEPTH = 9.0
"""Dynamic range of the picture in nepers."""
N_SHADES = 64
MAGMA = "000003 1c1046 50127b 822581 b63679 e65162 fb8861 fec488 fbfcbf"
"""Equidistant colours of matplotlib's colour map of this name, from dark to bright."""


def mel_png(wave: Float[Tensor, "1 1 samples"], *, columns: int = 1200, n_shades: int = N_SHADES) -> bytes:
    """Render a wave at 16 kHz as a PNG with a palette, a quarter of the size of one in RGB.

    It is 80 pixels high and at most ``columns`` wide, with low frequencies at the bottom.
    """
    from PIL import Image

    short = max(0, SPEECH_16K.n_fft - wave.shape[-1])
    mel = LogMel(SPEECH_16K)(F.pad(wave, (0, short)))[0].numpy()
    if mel.shape[1] > columns:
        cuts = np.linspace(0, mel.shape[1], columns + 1).astype(int)[:-1]
        mel = np.maximum.reduceat(mel, cuts, axis=1)
    loudest = max(float(mel.max()), math.log(SPEECH_16K.floor) + PICTURE_DEPTH)  # keeps silence dark
    shade = np.clip((mel - loudest) / PICTURE_DEPTH + 1, 0, 1)[::-1]
    picture = Image.fromarray((shade * (n_shades - 1)).round().astype(np.uint8), mode="P")
    points = np.array([list(bytes.fromhex(colour)) for colour in MAGMA.split()])
    at = np.linspace(0, len(points) - 1, n_shades)
    palette = [np.interp(at, np.arange(len(points)), channel) for channel in points.T]
    picture.putpalette(np.stack(palette, axis=1).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
