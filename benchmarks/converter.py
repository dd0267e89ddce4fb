"""Speed and memory of a converter: ``python -m benchmarks.converter [--checkpoint FOLDER] [--speech FILE]``

Runs on one thread. Without a checkpoint, the released weights are measured or, if there are none, a random
network of the default size. Run it on an otherwise idle machine.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.table import ROOT, in_turns, machine, one_thread, show
from data.audio import Writer, load, save
from engine.arguments import Arguments
from engine.checkpoint import export
from engine.user_error import UserError, exits_cleanly
from w2w import Converter
from w2w.networks.config import ConverterConfig
from w2w.networks.network import ConverterNetwork
from w2w.stream import Stream
from w2w.weights import weights_folder

Wave = Float[Tensor, "1 1 samples"]
GOAL_RTF, GOAL_GIB = 0.05, 1.0
LOAD = """
import sys, time
began = time.perf_counter()
from w2w.converter import Converter
imported = time.perf_counter()
Converter.from_pretrained(sys.argv[1])
print(imported - began, time.perf_counter() - imported)
"""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("benchmarks.converter", __doc__)
    option = arguments.add_argument
    option("--checkpoint", metavar="FOLDER", help="exported converter")
    option("--speech", metavar="FILE", help="recording (default: a synthetic sound with pitch and pauses)")
    option("--repeats", type=int, default=5, help="runs, of which the median is reported (default 5)")
    option("--minutes", type=float, default=10.0, help="length of the recording for peak memory (default 10)")
    args = arguments.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, what = measured_folder(args.checkpoint, Path(scratch))
        converter = Converter.from_pretrained(folder)
        rate = converter.sample_rate
        speech = load(args.speech, rate) if args.speech else speech_like(20.0, rate)
        voice = converter.embed(speech[..., : 10 * rate])
        rows = [
            *offline(converter, voice, speech, max(args.repeats, 1)),
            *memory(folder, speech, rate, args.minutes, Path(scratch)),
            *streaming(converter, voice, speech),
            *loading(folder, max(args.repeats, 1)),
        ]
    millions = sum(parameter.numel() for parameter in converter.network.parameters()) / 1e6
    title = f"{what}: {millions:.2f} M parameters, {rate} Hz, on {machine()}"
    show(title, ["what", "figure", "goal", "met"], rows)


def measured_folder(checkpoint: str | None, scratch: Path) -> tuple[Path, str]:
    """The exported converter to measure, and its name in the table."""
    try:
        return weights_folder(checkpoint).resolve(), checkpoint or "the released converter"
    except UserError:
        if checkpoint is not None:
            raise
    torch.manual_seed(0)
    folder = export(scratch / "random", ConverterConfig(), ConverterNetwork(ConverterConfig()))
    return folder, "a random converter of the default size"


def speech_like(seconds: float, rate: int) -> Wave:
    """A sound like speech: harmonics with varying F0, noise, and a pause every two seconds."""
    samples = torch.arange(round(seconds * rate)).double() / rate
    f0 = 140 * 2 ** (0.3 * torch.sin(2 * torch.pi * 0.4 * samples))
    phase = 2 * torch.pi * (f0 / rate).cumsum(0)
    voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 20)]).sum(0)
    loud = (samples % 2.0 < 1.6) * 0.1
    noise = torch.randn(len(samples), generator=torch.Generator().manual_seed(0))
    return (loud * (voice + 0.1 * noise)).float()[None, None]


def lasting(speech: Wave, samples: int) -> Float[Tensor, "1 1 repeated"]:
    return speech.repeat(1, 1, -(-samples // speech.shape[-1]))[..., :samples]


def goal_met(value: float, goal: float) -> str:
    return "yes" if value <= goal else "NO"


def offline(converter: Converter, voice: Tensor, speech: Wave, repeats: int) -> list[list[str]]:
    """Real-time factors of offline conversions: computing time over duration."""
    rows = []
    for seconds in (10, 60):
        source = lasting(speech, seconds * converter.sample_rate)
        took = in_turns([partial(converter.convert, source, voice)], repeats, time.perf_counter)[0]
        factors = [each / seconds for each in took]
        factor, spread = median(factors), f"{min(factors):.4f} to {max(factors):.4f} in {repeats} runs"
        goal = [f"≤ {GOAL_RTF}", goal_met(factor, GOAL_RTF)]
        rows.append([f"real-time factor, {seconds} s at once", f"{factor:.4f} ({spread})", *goal])
    return rows


def memory(folder: Path, speech: Wave, rate: int, minutes: float, scratch: Path) -> list[list[str]]:
    """Peak memory of the convert command on a long recording, in a separate process."""
    with Writer(scratch / "long.wav", rate) as writer:
        for _ in range(round(minutes * 6)):
            writer.write(lasting(speech, 10 * rate))
    save(scratch / "reference.wav", lasting(speech, 10 * rate), rate)
    command = [sys.executable, "-m", "w2w.convert", str(scratch / "long.wav"), "--out", str(scratch / "out")]
    command += ["--reference", str(scratch / "reference.wav"), "--checkpoint", str(folder)]
    began = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=one_thread())
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"the command failed with code {process.returncode}: {' '.join(command)}")
    gib = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    name = f"{minutes:g} minutes by the command"
    return [
        [f"peak memory, {name}", f"{gib:.3f} GiB", f"≤ {GOAL_GIB:g} GiB", goal_met(gib, GOAL_GIB)],
        [f"real-time factor, {name}, start and files included", f"{took / minutes / 60:.4f}", "", ""],
    ]


def chunk_seconds(live: Stream, chunks: Iterable[Wave]) -> list[float]:
    """Seconds that each chunk takes."""
    took = []
    for chunk in chunks:
        began = time.perf_counter()
        live.push(chunk)
        took.append(time.perf_counter() - began)
    return took


def streaming(converter: Converter, voice: Tensor, speech: Wave) -> list[list[str]]:
    """Real-time factors of streaming, and the slowest chunks, which cause audible dropouts."""
    rows, rate = [], converter.sample_rate
    source = lasting(speech, 10 * rate)
    for chunk_ms in (10, 20, 40):
        chunk = rate * chunk_ms // 1000
        live = converter.stream(voice, chunk_samples=chunk)
        took = [1000 * seconds for seconds in chunk_seconds(live, source.split(chunk, dim=-1))]
        took = sorted(took[5:])  # without the first chunks, which are warm-up
        slow = took[int(0.99 * len(took))]
        figure = f"{sum(took) / len(took) / chunk_ms:.3f} (99 % of chunks within {slow:.1f} ms)"
        name = f"real-time factor, live, chunks of {chunk_ms} ms (latency {live.latency_ms:g} ms)"
        rows.append([name, figure, "< 1", goal_met(slow, chunk_ms)])
    return rows


def loading(folder: Path, repeats: int) -> list[list[str]]:
    took = []
    for _ in range(repeats):
        command = [sys.executable, "-c", LOAD, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread(), cwd=ROOT)
        took.append([float(number) for number in done.stdout.split()])
    imported, loaded = (median(column) for column in zip(*took))
    return [["loading", f"{loaded:.2f} s, after {imported:.1f} s of imports", "", ""]]


if __name__ == "__main__":
    main()
