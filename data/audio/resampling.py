"""Resampling by soxr at its very high quality; a whole wave and its blocks give identical samples."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

QUALITY = "VHQ"
Frames = Float[np.ndarray, "samples channels"]
Resampled = Float[np.ndarray, "resampled channels"]


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Return the number of samples after resampling (rounded half up)."""
    return (2 * samples * to_rate + from_rate) // (2 * from_rate)


def resample(
    wave: Float[Tensor, "batch channels samples"], from_rate: int, to_rate: int
) -> Float[Tensor, "batch channels resampled"]:
    """Resample a wave (soxr VHQ) to a length of exactly ``resampled_length``; no gradient passes."""
    if from_rate == to_rate:
        return wave
    batch, channels, samples = wave.shape
    frames = wave.detach().cpu().float().reshape(batch * channels, samples).T.numpy()
    resampler = Resampler(from_rate, to_rate, batch * channels)
    resampled = np.concatenate([resampler.push(frames), resampler.flush()])
    return torch.from_numpy(resampled.T.copy()).reshape(batch, channels, -1).to(wave.device)


def resampled_pieces(
    pieces: Iterable[Float[Tensor, "1 1 _"]], from_rate: int, to_rate: int, samples: int
) -> Iterator[Float[Tensor, "1 1 _"]]:
    """Resample consecutive pieces to exactly ``samples`` in total, since rounding may be a sample off."""
    resampler, left = Resampler(from_rate, to_rate, 1), samples

    def resampled() -> Iterator[Resampled]:
        for piece in pieces:
            yield resampler.push(piece[0].T.cpu().numpy())
        yield resampler.flush()
        yield np.zeros((left, 1), np.float32)

    for frames in resampled():
        kept = frames[:left]
        left -= len(kept)
        if len(kept):
            yield torch.from_numpy(np.ascontiguousarray(kept.T))[None]


class Resampler:
    """A block-wise resampler: its concatenated outputs equal the whole file resampled at once."""

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self.from_rate, self.to_rate, self.channels = from_rate, to_rate, channels
        self.same = from_rate == to_rate
        self.n_in = self.n_out = 0
        if not self.same:
            self.stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality=QUALITY)

    def push(self, frames: Frames) -> Resampled:
        """Process a block of any length; return the output samples that are complete, possibly none."""
        self.n_in += len(frames)
        if self.same:
            return frames
        # soxr needs contiguous interleaved memory.
        resampled = self.stream.resample_chunk(np.ascontiguousarray(frames)).reshape(-1, self.channels)
        self.n_out += len(resampled)
        return resampled

    def flush(self) -> Resampled:
        """Return the last samples, so that the total is exactly ``resampled_length`` of the input."""
        nothing = np.zeros((0, self.channels), np.float32)
        if self.same:
            return nothing
        missing = resampled_length(self.n_in, self.from_rate, self.to_rate) - self.n_out
        tail = self.stream.resample_chunk(nothing, last=True).reshape(-1, self.channels)[:missing]
        # soxr rounds lengths of n + ½ samples either way; a zero sample is appended where it rounds down.
        return np.pad(tail, ((0, missing - len(tail)), (0, 0)))
