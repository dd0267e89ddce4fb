"""What a run learns from, known again by its content: it may lie elsewhere, but not be another unnoticed."""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from engine import checkpoint
from engine.config import differences, load_config
from engine.user_error import UserError

SAMPLED = 4_096
"""Files whose size and bytes are looked at; of more, a sample spread evenly."""
READ_BYTES = 4_096


@dataclass(frozen=True, kw_only=True)
class Contents:
    summary: str
    """In words, such as "6 recordings of 2 speakers"."""
    digest: str
    """Equal for equal contents, wherever they lie."""
    fixed: tuple[str, ...] = ()
    """What a run has learned by number, such as speakers; more may be added at the end."""


def files_digest(files: Sequence[Path], descriptions: Sequence[str]) -> str:
    """A digest of what is told of each file, in order, and of the sizes and the bytes of a sample of them."""
    digest = hashlib.blake2b(digest_size=16)
    step = max(1, -(-len(files) // SAMPLED))
    for number, (file, description) in enumerate(zip(files, descriptions)):
        digest.update(description.encode(errors="surrogateescape") + b"\n")
        if number % step == 0:
            digest.update(_sample(file))
    return digest.hexdigest()


def _sample(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            opened.seek(max(0, (size - READ_BYTES) // 2))
            return b"%d " % size + opened.read(READ_BYTES)
    except OSError:
        return b"cannot be read"


def folder_contents(path: str, what: str) -> Contents | None:
    """The files of a folder, or one file, by name; what is no place on this machine is known by its name."""
    if not path:
        return None
    place = Path(path)
    files = sorted(Path(root, name) for root, _, names in os.walk(place) for name in names if name[0] != ".")
    files = files or [place] * place.is_file()
    digest = files_digest(files, [file.relative_to(place).as_posix() for file in files]) if files else path
    return Contents(
        summary=f"{what} of {len(files)} files" if files else path, digest=digest, fixed=(digest,)
    )


def contents_of(config: Any) -> dict[str, dict[str, Any]]:
    """What all parts of a config with ``contents`` say that they learn from, for JSON, by option.

    ``contents() -> Mapping[str, Contents | None]`` is by the name of the field; paths are declared ``free``.
    """
    return {
        f"{name}.{option}".lstrip("."): {**asdict(found), "fixed": list(found.fixed)}
        for name, part in _parts(config)
        if hasattr(part, "contents")
        for option, found in part.contents().items()
        if found is not None
    }


def _parts(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if is_dataclass(config):
        yield prefix, config
        for f in fields(config):
            yield from _parts(getattr(config, f.name), f"{prefix}.{f.name}".lstrip("."))


def guard(newest: Path, full_config: Any, contents: Mapping[str, Any] | None) -> None:
    """Refuse to continue a run with a config, or labels, of another one; tell of data that changed."""
    with checkpoint.way_out_of(newest):
        stored = load_config(type(full_config), newest / "config.json")
        known = checkpoint.read_progress(newest).get("contents", {})
    for name, new, old in differences(full_config, stored):
        raise UserError(
            f"{newest.parent.parent} holds a run with {name} {old!r}, not {new!r}: "
            "choose another --loop.out, or give the same options to continue it"
        )
    for change in changes(known, contents, newest.parent.parent) if contents is not None else ():
        print(f"note: {change}", file=sys.stderr)


def changes(stored: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> Iterator[str]:
    """Yield what a run must be told of its places, in sentences; refuse what it could not go on with.

    Runs of earlier versions did not store what they began with.
    """
    nothing = asdict(Contents(summary="nothing", digest=""))
    for name in sorted(stored.keys() | now.keys()) if stored else ():
        old, new = stored.get(name, nothing), now.get(name, nothing)
        if old["digest"] == new["digest"]:
            continue
        then = f"{old['summary']} then, {new['summary']} now"
        known = list(old["fixed"])
        if known != list(new["fixed"])[: len(known)]:
            raise UserError(
                f"{run} began with another --{name} ({then}), and what it has learned would not fit this one:"
                " give the same, or choose another --loop.out"
            )
        same = old["summary"] == new["summary"]
        yield f"--{name} has changed since {run} learned from it: " + (
            f"{new['summary']} as before, with other names or contents" if same else then
        )
