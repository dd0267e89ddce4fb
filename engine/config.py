"""Frozen dataclasses from the command line and from JSON; whatever is misspelt is refused in one sentence."""

import contextlib
import difflib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import cattrs
import tyro

from engine.user_error import UserError

C = TypeVar("C")
T = TypeVar("T")


def free(default: T) -> T:
    """Give a field a default and let it differ between a run and its continuation (cadence, folders, hardware)."""
    return cast(T, field(default=default, metadata={"free": True}))


# --- command line -----------------------------------------------------------------------------------------------


def cli(presets: Mapping[str, C], *, default: str | None = None, argv: Sequence[str] | None = None) -> C:
    """Read a config: a preset (``--preset NAME``) or a file (``--config run/config.json``), then single fields.

    A field that holds one of several config classes is switched with ``--path.kind ClassName``. Without a choice the
    preset ``default`` is taken, or else the first. A mistake ends the program with one sentence and exit code 2.
    """
    default = default or next(iter(presets))
    try:
        return _read(presets, default, list(sys.argv[1:] if argv is None else argv))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None


def _read(presets: Mapping[str, C], default: str, words: list[str]) -> C:
    words = [part for word in words for part in _split(word)]
    preset, file = _take(words, "--preset"), _take(words, "--config")
    if preset is not None and file is not None:
        raise UserError("--preset and --config exclude each other: give one of them")
    if preset is not None and preset not in presets:
        raise UserError(
            f"there is no preset {preset!r}{_nearest(preset, presets)}; choose from {', '.join(presets)}"
        )
    start = presets[preset or default]
    if file is not None:
        start = load_config(type(start), file)
    start = _switch_kinds(start, words)
    return _parse(
        start, words, f"Start from --preset {{{','.join(presets)}}} ({default}) or --config FILE.json."
    )


def _split(word: str) -> list[str]:
    return word.split("=", 1) if re.match(r"--[\w.-]+=", word) else [word]


def _take(words: list[str], option: str) -> str | None:
    """Remove ``option value`` from the words and return the value."""
    if option not in words:
        return None
    at = words.index(option)
    if at + 1 == len(words):
        raise UserError(f"{option} needs a value")
    value = words[at + 1]
    del words[at : at + 2]
    return _take(words, option) or value


def _switch_kinds(config: C, words: list[str]) -> C:
    for word in [w for w in words if w.startswith("--") and w.endswith(".kind")]:
        if word not in words:
            continue
        path = word[2:].replace("-", "_").split(".")[:-1]
        name = _take(words, word)
        config = _switch(config, path, cast(str, name), word)
    return config


def _switch(config: Any, path: list[str], name: str, option: str) -> Any:
    hints = get_type_hints(type(config))
    if path[0] not in hints:
        raise UserError(f"there is no option {option}{_nearest(option, _options(config))}")
    if len(path) > 1:
        return replace(config, **{path[0]: _switch(getattr(config, path[0]), path[1:], name, option)})
    kinds = {c.__name__: c for c in _members(hints[path[0]]) if is_dataclass(c)}
    if name not in kinds:
        raise UserError(
            f"{option} {name}: there is no such kind{_nearest(name, kinds)}; choose from {', '.join(kinds)}"
        )
    if type(getattr(config, path[0])) is kinds[name]:
        return config
    return replace(config, **{path[0]: kinds[name]()})


def _parse(start: C, words: list[str], description: str) -> C:
    known = _options(start)
    for word in words:
        name = word.replace("_", "-")
        if word.startswith("--") and name not in known and word != "--help":
            raise UserError(f"there is no option {word}{_nearest(name, known)}; --help lists all")
    out, err, width = io.StringIO(), io.StringIO(), os.environ.get("COLUMNS")
    wants_help = "--help" in words or "-h" in words
    try:
        with contextlib.ExitStack() as stack:
            if not wants_help:
                os.environ["COLUMNS"] = "4000"  # so that no sentence is wrapped inside tyro's box
                stack.enter_context(contextlib.redirect_stdout(out))
                stack.enter_context(contextlib.redirect_stderr(err))
            about = f"{(type(start).__doc__ or '').strip()}\n\n{description}"
            markers = (tyro.conf.AvoidSubcommands,)
            return tyro.cli(type(start), default=start, args=words, description=about, config=markers)
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(_first_sentence(out.getvalue() + err.getvalue())) from None
    finally:
        if width is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = width


def _first_sentence(box: str) -> str:
    """Find the complaint in tyro's box: what stands between the title and the first rule."""
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ").rstrip() for line in box.splitlines() if line.startswith("│")]
    message: list[str] = []
    for line in lines:
        if line.startswith("───"):
            break
        message.append(line)
    text = " ".join(message) or " ".join(box.split())
    return re.sub(r"^Error parsing ", "", text).rstrip(".") + "; --help lists all options"


def _options(config: Any, prefix: str = "--") -> dict[str, None]:
    """List every option the command line takes for this config, spelt with hyphens."""
    found: dict[str, None] = {}
    hints = get_type_hints(type(config))
    for f in fields(config):
        value, name = getattr(config, f.name), f.name.replace("_", "-")
        if len([c for c in _members(hints[f.name]) if is_dataclass(c)]) > 1:
            found[f"{prefix}{name}.kind"] = None
        if is_dataclass(value):
            found |= _options(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = None
            if isinstance(value, bool):
                found[f"{prefix}no-{name}"] = None
    return found


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near and word.startswith("--"):  # the right name under the wrong section
        near = [k for k in known if k.split(".")[-1].lstrip("-") == word.split(".")[-1].lstrip("-")][:1]
    return f", did you mean {near[0]}?" if near else ""


# --- JSON -------------------------------------------------------------------------------------------------------


def to_json(config: Any) -> str:
    """Write a config with every default spelt out."""
    return json.dumps(_CONVERTER.unstructure(config, type(config)), indent=2) + "\n"


def from_json(cls: type[C], text: str, where: str) -> C:
    """Read a config; ``where`` names the text in complaints. Missing fields take their defaults."""
    try:
        return _CONVERTER.structure(json.loads(text), cls)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    except Exception as error:
        raise UserError(f"{where}: {_complaint(error, cls)}") from None


def save_config(config: Any, path: Path | str) -> None:
    """Write a config as JSON, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(to_json(config))
    os.replace(draft, path)


def load_config(cls: type[C], path: Path | str) -> C:
    """Read a config that ``save_config`` wrote, or a hand-written part of one."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"cannot read the configuration {path}: {reason}") from None
    return from_json(cls, text, str(path))


def differences(ours: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields in which two configs differ, leaving out those declared ``free``."""
    if type(ours) is not type(theirs) or not is_dataclass(ours):
        if ours != theirs:
            yield prefix, ours, theirs
        return
    for f in fields(ours):
        if not f.metadata.get("free"):
            name = f"{prefix}.{f.name}" if prefix else f.name
            yield from differences(getattr(ours, f.name), getattr(theirs, f.name), name)


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_choice(hint: Any) -> bool:
    """Is this a union with a config class in it?"""
    return get_origin(hint) in (Union, UnionType) and any(is_dataclass(c) for c in get_args(hint))


def _exactly(kind: type) -> Any:
    """Make a hook that takes JSON values of this type and no lookalikes; an integer may stand for a float."""

    def structure(value: Any, _: Any) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise TypeError(f"{json.dumps(value)} is not of type {kind.__name__}")
        return value

    return structure


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
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
    kinds = {c.__name__: c for c in get_args(hint) if is_dataclass(c)}
    if value is None and NoneType in get_args(hint):
        return None
    if not isinstance(value, dict) or value.get("kind", "") not in kinds:
        if len(kinds) == 1 and isinstance(value, dict) and "kind" not in value:
            return converter.structure(value, next(iter(kinds.values())))
        raise TypeError(f'needs an object whose "kind" is one of {", ".join(kinds)}')
    rest = {k: v for k, v in value.items() if k != "kind"}
    return converter.structure(rest, kinds[value["kind"]])


def _complaint(error: BaseException, cls: Any, path: str = "") -> str:
    """Say the first thing wrong inside a group of cattrs errors, with the path to it."""
    match error:
        case cattrs.errors.ForbiddenExtraKeysError():
            key = sorted(error.extra_fields)[0]
            known = {f.name: None for f in fields(cast(Any, error.cl))}
            inside = f" in {path}" if path else ""
            return f"there is no key {key!r}{inside}{_nearest(key, known)}"
        case cattrs.errors.BaseValidationError():
            inner = error.exceptions[0]
            note = next(
                (n for n in getattr(inner, "__notes__", []) if hasattr(n, "name") or hasattr(n, "index")),
                None,
            )
            name = getattr(note, "name", None) or getattr(note, "index", None)
            step = "" if name is None else f"[{name}]" if isinstance(name, int) else f".{name}"
            return _complaint(inner, cls, f"{path}{step}".lstrip("."))
        case _:
            return f"{path}: {error}" if path else str(error)


_CONVERTER = _make_converter()
