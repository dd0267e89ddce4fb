"""Configuration from the command line: a preset or a file, then single fields; typing errors are refused.

    config = cli({"base": BASE, "tiny": TINY})  # --preset tiny --optim.lr 3e-4 --loop.cpu

Configs are frozen dataclasses; ``engine/json_config.py`` converts them to and from JSON.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints
from unittest.mock import patch

import tyro

from engine.json_config import (
    differences,
    free,
    from_json,
    kinds_of,
    load_config,
    members,
    save_config,
    stored_kind,
    to_json,
)
from engine.launch import adopt
from engine.user_error import UserError, nearest, refuse_empty

__all__ = ["cli", "differences", "free", "from_json", "load_config", "save_config", "stored_kind", "to_json"]

C = TypeVar("C")


def cli(presets: Mapping[str, C], *, default: str | None = None, argv: Sequence[str] | None = None) -> C:
    """Read a config: a preset (``--preset NAME``) or a file (``--config config.json``), then single fields.

    A field that allows several config classes is switched with ``--path.kind ClassName`` (or ``none``).
    Without ``--preset`` and ``--config``, the preset ``default`` is used, or the first one. Options given to
    ``accelerate launch`` also apply. Errors end the program with one sentence and exit code 2.
    """
    default = default or next(iter(presets))
    try:
        return _read(presets, default, list(sys.argv[1:] if argv is None else argv))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None


def _read(presets: Mapping[str, C], default: str, args: list[str]) -> C:
    args = [part for arg in args for part in (arg.split("=", 1) if re.match(r"--[\w.-]+=", arg) else [arg])]
    refuse_empty(args)
    preset, file = _take(args, "--preset"), _take(args, "--config")
    if preset is not None and file is not None:
        raise UserError("--preset and --config exclude each other: give one of them")
    if preset is not None and preset not in presets:
        choices = ", ".join(presets)
        raise UserError(f"there is no preset {preset!r}{nearest(preset, presets)}; choose from {choices}")
    start = presets[preset or default]
    if file is not None:
        start = load_config(type(start), file)
    for arg in [w for w in args if w.startswith("--") and w.endswith(".kind")]:
        name = _take(args, arg)
        if name is not None:
            start = _switch(start, arg[2:].replace("-", "_").split(".")[:-1], name, arg)
    about = f"Presets, by --preset NAME: {', '.join(presets)}. Without one: {default}."
    return adopt(_parse(start, args, about), args)


def _take(args: list[str], option: str) -> str | None:
    """Remove every ``option value`` from the arguments and return the last value."""
    value = None
    while option in args:
        at = args.index(option)
        if at + 1 == len(args):
            raise UserError(f"{option} needs a value")
        value = args[at + 1]
        del args[at : at + 2]
    return value


def _switch(config: Any, path: list[str], name: str, option: str) -> Any:
    """Replace the field at ``path`` by the default config of class ``name``."""
    hints = get_type_hints(type(config))
    if path[0] not in hints or (len(path) > 1 and not is_dataclass(getattr(config, path[0]))):
        raise UserError(f"there is no option {option}; --help lists all")
    now = getattr(config, path[0])
    if len(path) > 1:
        return replace(config, **{path[0]: _switch(now, path[1:], name, option)})
    kinds: dict[str, Any] = dict(kinds_of(hints[path[0]]))
    if type(None) in members(hints[path[0]]):
        kinds["none"] = type(None)
    if name not in kinds:
        choices = ", ".join(kinds)
        raise UserError(f"{option} {name}: no such kind{nearest(name, kinds)}; choose from {choices}")
    return config if type(now) is kinds[name] else replace(config, **{path[0]: kinds[name]()})


def _parse(start: C, args: list[str], presets: str) -> C:
    known = dict(_options(start))
    for arg in args:
        if arg.startswith("--") and arg != "--help" and arg.replace("_", "-") not in known:
            raise UserError(f"there is no option {arg}{_nearest_option(arg, known)}; --help lists all")
    module = sys.modules[type(start).__module__]  # its docstring has the usual command
    kinds = [f"{name} {{{','.join(kinds)}}}" for name, kinds in known.items() if kinds]
    kinds_text = "\n".join(["Fields with several kinds of config:", *kinds]) if kinds else ""
    about = "\n\n".join(filter(None, [(module.__doc__ or "").strip(), presets, kinds_text]))
    printed = io.StringIO()
    try:
        with contextlib.ExitStack() as stack:
            if "--help" not in args and "-h" not in args:
                # Wide enough that tyro wraps no sentence inside its box.
                stack.enter_context(patch.dict(os.environ, COLUMNS="4000"))
                stack.enter_context(contextlib.redirect_stdout(printed))
                stack.enter_context(contextlib.redirect_stderr(printed))
            markers = (tyro.conf.AvoidSubcommands,)
            return tyro.cli(type(start), default=start, args=args, description=about, config=markers)
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(_first_sentence(printed.getvalue())) from None


def _first_sentence(box: str) -> str:
    """Extract the error message from tyro's box: the text between the title and the next rule."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip().strip("│|").strip() for line in box.splitlines()]
    groups: list[list[str]] = [[]]
    for line in lines:
        if re.match(r"[╭╰+─-]{2}.*[╮╯+─-]{2}$", line):  # a rule, perhaps with the title in it
            groups.append([])
        elif line:
            groups[-1].append(line)
    groups = [group for group in groups if group]
    titled = len(groups) > 1 and not any("╭" in line for line in lines)
    text = " ".join(groups[1 if titled else 0]) if groups else "the options cannot be read"
    text = re.sub(r"^Error parsing (?=--)|^Error parsing [^:]*: ", "", text)
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", text)
    text = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", text)
    text = re.sub(r"^Unrecognized options: ", "these arguments belong to no option: ", text)
    return text.rstrip(".") + "; --help lists all options"


def _options(config: Any, prefix: str = "--") -> Iterator[tuple[str, list[str]]]:
    """Yield all options of the command line, with hyphens, and the classes that a ``.kind`` option allows."""
    hints = get_type_hints(type(config))
    for f in fields(config):
        value, name = getattr(config, f.name), prefix + f.name.replace("_", "-")
        kinds = [*kinds_of(hints[f.name]), *(["none"] if type(None) in members(hints[f.name]) else [])]
        if kinds_of(hints[f.name]) and len(kinds) > 1:
            yield f"{name}.kind", kinds
        if is_dataclass(value):
            yield from _options(value, f"{name}.")
        else:
            yield name, []
            if isinstance(value, bool):
                yield f"{prefix}no-{name.removeprefix(prefix)}", []


def _nearest_option(arg: str, known: Iterable[str]) -> str:
    last = arg.split(".")[-1].lstrip("-").replace("_", "-")
    for option in known:  # the right name in the wrong section
        if option.split(".")[-1].lstrip("-") == last:
            return f" (did you mean {option}?)"
    return nearest(arg, known)
