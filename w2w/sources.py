"""Which recordings of a command can be converted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.audio import blocks, info
from data.audio.checking import INTEGER_PEAK, LOUDEST_PEAK
from engine.outcome import leaving_out, note
from engine.user_error import UserError

SHORTEST_S = 0.01
"""Seconds of a source below which there is nothing to convert: one hop."""
READ_SAMPLES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Job:
    """One recording to convert."""

    source: Path
    out: Path
    sample_rate: int
    """Of the source, Hz."""
    samples: int
    """Of the source, at its own rate."""
    gain: float = 1.0
    """What brings a source whose floats exceed full scale back to it."""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples / self.sample_rate


def examine(pairs: Sequence[tuple[Path, Path]], left_out: list[str]) -> list[Job]:
    """The jobs of all sources that can be converted; of the others, why not is added to ``left_out``."""
    jobs = []
    for source, out in tqdm(pairs, desc="checking", unit="file", delay=2.0, leave=False, disable=None):
        with leaving_out(left_out):
            jobs.append(job_of(source, out))
    return jobs


def job_of(source: Path, out: Path) -> Job:
    """Decode a source to its end, counting its samples: what cannot be converted is known at once."""
    rate = info(source).sample_rate
    samples, peak, gain = 0, 0.0, 1.0
    for block in blocks(source, None, READ_SAMPLES):
        samples, peak = samples + block.shape[-1], max(peak, float(block.abs().max()))
    if samples < SHORTEST_S * rate:
        raise UserError(
            f"{source} is too short: it lasts {1000 * samples / rate:.2f} ms, and a source needs "
            f"at least {1000 * SHORTEST_S:.0f} ms"
        )
    if peak > LOUDEST_PEAK:
        gain = 1 / peak
        kind = (
            "as integers stored as floats do" if peak > INTEGER_PEAK else f"by {20 * math.log10(peak):.1f} dB"
        )
        note(f"{source} exceeds full scale {kind}: it is made as much quieter")
    return Job(source=source, out=out, sample_rate=rate, samples=samples, gain=gain)
