"""The installed command, and `python -m`, in a folder whose files have the names of our packages."""

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
    """The script that an installer writes."""
    module, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["timbre"].split(
        ":"
    )
    script = tmp_path / "bin/timbre"
    script.parent.mkdir()
    script.write_text(f"from {module} import {name}\n{name}()\n")
    return script


def ran(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    line = [sys.executable, *map(str, words)]
    return subprocess.run(
        line,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A user's folder with files that have the names of our modules."""
    for name in SHADOWS:
        file = tmp_path / "files" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise SystemExit('this is the user\\'s own file')\n")
    return tmp_path / "files"


def test_users_files_do_not_shadow_ours_in_the_installed_command(installed, users_folder):
    done = ran(users_folder, installed, "app", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: timbre app ")


@pytest.mark.parametrize("module", ["w2w.convert", "timbre"])
def test_users_files_do_not_shadow_ours_in_python_m(users_folder, module):
    for name in ("random.py", "eval.py"):  # what `python -m` itself takes from the current folder
        (users_folder / name).unlink()
    done = ran(users_folder, "-m", module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_unknown_command_is_refused(installed, tmp_path):
    done = ran(tmp_path, installed, "convrt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no command 'convrt'; choose from convert, ")


def test_every_command_is_listed_and_importable(installed, tmp_path):
    listing = ran(tmp_path, installed).stdout
    for name, (module, purpose) in COMMANDS.items():
        assert callable(import_module(module).main)
        assert f"  {name} " in listing
        assert purpose in listing


@pytest.mark.parametrize("package", sorted({module.split(".")[0] for module, _ in COMMANDS.values()}))
def test_spin_count_is_set_before_torch_loads(tmp_path, package):
    says = f"import os, sys, {package}; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    assert ran(tmp_path, "-c", says).stdout.split() == ["1000", "False"]
