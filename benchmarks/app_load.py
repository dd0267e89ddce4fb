"""Load test of the app's server: ``python -m benchmarks.app_load --data SPEECH [--clients 8 --seconds 60]``

Several clients at once send requests without pause, each to convert a recording to the voice of another one;
meanwhile another client misuses the server in all ways of ``benchmarks.app_abuse``. A request is lost if it
fails, or if its answer does not have exactly the length of its source. Finally, the server is stopped. All
clients are threads of this process, so that part of the measured time is their own.
"""

import io
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import soundfile

from benchmarks.app_abuse import ABUSES
from benchmarks.app_process import Serving, serving
from data.audio import audio_files
from data.audio.resampling import resampled_length
from engine.arguments import Arguments
from engine.table import table
from engine.user_error import exits_cleanly

HEALTH_SECONDS = 0.25
"""Interval between requests for ``/api/health``, which measure responsiveness."""


@dataclass(kw_only=True)
class Tally:
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds from the first byte of each answered request to the last byte of its answer."""
    speech_seconds: list[float] = field(default_factory=list)
    """Duration of each answer."""
    lost: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    """Seconds of answers to ``/api/health``."""
    abuses: int = 0
    wrong: list[str] = field(default_factory=list)
    """Abuses with an incorrect answer."""
    memory_mb: tuple[float, float] = (0.0, 0.0)
    """The server's memory after its first answer and at the end."""
    left: list[str] = field(default_factory=list)
    """Temporary files that remain at the end of the load."""
    left_at_exit: list[str] = field(default_factory=list)
    exit_status: int | None = None


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("benchmarks.app_load", __doc__)
    option = arguments.add_argument
    option("--data", required=True, metavar="SPEECH", help="folder of recordings to convert")
    option("--clients", type=int, default=8, help="concurrent clients (default: 8)")
    option("--seconds", type=float, default=60.0, help="duration of the load (default: 60)")
    option("--recordings", type=int, default=64, help="recordings sampled from the data (default: 64)")
    option("--workers", type=int, default=1, help="workers of the server (default: 1)")
    option("--no-abuse", action="store_true", help="without abusive clients")
    args = arguments.parse_args(argv)
    files = audio_files(args.data)
    recordings = random.Random(0).sample(files, min(args.recordings, len(files)))
    options = f"--workers {args.workers} --max-mb 20 --upload-seconds 6 --idle-seconds 4".split()
    with serving(*options) as server:
        tally = load(server, recordings, args.clients, args.seconds, abuse=not args.no_abuse)
        tally.exit_status = server.stop()
        tally.left_at_exit = sorted(path.name for path in server.folder.iterdir())
    print(table(("load test", ""), row(tally).items()))
    if tally.lost or tally.wrong or tally.left or tally.left_at_exit or tally.exit_status:
        raise SystemExit(1)


def load(
    server: Serving, recordings: Sequence[Path], clients: int, seconds: float, *, abuse: bool = True
) -> Tally:
    tally, warm = Tally(), Tally()
    _client(server, warm, 0.0, recordings, seed=0)
    began = time.monotonic()
    memory, until = server.memory_mb(), began + seconds
    start = partial(threading.Thread, args=(server, tally, until))
    threads = [start(target=partial(_client, recordings=recordings, seed=n)) for n in range(clients)]
    threads += [start(target=_check_health), *([start(target=_misuse)] if abuse else [])]
    for thread in threads:
        thread.start()
    for thread in threads[: clients + 1]:
        thread.join()
    tally.seconds = time.monotonic() - began
    for thread in threads:
        thread.join()
    tally.lost += warm.lost
    tally.memory_mb = memory, server.memory_mb()
    tally.left = server.settled()
    return tally


def _client(server: Serving, tally: Tally, until: float, recordings: Sequence[Path], seed: int) -> None:
    """Request conversions of random pairs one after another, at least one."""
    rng = random.Random(seed)
    with httpx.Client(base_url=server.url, timeout=120) as client:
        while True:
            source, reference = rng.choices(recordings, k=2)
            began = time.monotonic()
            try:
                with source.open("rb") as spoken, reference.open("rb") as voice:
                    answer = client.post("/api/convert", files={"source": spoken, "reference": voice})
                took, problem = time.monotonic() - began, _problem(answer, source)
                if not problem:
                    tally.latencies.append(took)
                    tally.speech_seconds.append(float(answer.headers["x-audio-seconds"]))
            except httpx.HTTPError as error:
                problem = repr(error)
            if problem:
                tally.lost.append(f"{source.name}: {problem}")
            if time.monotonic() >= until:
                return


def _problem(answer: httpx.Response, source: Path) -> str | None:
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text}"
    given, got = soundfile.info(str(source)), soundfile.info(io.BytesIO(answer.content))
    wanted = resampled_length(given.frames, given.samplerate, got.samplerate)
    return None if got.frames == wanted else f"{got.frames} samples instead of {wanted}"


def _check_health(server: Serving, tally: Tally, until: float) -> None:
    """Measure how fast the server answers health checks under load."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        while not tally.health or time.monotonic() < until:
            began = time.monotonic()
            client.get("/api/health").raise_for_status()
            tally.health.append(time.monotonic() - began)
            time.sleep(HEALTH_SECONDS)


def _misuse(server: Serving, tally: Tally, until: float) -> None:
    """Perform all abuses in turn, each at least once."""
    while True:
        for name, (abuse, right) in ABUSES.items():
            tally.abuses += 1
            if (status := abuse(server)) != right:
                tally.wrong.append(f"{name}: {status} instead of {right}")
        if time.monotonic() >= until:
            return


def row(tally: Tally) -> dict[str, object]:
    latencies, health = sorted(tally.latencies), sorted(tally.health)
    problems = [*tally.lost, *tally.wrong, *tally.left, *tally.left_at_exit]
    figures: dict[str, object] = {
        "seconds of load": round(tally.seconds, 1),
        "requests answered": len(latencies),
        "requests lost": len(tally.lost),
        "speech converted, s": round(sum(tally.speech_seconds), 1),
        "latency median, s": round(statistics.median(latencies), 3),
        "latency 95 %, s": round(latencies[int(0.95 * (len(latencies) - 1))], 3),
        "latency worst, s": round(latencies[-1], 3),
        "health answered, median s": round(statistics.median(health), 4),
        "health answered, worst s": round(health[-1], 4),
        "abuses tried": tally.abuses,
        "abuses answered wrongly": len(tally.wrong),
        "temporary files left": len(tally.left),
        "memory at start, MB": round(tally.memory_mb[0], 1),
        "memory at end, MB": round(tally.memory_mb[1], 1),
        "exit status on SIGTERM": tally.exit_status,
        "temporary files after exit": len(tally.left_at_exit),
    }
    return figures | {f"problem {n}": problem for n, problem in enumerate(problems[:5], start=1)}


if __name__ == "__main__":
    main()
