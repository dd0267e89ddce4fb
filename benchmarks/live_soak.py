"""A live session for an hour, faster than real time: memory and time per chunk must stay where they are."""

import os
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.table import machine, show
from w2w import Converter
from w2w.live.session import Session, undisturbed
from w2w.watermark import Marker

Wave = Float[Tensor, "1 1 samples"]
TURNS = 41
"""Of a second each, in which a session that has run for long is held against a fresh one."""
MOST_GROWTH_MIB, MOST_SLOWING = 8.0, 1.1
"""What still counts as flat: what an allocator may keep, and the noise of a shared machine."""


def resident_mib() -> float:
    """Memory of this process now; where the system does not tell, its most so far."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def looped(speech: Wave, samples: int) -> Float[Tensor, "1 1 looped"]:
    return speech.repeat(1, 1, -(-samples // speech.shape[-1]))[..., :samples]


def soak(
    converter: Converter,
    voice: Tensor,
    speech: Wave,
    minutes: float,
    chunk_ms: float,
    rate: int,
    engine: str,
) -> None:
    """Stream that long with everything the command does: mark, meters, voices and pitch that change."""
    # Another voice to go over to and back.
    other = voice + 0.1 * torch.randn(voice.shape, generator=torch.Generator().manual_seed(0)).to(voice)

    def begun() -> Session:
        made = Session(
            converter, [voice, other], chunk_ms=chunk_ms, rate=rate, engine=engine, marker=Marker(rate)
        )
        made.warm_up()
        return made

    session = begun()
    chunks = looped(speech, 60 * rate).split(session.chunk_samples, dim=-1)
    whole = [chunk for chunk in chunks if chunk.shape[-1] == session.chunk_samples]
    seen: list[tuple[float, float, float, float]] = []
    with undisturbed():
        for minute in range(round(minutes)):
            session.choose_voice(minute % 2)
            took, cpu = [], time.process_time()
            for chunk in whole:
                before = time.perf_counter()
                session.push(chunk)
                took.append(1000 * (time.perf_counter() - before))
            cpu = 1000 * (time.process_time() - cpu) / len(whole)
            seen.append((resident_mib(), float(np.median(took)), float(np.quantile(took, 0.99)), cpu))
        slower = beside(session, begun(), whole)
    title = (
        f"{round(minutes)} minutes at once, {engine}, chunks of {chunk_ms:g} ms at {rate} Hz, watermarked,"
        f" the voice changing every minute, on {machine()}"
    )
    show(title, ["minutes", "memory", "median", "99 %", "computing time"], rows(seen))
    print("\n" + verdict(seen, slower))


def beside(old: Session, fresh: Session, chunks: Sequence[Wave]) -> float:
    """The computing time of a session that has run for long over that of a fresh one, taking turns.

    Unlike two times an hour apart, it does not depend on what else the machine has done meanwhile.
    """
    ratios, size = [], min(max(round(1 / old.load.chunk_s), 1), len(chunks))
    for turn in range(TURNS):
        some = [chunks[(turn * size + place) % len(chunks)] for place in range(size)]
        took = {}
        for session in (old, fresh) if turn % 2 else (fresh, old):
            before = time.process_time()
            for chunk in some:
                session.push(chunk)
            took[session is old] = time.process_time() - before
        ratios.append(took[True] / took[False])
    return float(np.median(ratios))


def rows(seen: Sequence[tuple[float, float, float, float]]) -> list[list[str]]:
    """Up to twelve of the minutes, the first and the last among them."""
    chosen = sorted({round(place) for place in np.linspace(0, len(seen) - 1, min(len(seen), 12))})
    lines = []
    for minute in chosen:
        memory, *times = seen[minute]
        lines.append([str(minute + 1), f"{memory:.1f} MiB", *(f"{ms:.3f} ms" for ms in times)])
    return lines


def verdict(seen: Sequence[tuple[float, float, float, float]], slower: float) -> str:
    """Whether memory stayed flat from the first to the last tenth, and time beside a fresh session's."""
    tenth = max(len(seen) // 10, 1)
    # The first minute pays for what is made once.
    early, late = seen[1 : 1 + tenth] or seen, seen[-tenth:]
    grown = float(np.median([minute[0] for minute in late]) - np.median([minute[0] for minute in early]))
    flat = grown <= MOST_GROWTH_MIB and slower <= MOST_SLOWING
    return (
        f"memory {grown:+.1f} MiB from the first minutes to the last, computing time per chunk {slower:.3f}"
        f" of a fresh session's: {'flat' if flat else 'NOT flat'}"
    )
