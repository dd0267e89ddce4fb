"""Speed of live conversion, chunk by chunk: ``python -m benchmarks.live [--chunk-ms 10 13 20 40]``

    python -m benchmarks.live --engine onnx eager
    python -m benchmarks.live --engine onnx --peer CHECKOUT      # of LLVC's published code
    python -m benchmarks.live --engine onnx --soak-minutes 60

Runs on one thread, with no pause between chunks. All systems take short turns, so that slowdowns of the
machine affect all of them. The factor is computing time over the sound's duration; that of the processor
excludes time used by other programs. LLVC runs in a separate process, with its own streaming function, chunks
of 13 ms, and its weights if the checkout contains them.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.converter import chunk_seconds, lasting, speech_like
from benchmarks.live_peer import CHUNK_MS, Peer
from benchmarks.table import in_turns, machine, ratio, show
from data.audio import load
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from w2w import Converter
from w2w.live.session import Session, undisturbed
from w2w.watermark import Marker

Wave = Float[Tensor, "1 1 samples"]
TURN_S = 5.0
"""Sound per turn, s."""
GOALS = {10.0: (0.2, math.inf), 20.0: (0.1, 8.0)}
"""Chunk in ms to maxima: of computing time over duration, and of the 99th percentile of chunk times in ms."""
GOAL_PEER = 0.2
"""Maximum of our computing time over the peer's, both with the peer's chunks."""


@dataclass(kw_only=True)
class Contestant:
    """A system that takes turns, with the times of its chunks."""

    name: str
    chunk_ms: float
    latency_ms: float | None
    turn: Callable[[Wave], tuple[list[float], float]]
    """Processes a wave; returns the seconds of each chunk, and the processor seconds in total."""
    took: list[float] = field(default_factory=list)
    processor_s: float = 0.0

    @property
    def factor(self) -> float:
        return 1000 * float(np.mean(self.took)) / self.chunk_ms

    @property
    def processor_factor(self) -> float:
        """Processor time over the duration of the sound, without time used by other programs."""
        return 1000 * self.processor_s / (len(self.took) * self.chunk_ms)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("benchmarks.live", __doc__)
    option = arguments.add_argument
    option("--checkpoint", default="released_live", metavar="FOLDER", help="default: released_live")
    option("--speech", metavar="FILE", help="recording (default: a synthetic sound with pitch and pauses)")
    option("--seconds", type=float, default=60.0, help="sound for each system (default 60)")
    option("--chunk-ms", type=float, nargs="+", default=[10.0, 13.0, 20.0, 40.0], metavar="MS")
    option("--engine", nargs="+", default=["eager", "onnx"], choices=("eager", "onnx"))
    option("--rate", type=int, metavar="HZ", help="sample rate of the chunks (default: the converter's)")
    option("--peer", type=Path, metavar="CHECKOUT", help="folder of LLVC's published code")
    option("--soak-minutes", type=float, metavar="N", help="only stream N minutes, to check memory and speed")
    args = arguments.parse_args(argv)
    if not all(1 <= length < math.inf for length in (args.seconds, args.soak_minutes or 1.0)):
        raise UserError("--seconds and --soak-minutes must be at least 1")
    if not all(1 <= chunk_ms <= 1000 for chunk_ms in args.chunk_ms):
        raise UserError("--chunk-ms must be between 1 and 1000 ms")
    torch.set_num_threads(1)
    converter = Converter.from_pretrained(args.checkpoint)
    model_rate = converter.sample_rate
    rate = args.rate or model_rate
    voice = converter.embed(load(args.speech, model_rate) if args.speech else speech_like(10.0, model_rate))
    speech = load(args.speech, rate) if args.speech else speech_like(20.0, rate)
    if args.soak_minutes is not None:
        for engine in args.engine:
            soak(converter, voice, speech, args.soak_minutes, args.chunk_ms[0], rate, engine)
        return
    contestants = [
        ours(converter, voice, chunk_ms, rate, engine) for engine in args.engine for chunk_ms in args.chunk_ms
    ]
    with Peer(args.peer, speech_like(TURN_S, 16_000)) if args.peer else nullcontext() as peer:
        if peer:
            about = {"name": peer.name, "latency_ms": peer.latency_ms}
            contestants.append(Contestant(**about, chunk_ms=CHUNK_MS, turn=lambda _: peer.turn()))
        compete(contestants, speech, args.seconds, rate)
    heads = ["system", "chunk", "latency", "factor", "of processor", "median", "99 %", "worst", "goal", "met"]
    title = f"{args.seconds:g} s at {rate} Hz, on {machine()}"
    show(title, heads, [row(contestant) for contestant in contestants])
    if args.peer is not None:
        against(contestants)


def ours(converter: Converter, voice: Tensor, chunk_ms: float, rate: int, engine: str) -> Contestant:
    """Our converter with one stream that continues over all turns."""
    chunk = round(chunk_ms * rate / 1000)
    live = converter.stream(voice, chunk, sample_rate=rate, engine=engine)

    def turn(wave: Wave) -> tuple[list[float], float]:
        processor = time.process_time()
        return chunk_seconds(live, wave.split(chunk, dim=-1)), time.process_time() - processor

    length = 1000 * chunk / rate
    return Contestant(name=f"ours, {engine}", chunk_ms=length, latency_ms=live.latency_ms, turn=turn)


def compete(contestants: Sequence[Contestant], speech: Wave, seconds: float, rate: int) -> None:
    """Run all contestants on the same sound in turns, after a warm-up."""
    for contestant in contestants:
        contestant.turn(lasting(speech, rate))
    n_turns = max(round(seconds / TURN_S), 1)
    turn_samples = round(seconds / n_turns * rate)
    whole = lasting(speech, turn_samples * n_turns)
    for number, wave in enumerate(whole.split(turn_samples, dim=-1)):
        # The order rotates, because the state of the caches depends on the previous contestant.
        first = number % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            took, processor_s = contestant.turn(wave)
            contestant.took += took
            contestant.processor_s += processor_s


def row(contestant: Contestant) -> list[str]:
    middle, slow, worst = (1000 * np.quantile(contestant.took, [0.5, 0.99, 1.0])).tolist()
    goal, met = "", ""
    if contestant.chunk_ms in GOALS:
        most, most_slow = GOALS[contestant.chunk_ms]
        goal = f"≤ {most}" + (f", 99 % ≤ {most_slow:g} ms" if most_slow < math.inf else "")
        met = "yes" if contestant.factor <= most and slow <= most_slow else "NO"
    late = "" if contestant.latency_ms is None else f"{contestant.latency_ms:.4g} ms"
    figures = [f"{figure:.2f} ms" for figure in (middle, slow, worst)]
    factors = f"{contestant.factor:.3f}", f"{contestant.processor_factor:.3f}"
    return [contestant.name, f"{contestant.chunk_ms:g} ms", late, *factors, *figures, goal, met]


def against(contestants: Sequence[Contestant]) -> None:
    """Print our computing time over the peer's, with the peer's chunks."""
    *rest, theirs = contestants
    same = [contestant for contestant in rest if contestant.chunk_ms == theirs.chunk_ms]
    if not same:
        print(f"\nadd {theirs.chunk_ms:g} to --chunk-ms to compare with the peer")
    for contestant in same:
        share = contestant.factor / theirs.factor
        medians = float(np.median(contestant.took) / np.median(theirs.took))
        processor = contestant.processor_factor / theirs.processor_factor
        print(
            f"\n{contestant.name}: {share:.3f} of the computing time of {theirs.name}, chunks of"
            f" {theirs.chunk_ms:g} ms (medians: {medians:.3f}, processor: {processor:.3f};"
            f" goal ≤ {GOAL_PEER}: {'met' if share <= GOAL_PEER else 'NOT met'})"
        )


TURNS = 41
"""Turns of one second each, in which a session that has run for long is compared with a fresh one."""
MOST_GROWTH_MIB, MOST_SLOWING = 8.0, 1.1
"""Tolerances of "flat": memory held by the allocator, and timing noise of a shared machine."""


def soak(
    converter: Converter, voice: Tensor, speech: Wave, minutes: float, chunk_ms: float, rate: int, engine: str
) -> None:
    """Stream for some minutes as the live command does: with watermark, meters and changes of the voice."""
    # A second voice to switch to and back.
    other = voice + 0.1 * torch.randn(voice.shape, generator=torch.Generator().manual_seed(0)).to(voice)

    def begun() -> Session:
        options = {"chunk_ms": chunk_ms, "rate": rate, "engine": engine, "marker": Marker(rate)}
        session = Session(converter, [voice, other], **options)
        session.warm_up()
        return session

    session = begun()
    chunks = lasting(speech, 60 * rate).split(session.chunk_samples, dim=-1)
    whole = [chunk for chunk in chunks if chunk.shape[-1] == session.chunk_samples]
    memory: list[float] = []
    with undisturbed():
        for minute in range(round(minutes)):
            session.choose_voice(minute % 2)
            for chunk in whole:
                session.push(chunk)
            memory.append(psutil.Process().memory_info().rss / 2**20)
        slower = slowdown(session, begun(), whole)
    print(
        f"{round(minutes)} minutes at once, {engine}, chunks of {chunk_ms:g} ms at {rate} Hz, watermarked,"
        f" the voice changing every minute, on {machine()}: {verdict(memory, slower)}"
    )


def slowdown(old: Session, fresh: Session, chunks: Sequence[Wave]) -> float:
    """The computing time of a session that has run for long over that of a fresh one, measured in turns.

    Unlike measurements an hour apart, this does not depend on the machine's load in between.
    """
    some = chunks[: max(round(1 / old.load.chunk_s), 1)]
    calls = [lambda session=session: [session.push(chunk) for chunk in some] for session in (old, fresh)]
    return ratio(*in_turns(calls, TURNS))


def verdict(memory: Sequence[float], slower: float) -> str:
    """Describe the growth of memory from the first to the last tenth, and the slowdown; "flat" if small."""
    tenth = max(len(memory) // 10, 1)
    # The first minute is warm-up.
    early, late = memory[1 : 1 + tenth] or memory, memory[-tenth:]
    grown = float(np.median(late) - np.median(early))
    flat = grown <= MOST_GROWTH_MIB and slower <= MOST_SLOWING
    return (
        f"memory {grown:+.1f} MiB from the first minutes to the last ({memory[-1]:.1f} MiB), computing time"
        f" per chunk {slower:.3f} of a fresh session's: {'flat' if flat else 'NOT flat'}"
    )


if __name__ == "__main__":
    main()
