"""Conversion of frozen dataclasses to and from JSON; unknown keys and wrong types raise one-sentence errors.

A class stored as a file of its own declares ``KIND: ClassVar[str]``, which becomes the file's first key: it
identifies what a folder contains, and files of another kind are refused. A class that had more fields in an
earlier version declares ``GONE: ClassVar[Mapping[str, Any]]``: by the name of each removed field, the value
that is still accepted, or ``...`` for any value.
"""

import json
from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import cattrs
from cattrs.gen import make_dict_structure_fn

from engine.files import atomic
from engine.user_error import UserError, nearest

C = TypeVar("C")
T = TypeVar("T")


def free(default: T) -> T:
    """Declare a field's default, and that it may change when a run is resumed (schedule, paths, hardware)."""
    return cast(T, field(default=default, metadata={"free": True}))


def to_json(config: Any) -> str:
    """Convert a config to JSON, including fields that have their default."""
    kind = {"kind": config.KIND} if hasattr(config, "KIND") else {}
    return json.dumps(kind | _CONVERTER.unstructure(config, type(config)), indent=2) + "\n"


def from_json(cls: type[C], text: str, where: str) -> C:
    """Parse a config; ``where`` names its source in errors. Missing fields get their defaults."""
    try:
        content = json.loads(text)
        wanted = getattr(cls, "KIND", None)
        if wanted is not None and isinstance(content, dict):
            kind = content.pop("kind", wanted)
            if kind != wanted:
                raise UserError(f"{where} describes a {kind}, not a {wanted}")
        return _CONVERTER.structure(content, cls)
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    except Exception as error:
        raise UserError(f"{where}: {_message(error)}") from None


def save_config(config: Any, path: Path | str) -> None:
    """Write a config as JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(to_json(config))


def load_config(cls: type[C], path: Path | str) -> C:
    """Read a config written by ``save_config``, or a hand-written subset of its fields."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"cannot read the configuration {path}: {reason}") from None
    return from_json(cls, text, str(path))


EARLIER_KINDS: tuple[tuple[set[str], str], ...] = (
    ({"road"}, "mel_converter"),
    ({"stargan", "loop"}, "stargan_training"),
    ({"network", "optim_generator"}, "cluit_mel_training"),
    ({"converter", "cluit"}, "converter_training"),
    ({"mel", "network", "gain"}, "vocoder"),
    ({"encoder", "units"}, "speech_recogniser"),
    ({"mel", "phones"}, "phone_recogniser"),
    ({"heads", "ffn"}, "speech_encoder"),
    ({"heads"}, "audioclip_training"),
    ({"clip_steps"}, "world_training"),
)
"""Keys that identify the kind of config files from before ``KIND`` existed; the first match is used."""


def stored_kind(path: Path | str) -> str:
    """Return the kind of a config file, or of a folder's config.json; "" if it is unknown or unreadable."""
    path = Path(path)
    try:
        content = json.loads((path / "config.json" if path.is_dir() else path).read_text())
    except (OSError, ValueError):
        return ""  # the error is raised when it is loaded
    if not isinstance(content, dict):
        return ""
    kinds = (kind for keys, kind in EARLIER_KINDS if keys <= set(content))
    return str(content.get("kind") or next(kinds, ""))


def differences(ours: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield name and both values of fields in which two configs differ, except those declared ``free``."""
    if type(ours) is not type(theirs) or not is_dataclass(ours):
        if ours != theirs:
            yield prefix, ours, theirs
        return
    for f in fields(ours):
        if not f.metadata.get("free"):
            name = f"{prefix}.{f.name}" if prefix else f.name
            yield from differences(getattr(ours, f.name), getattr(theirs, f.name), name)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; for any other type, the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def kinds_of(hint: Any) -> dict[str, type]:
    """Return the config classes that a field's type allows, by name."""
    return {c.__name__: c for c in members(hint) if isinstance(c, type) and is_dataclass(c)}


def _is_choice(hint: Any) -> bool:
    """Return whether this is a union that includes a config class."""
    return get_origin(hint) in (Union, UnionType) and bool(kinds_of(hint))


def _exactly(kind: type) -> Any:
    """Make a hook that accepts only JSON values of exactly this type, or an integer for a float."""

    def structure(value: Any, _: Any) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise TypeError(f"{json.dumps(value)} is not of type {kind.__name__}")
        return value

    return structure


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def only_objects(cls: type) -> Any:
        fill = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)

        def structure(value: Any, hint: Any) -> Any:
            if not isinstance(value, dict):
                raise TypeError(f"{json.dumps(value)} is not an object of {cls.__name__}'s fields")
            gone = getattr(cls, "GONE", {})
            return fill({k: v for k, v in value.items() if not (k in gone and gone[k] in (v, ...))}, hint)

        return structure

    converter.register_structure_hook_factory(is_dataclass, only_objects)
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(Path, lambda value, _: Path(_exactly(str)(value, str)))
    converter.register_unstructure_hook(Path, str)
    converter.register_unstructure_hook_func(_is_choice, lambda value: _tagged(converter, value))
    converter.register_structure_hook_func(_is_choice, lambda value, hint: _untagged(converter, value, hint))
    return converter


def _tagged(converter: cattrs.Converter, value: Any) -> Any:
    if value is None:
        return None
    return {"kind": type(value).__name__, **converter.unstructure(value, type(value))}


def _untagged(converter: cattrs.Converter, value: Any, hint: Any) -> Any:
    kinds = kinds_of(hint)
    if value is None and NoneType in get_args(hint):
        return None
    if not isinstance(value, dict) or value.get("kind", "") not in kinds:
        if len(kinds) == 1 and isinstance(value, dict) and "kind" not in value:
            return converter.structure(value, next(iter(kinds.values())))
        raise TypeError(f'needs an object whose "kind" is one of {", ".join(kinds)}')
    rest = {k: v for k, v in value.items() if k != "kind"}
    return converter.structure(rest, kinds[value["kind"]])


def _message(error: BaseException, path: str = "") -> str:
    """Describe the first error inside a group of cattrs errors, with the path to its field."""
    match error:
        case cattrs.errors.ForbiddenExtraKeysError():
            key = sorted(error.extra_fields)[0]
            known = [f.name for f in fields(cast(Any, error.cl))]
            inside = f" in {path}" if path else ""
            return f"there is no key {key!r}{inside}{nearest(key, known)}"
        case cattrs.errors.BaseValidationError():
            inner = error.exceptions[0]
            note = next(
                (n for n in getattr(inner, "__notes__", []) if hasattr(n, "name") or hasattr(n, "index")),
                None,
            )
            name = getattr(note, "name", None) or getattr(note, "index", None)
            step = "" if name is None else f"[{name}]" if isinstance(name, int) else f".{name}"
            return _message(inner, f"{path}{step}".lstrip("."))
        case _:
            return f"{path}: {error}" if path else str(error)


_CONVERTER = _make_converter()
