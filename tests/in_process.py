"""Run programs in the tests' process, to import only once, and a tiny converter for them."""

import runpy
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program of this project: a file or a module, and its options."""
    name, *options = args
    monkeypatch.setattr(sys, "argv", [name, *options])
    try:
        if name.endswith(".py"):
            runpy.run_path(str(ROOT / name), run_name="__main__")
        else:  # not by runpy: isinstance checks fail between two copies of a module
            package = "__path__" in vars(module := import_module(name))
            (import_module(f"{name}.__main__") if package else module).main()
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{shlex.join(args)}: exit code {end.code}")


def tiny_release(folder: Path) -> Path:
    """Export an untrained converter of the preset ``tiny``."""
    from engine.checkpoint import export
    from w2w.networks.network import ConverterNetwork
    from w2w.train_config import PRESETS

    config = PRESETS["tiny"].converter
    return export(folder, config, ConverterNetwork(config))
