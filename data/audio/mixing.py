"""Downmixing to mono at the level of the loudest channel, also for silent or inverted channels."""

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.audio.decoding import opened
from data.audio.resampling import Frames

WEIGHED_S = 60.0
"""Seconds of non-silent audio, from the beginning of a file, that determine the channel weights."""
SILENT = 1e-3
"""Peak below which a block is ignored."""
CANCELS = 0.1
"""Ratio of the power of the channels' sum to the sum of their powers below which they cancel each other."""

Weights = Float[np.ndarray, "channels"]


def mixed(frames: Frames, path: Path) -> Float[np.ndarray, "samples 1"]:
    """Mix frames of a file to mono, with the same weights throughout the file."""
    if frames.shape[1] == 1:
        return frames
    # Not a matrix product, whose rounding depends on the number of samples.
    return (frames * _weights_and_warning(path)[0]).sum(axis=1, keepdims=True)


def cancelling(path: Path) -> str | None:
    """Return the warning about a file whose channels cancel each other, or None."""
    return _weights_and_warning(path)[1]


def _weights_and_warning(path: Path) -> tuple[Weights, str | None]:
    stat = path.stat()
    return _file_weights(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _file_weights(path: Path, size: int, modified: int) -> tuple[Weights, str | None]:
    """Return the weight of each channel of a file; warns once if its channels cancel each other."""
    with opened(path) as sound:
        covariance, counted = np.zeros((sound.channels, sound.channels)), 0
        for frames in sound.decode():
            if np.abs(frames).max() >= SILENT:
                covariance += _covariance(frames)
                counted += len(frames)
            if counted >= WEIGHED_S * sound.sample_rate:
                break
    weights, cancel = weights_of(covariance)
    if not cancel:
        return weights, None
    alone = f"only channel {weights.argmax() + 1} is used"
    message = f"its channels cancel each other, so that {alone} (one of them is inverted)"
    warnings.warn(f"{path}: {message}", stacklevel=5)
    return weights, message


def mixed_whole(frames: Frames) -> Float[np.ndarray, "samples 1"]:
    """Mix frames that belong to no file to mono, with weights from all of them."""
    weights, _ = weights_of(_covariance(frames))
    return (frames * weights).sum(axis=1, keepdims=True)


def _covariance(frames: Frames) -> Float[np.ndarray, "channels channels"]:
    moving = (frames - frames.mean(axis=0)).astype(np.float64)
    return moving.T @ moving


def weights_of(covariance: Float[np.ndarray, "channels channels"]) -> tuple[Weights, bool]:
    """Return equal weights that make the mix as loud as the loudest channel, and whether the channels cancel.

    If they do, only the loudest channel has a weight.
    """
    powers, total = covariance.diagonal(), covariance.sum()
    n_channels = len(powers)
    if not powers.any():
        return np.full(n_channels, 1 / n_channels, np.float32), False
    if total < CANCELS * powers.sum():
        return np.eye(n_channels, dtype=np.float32)[powers.argmax()], True
    return np.full(n_channels, np.sqrt(powers.max() / total), np.float32), False
