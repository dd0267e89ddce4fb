"""One channel made of several: as loud as the loudest of them, whichever are silent, and never nothing."""

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.audio.decoding import opened
from data.audio.resampling import Frames

HEARD_S = 60.0
"""Seconds of sound, from a file's first on, by which its channels are weighed."""
SILENT = 1e-3
"""Peak of a piece that is passed over."""
CANCELS = 0.1
"""Power of the sum below which, relative to the channels' own, they cancel each other."""

Weights = Float[np.ndarray, "channels"]


def mixed(frames: Frames, path: Path) -> Float[np.ndarray, "samples 1"]:
    """The frames of a file in one channel; all of a file is mixed alike."""
    if frames.shape[1] == 1:
        return frames
    # Not a product of matrices, whose rounding depends on how many samples are mixed at once.
    return (frames * file_weights(path)).sum(axis=1, keepdims=True)


def file_weights(path: Path) -> Weights:
    """By what to multiply each channel before they are added up; warns, once, where they cancel."""
    stat = path.stat()
    return _file_weights(path, stat.st_size, stat.st_mtime_ns)[0]


def cancelling(path: Path) -> str | None:
    """What is said of a file whose channels cancel each other, where they do."""
    stat = path.stat()
    return _file_weights(path, stat.st_size, stat.st_mtime_ns)[1]


@lru_cache(maxsize=65_536)
def _file_weights(path: Path, size: int, modified: int) -> tuple[Weights, str | None]:
    with opened(path) as sound:
        covariance, counted = np.zeros((sound.channels, sound.channels)), 0
        for frames in sound.decode():
            if np.abs(frames).max() >= SILENT:
                covariance += _covariance(frames)
                counted += len(frames)
            if counted >= HEARD_S * sound.sample_rate:
                break
    weights, cancel = weights_of(covariance)
    if not cancel:
        return weights, None
    alone = f"channel {weights.argmax() + 1} alone is heard"
    message = f"its channels cancel each other, so that {alone} (one of them is inverted)"
    warnings.warn(f"{path}: {message}", stacklevel=5)
    return weights, message


def mixed_whole(frames: Frames) -> Float[np.ndarray, "samples 1"]:
    """Frames that are no file's in one channel, weighed by all of them."""
    weights, _ = weights_of(_covariance(frames))
    return (frames * weights).sum(axis=1, keepdims=True)


def _covariance(frames: Frames) -> Float[np.ndarray, "channels channels"]:
    moving = (frames - frames.mean(axis=0)).astype(np.float64)
    return moving.T @ moving


def weights_of(covariance: Float[np.ndarray, "channels channels"]) -> tuple[Weights, bool]:
    """Equal weights that make the sum as loud as the loudest channel, and whether the channels cancel.

    Where they do, the loudest one has all the weight.
    """
    own, total = covariance.diagonal(), covariance.sum()
    n_channels = len(own)
    if not own.any():
        return np.full(n_channels, 1 / n_channels, np.float32), False
    if total < CANCELS * own.sum():
        return np.eye(n_channels, dtype=np.float32)[own.argmax()], True
    return np.full(n_channels, np.sqrt(own.max() / total), np.float32), False
