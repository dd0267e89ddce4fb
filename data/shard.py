"""Pack a corpus into shards for streaming: tar files of its unchanged recordings with their metadata.

python -m data.shard corpus/manifest.csv --out shards

writes shards/train-00000.tar, … (WebDataset: 000000123.flac and 000000123.json) and shards/shards.json.
Trainers accept shards in place of a manifest: ``--data.path shards``, or, after copying them elsewhere, any
URL that fsspec supports, such as ``s3://bucket/shards``. Up to eight recordings of a speaker, and all of a
time-aligned group, stay together; the order is otherwise random. The same command resumes when interrupted.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.audio import info
from data.manifest import Row, record_of, rows_from
from data.rows import GROUP, SHARDS, long_manifest
from data.shards import Index, Shard
from data.tables import TableRows
from engine import outcome
from engine.arguments import Arguments
from engine.files import atomic, check_writable
from engine.user_error import UserError, exits_cleanly

PER_SPEAKER = 8
"""Consecutive recordings of a speaker, so that a shard has another recording of most speakers."""


def units(rows: Sequence[Row], seed: int) -> list[list[int]]:
    """Return rows that must share a shard, in random order: time-aligned groups, or up to 8 of a speaker."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, object], list[int]] = {}
    for index in rng.permutation(len(rows)).tolist():
        row = rows[index]
        key = row.extra.get(GROUP) or row.speaker or index
        found.setdefault((row.split or "train", key), []).append(index)
    split_up = []
    for (_, key), members in found.items():
        whole = rows[members[0]].extra.get(GROUP) == key
        size = len(members) if whole else PER_SPEAKER
        split_up += [members[first : first + size] for first in range(0, len(members), size)]
    return [split_up[place] for place in rng.permutation(len(split_up))]


def plan(rows: Sequence[Row], limit: int, seed: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the split and the rows of each shard of about ``limit`` bytes."""
    filling: dict[str, tuple[int, list[int]]] = {}
    for unit in units(rows, seed):
        split = rows[unit[0]].split or "train"
        size, members = filling.get(split, (0, []))
        size, members = size + sum(_size(rows[index].path) for index in unit), members + unit
        filling[split] = size, members
        if size >= limit:
            yield split, filling.pop(split)[1]
    yield from ((split, members) for split, (_, members) in filling.items())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the error is reported when it is packed


def write_shard(
    file: Path, rows: Sequence[Row], numbers: Sequence[int], left_out: list[str]
) -> tuple[int, float]:
    """Write the readable rows to a shard; return their number and total duration in seconds."""
    done, seconds = 0, 0.0
    with atomic(file) as draft, tarfile.open(draft, "w") as tar:
        for number in numbers:
            row = rows[number]
            with outcome.leaving_out(left_out):
                duration = info(row.path).duration
                record = {**record_of(row, row.path.parent), "duration": round(duration, 4)}
                _add(tar, f"{number:09d}{row.path.suffix.lower()}", row.path.read_bytes())
                _add(tar, f"{number:09d}.json", json.dumps(record, ensure_ascii=False).encode())
                done, seconds = done + 1, seconds + duration
    return done, seconds


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def shard(rows: Sequence[Row], out: Path, *, limit: int, seed: int = 0) -> tuple[Index, list[str]]:
    """Pack rows into shards of about ``limit`` bytes; return the index and messages about skipped rows.

    Complete shards of an interrupted call are kept if they are to contain the same.
    """
    left_out: list[str] = []
    counts: dict[str, int] = {}
    shards, done = [], 0
    with tqdm(total=len(rows), desc="packing", unit="file", disable=None) as bar:
        for split, numbers in plan(rows, limit, seed):
            place = counts[split] = counts.get(split, -1) + 1
            file = out / f"{split}-{place:05d}.tar"
            described = "\n".join(f"{n} {rows[n].path} {rows[n].speaker} {rows[n].text}" for n in numbers)
            digest = hashlib.blake2b(described.encode(errors="surrogateescape"), digest_size=8).hexdigest()
            kept = _kept(file, digest)
            if kept is None:
                faults = len(left_out)
                n_rows, seconds = write_shard(file, rows, numbers, left_out)
                seconds = round(seconds, 2)
                kept = Shard(name=file.name, split=split, recordings=n_rows, seconds=seconds, digest=digest)
                if len(left_out) == faults:
                    _receipt(file).write_text(json.dumps(vars(kept)))
            if kept.recordings:
                shards.append(kept)
            done += kept.recordings
            bar.update(len(numbers))
    if not done:
        raise UserError(f"none of the {len(rows)} recordings can be read: {left_out[0]}")
    speakers = sorted({row.speaker for row in rows if row.speaker is not None})
    index = Index(shards=tuple(shards), speakers=tuple(speakers))
    with atomic(out / SHARDS) as draft:
        draft.write_text(index.to_json(), encoding="utf-8")
    for one in shards:
        _receipt(out / one.name).unlink(missing_ok=True)
    return index, left_out


def _receipt(file: Path) -> Path:
    """Return the path of the file that marks a shard as complete until all shards are."""
    return file.with_name(f".{file.name}.json")


def _kept(file: Path, digest: str) -> Shard | None:
    try:
        found = Shard(**json.loads(_receipt(file).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.digest == digest and file.is_file() else None


@exits_cleanly
def main(argv: list[str] | None = None) -> None:
    arguments = Arguments.described_by("data.shard", __doc__)
    option = arguments.add_argument
    option("recordings", help="a manifest, or a folder of recordings")
    option("--out", type=Path, required=True, help="folder to make")
    option("--shard-mib", type=float, default=64.0, help="MiB of recordings in a shard (default 64)")
    option("--seed", type=int, default=0, help="random seed of their order (default 0)")
    option("--overwrite", action="store_true", help="replace the shards of another corpus")
    given = arguments.parse_args(argv)
    if given.shard_mib <= 0:
        raise UserError(f"--shard-mib {given.shard_mib} must be above 0")
    check_writable(given.out / SHARDS)
    out = given.out
    if (out / SHARDS).exists() and not given.overwrite:
        raise UserError(f"{out} holds shards already: --overwrite replaces them, or choose another --out")
    long = long_manifest(given.recordings)
    rows = TableRows.open(long) if long else rows_from(given.recordings)
    out.mkdir(parents=True, exist_ok=True)
    (out / SHARDS).unlink(missing_ok=True)
    index, left_out = shard(rows, out, limit=round(given.shard_mib * 2**20), seed=given.seed)
    named = {one.name for one in index.shards}
    for old in out.glob("*-[0-9][0-9][0-9][0-9][0-9].tar"):
        if old.name not in named:
            old.unlink()
    n_rows, seconds = (sum(getattr(one, what) for one in index.shards) for what in ("recordings", "seconds"))
    size = sum(os.path.getsize(out / one.name) for one in index.shards)
    print(f"{out}: {len(index.shards)} shards, {seconds / 3600:.2f} h, {size / 2**20:.0f} MiB")
    outcome.end(n_rows, left_out, "recordings packed")


if __name__ == "__main__":
    main()
