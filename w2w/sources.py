"""Which recordings of a command can be converted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.audio import blocks, info
from engine.outcome import leaving_out
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

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples / self.sample_rate


def examine(pairs: Sequence[tuple[Path, Path]], left_out: list[str]) -> list[Job]:
    """Decode every source to its end and count its samples: what cannot be converted is known at once."""
    jobs = []
    for source, out in tqdm(pairs, desc="checking", unit="file", delay=2.0, leave=False, disable=None):
        with leaving_out(left_out):
            rate = info(source).sample_rate
            samples = sum(block.shape[-1] for block in blocks(source, None, READ_SAMPLES))
            if samples < SHORTEST_S * rate:
                raise UserError(
                    f"{source} is too short: it lasts {1000 * samples / rate:.2f} ms, and a source needs "
                    f"at least {1000 * SHORTEST_S:.0f} ms"
                )
            jobs.append(Job(source=source, out=out, sample_rate=rate, samples=samples))
    return jobs
