"""The installed command, and `python -m`, in a folder whose files are called as this project's packages."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from timbre import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SHADOWS = ("data.py", "engine.py", "data/__init__.py", "vocoders.py", "random.py", "app.py", "eval.py")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The command as an installer writes it."""
    module, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["timbre"].split(
        ":"
    )
    script = tmp_path / "bin/timbre"
    script.parent.mkdir()
    script.write_text(f"from {module} import {name}\n{name}()\n")
    return script


def ran(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    around = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    line = [sys.executable, *map(str, words)]
    return subprocess.run(
        line, cwd=folder, env={**around, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of a user's own, whose files have the names of ours."""
    for name in SHADOWS:
        file = tmp_path / "theirs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise SystemExit('this is the user\\'s own file')\n")
    return tmp_path / "theirs"


def test_a_user_s_own_files_break_no_installed_command(installed, theirs):
    done = ran(theirs, installed, "app", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: timbre app ")


@pytest.mark.parametrize("module", ["w2w.convert", "timbre"])
def test_a_user_s_own_files_break_no_module_of_another_name(theirs, module):
    for name in ("random.py", "eval.py"):  # what `python -m` itself takes from the current folder
        (theirs / name).unlink()
    done = ran(theirs, "-m", module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_a_command_that_does_not_exist_is_named(installed, tmp_path):
    done = ran(tmp_path, installed, "convrt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no command 'convrt'; choose from convert, ")


def test_every_command_is_listed_and_there(installed, tmp_path):
    told = ran(tmp_path, installed).stdout
    for name, (module, does) in COMMANDS.items():
        assert callable(import_module(module).main)
        assert f"  {name} " in told
        assert does in told


@pytest.mark.parametrize("package", sorted({module.split(".")[0] for module, _ in COMMANDS.values()}))
def test_threads_are_told_not_to_spin_before_torch_is_loaded(tmp_path, package):
    says = f"import os, sys, {package}; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    assert ran(tmp_path, "-c", says).stdout.split() == ["1000", "False"]
