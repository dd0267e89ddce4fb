"""Fingerprints of a run's inputs: a resumed run may read them from another path, but changes are noticed."""

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
"""Maximum number of files that are opened; among more, evenly spaced ones."""
READ_BYTES = 4_096


@dataclass(frozen=True, kw_only=True)
class Contents:
    summary: str
    """A description such as "6 recordings of 2 speakers"."""
    digest: str
    """A hash of the contents, independent of their path."""
    fixed: tuple[str, ...] = ()
    """Names that the run knows by index, such as speakers; more may only be added at the end."""


def files_digest(files: Sequence[Path], descriptions: Sequence[str]) -> str:
    """Hash the descriptions of all files, in order, and the sizes and some bytes of a sample of the files."""
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
    """Fingerprint a file, or the files of a folder; a path that does not exist here is hashed as text."""
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
    """Collect the fingerprints of a config's inputs by option, for JSON.

    ``contents() -> Mapping[str, Contents | None]`` of a part is by field name; paths are declared ``free``.
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
    """Refuse to resume a run with another config or other labels; warn about data that changed."""
    with checkpoint.older_on_error(newest):
        stored = load_config(type(full_config), newest / "config.json")
        known = checkpoint.read_progress(newest).get("contents", {})
    for name, new, old in differences(full_config, stored):
        raise UserError(
            f"{newest.parent.parent} holds a run with {name} {old!r}, not {new!r}: "
            "choose another --loop.out, or give the same options to resume it"
        )
    for change in changes(known, contents, newest.parent.parent) if contents is not None else ():
        print(f"note: {change}", file=sys.stderr)


def changes(stored: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> Iterator[str]:
    """Yield a warning for each input that changed since the run began; raise if ``fixed`` names changed.

    Nothing is compared for runs of earlier versions, which stored no fingerprints.
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
                f"{run} began with another --{name} ({then}), which its weights do not match:"
                " give the same one, or choose another --loop.out"
            )
        same = old["summary"] == new["summary"]
        yield f"--{name} has changed since {run} was trained on it: " + (
            f"{new['summary']} as before, with other names or contents" if same else then
        )
