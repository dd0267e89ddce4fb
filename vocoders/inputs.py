"""Find and check the recordings and mels that ``vocoders.synthesize`` converts to waves."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.audio import EXTENSIONS, READ_ONLY, blocks, info, resampled_length
from data.audio.reading import files_under
from data.frontends import MelConfig
from engine.outcome import leaving_out
from engine.user_error import UserError
from vocoders import mel_files

READ_SAMPLES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Job:
    """One recording or mel to convert to a wave."""

    source: Path
    out: Path
    samples: int
    """Samples of the output."""
    frames: int
    """Mel frames; for a recording, its length in hops, rounded up."""


def is_mel(path: Path) -> bool:
    """Whether a file is a mel, by its extension."""
    return path.suffix.lower() in mel_files.EXTENSIONS


def files_in(folder: Path) -> list[Path]:
    """Every recording and mel in a folder, at any depth."""
    sources = files_under(folder, (*EXTENSIONS, *READ_ONLY, *mel_files.EXTENSIONS))
    if not sources:
        raise UserError(f"{folder} holds neither recordings nor mels (.npy, .npz)")
    return sources


def examine(pairs: Iterable[tuple[Path, Path]], mel: MelConfig, left_out: list[str]) -> list[Job]:
    """Read every source to its end, so that unusable ones are reported before any output is written."""
    jobs = []
    for source, out in pairs:
        with leaving_out(left_out):
            samples, frames = _sizes(source, mel)
            jobs.append(Job(source=source, out=out, samples=samples, frames=frames))
    return jobs


def _sizes(source: Path, mel: MelConfig) -> tuple[int, int]:
    if is_mel(source):
        frames = mel_files.read_mel(source, mel).shape[-1]
        return frames * mel.hop, frames
    sample_rate = info(source).sample_rate
    n_samples = sum(block.shape[-1] for block in blocks(source, None, READ_SAMPLES))
    samples = resampled_length(n_samples, sample_rate, mel.sample_rate)
    if samples == 0:
        raise UserError(f"{source} is too short: it has no samples at {mel.sample_rate} Hz")
    return samples, -(-samples // mel.hop)
