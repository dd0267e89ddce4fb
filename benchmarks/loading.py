"""Speed of data loading for training: ``python -m benchmarks.loading --data.path MANIFEST_OR_SHARDS``

Prints seconds of audio delivered in crops per second, by number of worker processes, and the decoder's limit
(whole files decoded one after the other on one thread). With ``--rows N``, also prints the start-up time and
memory with a manifest of N rows and with an index of ``--shards`` shards.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from benchmarks.table import machine, show
from data.audio import load
from data.batches import DataConfig, batches, speech_crops
from data.rows import LONG_BYTES, SHARDS, names_shards, split_rows
from data.shards import Index, Shard, first_rows
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly

WORKERS = (0, 1, 2)
BATCH = 16
CROP_S = 2.0


def delivered(config: DataConfig, workers: int, seconds: float) -> float:
    """Seconds of audio loaded per second, after the first batch."""
    source = batches(config, seed=0, workers=workers)(0)
    next(source)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        next(source)
        count += 1
    return count * BATCH * 2 * CROP_S / (time.monotonic() - began)


def ceiling(path: str, rate: int, seconds: float) -> float:
    """Seconds of audio decoded per second, without any other processing."""
    with tempfile.TemporaryDirectory() as folder:
        rows = first_rows(path, "train", Path(folder)) if names_shards(path) else split_rows(path, "train")
        files = [row.path for row in islice(rows, 2_000)]
        decoded, began = 0, time.monotonic()
        for file in cycle(files):
            decoded += load(file, rate).shape[-1]
            if time.monotonic() - began > seconds:
                break
        return decoded / rate / (time.monotonic() - began)


def long_manifest(rows: int) -> Iterator[str]:
    """Lines of a manifest of non-existent recordings, with one speaker per 1 000 recordings."""
    rng = np.random.default_rng(0)
    yield "path,speaker,split,duration\n"
    for first in range(0, rows, 100_000):
        count = min(100_000, rows - first)
        speakers, durations = rng.integers(max(1, rows // 1_000), size=count), rng.uniform(2, 16, count)
        yield "".join(
            f"clips/{s // 100:04d}/{s:06d}/{first + i:09d}.opus,{s:06d},train,{d:.3f}\n"
            for i, (s, d) in enumerate(zip(speakers.tolist(), durations.tolist()))
        )


def start(path: str) -> tuple[float, float]:
    """Seconds until batches could be drawn and the data's contents are known, and peak memory in MiB."""
    began = time.monotonic()
    config = DataConfig(path=path, equal_speakers=True)
    speech_crops(config)
    config.contents()
    return time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def starts(rows: int, n_shards: int) -> None:
    """Print start-up time and memory with a long manifest, without and with cache, and with many shards."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, shards = Path(folder) / "manifest.csv", Path(folder) / "shards"
        with manifest.open("w") as file:
            file.writelines(long_manifest(rows))
        if manifest.stat().st_size <= LONG_BYTES:  # files of shorter ones must exist
            raise UserError(f"--rows {rows} is too short a manifest to measure: give 400000 or more")
        shards.mkdir()
        kinds = {"recordings": rows // n_shards, "seconds": 9.0 * rows / n_shards, "digest": "0" * 16}
        listed = tuple(Shard(name=f"train-{i:05d}.tar", split="train", **kinds) for i in range(n_shards))
        (shards / SHARDS).write_text(Index(shards=listed, speakers=()).to_json())
        size = f"{rows:,} rows, {manifest.stat().st_size / 2**20:.0f} MiB"
        table = []
        for what, place in (
            (f"manifest, {size}, first time", manifest),
            ("again", manifest),
            (f"{n_shards:,} shards", shards),
        ):
            command = [sys.executable, "-m", "benchmarks.loading", "--start", str(place)]
            env = {**os.environ, "TIMBRE_CACHE": f"{folder}/cache"}
            seconds, size_mib = map(float, subprocess.check_output(command, env=env).split())
            table.append([what, f"{seconds:.1f}", f"{size_mib:.0f}"])
    show("Until the first batch could be drawn", ["from", "s", "MiB"], table)


@exits_cleanly
def main() -> None:
    arguments = Arguments.described_by("benchmarks.loading", __doc__)
    option = arguments.add_argument
    option("--data.path", dest="path", default="", help="manifest, folder, or shards")
    option("--sample-rate", type=int, default=16_000, help="Hz (default 16000)")
    option("--seconds", type=float, default=20.0, help="duration of each measurement (default 20)")
    option("--rows", type=int, default=0, help="rows of a manifest to measure start-up with (default: none)")
    option("--shards", type=int, default=1_000, help="shards to measure start-up with (default 1000)")
    option("--start", default="", help="print seconds and MiB of one start-up with this data")
    given = arguments.parse_args()
    if given.start:
        print(*start(given.start))
        return
    if given.rows < 0 or given.shards < 1:
        raise UserError(f"--rows {given.rows} must be at least 0 and --shards {given.shards} at least 1")
    if not (given.path or given.rows):
        raise UserError("give recordings to load by --data.path, or a number of manifest rows by --rows")
    print(machine())
    if given.path:
        sizes = {"sample_rate": given.sample_rate, "crop_samples": round(CROP_S * given.sample_rate)}
        config = DataConfig(path=given.path, batch=BATCH, cache_gib=8.0, **sizes)
        top = ceiling(given.path, given.sample_rate, given.seconds)
        table = [["decoder only", f"{top:.0f}", "1.00"]]
        for name, one in (("in memory", config), ("from files", replace(config, cache_gib=0.0))):
            for workers in WORKERS:
                speed = delivered(one, workers, given.seconds)
                table.append([f"{name}, {workers} workers", f"{speed:.0f}", f"{speed / top:.2f}"])
        show(f"Audio of {given.path}", ["", "audio-seconds per second", "of the decoder's"], table)
    if given.rows:
        starts(given.rows, given.shards)


if __name__ == "__main__":
    main()
