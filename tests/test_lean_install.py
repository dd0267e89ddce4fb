"""The base install converts, streams and serves; errors for missing packages name the extra."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from data.audio import info, save
from engine.user_error import EXTRAS, exits_cleanly

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = (*EXTRAS, "tensorboard", "librosa", "pandas")
DISTRIBUTIONS = {"sklearn": "scikit-learn", "aac_metrics": "aac-metrics"}
"""Distributions whose name differs from that of their package."""
BASE = f"""
import sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None  # makes importing it fail
from w2w.convert import main as convert
from w2w.gallery.__main__ import main as voices
from w2w.live.__main__ import main as live
voices([])
convert(["me.wav", "--voice", "ada", "--out", "converted.wav"])
live("--voice ada --input-file me.wav --output-file live.wav --engine eager".split())
import app.api, app.conversions
"""


def runs(code: str, folder: Path) -> None:
    """Run code in a folder, in its own process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TIMBRE_VOICES": str(folder / "none")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_base_install_converts_streams_and_serves(tmp_path, buzz):
    pytest.importorskip("fastapi")
    save(tmp_path / "me.wav", buzz(8_000)[:1], 16_000)
    runs(BASE, tmp_path)
    for made in ("converted.wav", "live.wav"):
        assert info(tmp_path / made).samples == 8_000


TRAIN = f"""
import sys
for name in {tuple(name for name, extra in EXTRAS.items() if extra != "train")!r}:
    sys.modules[name] = None
from w2w.train import main
sys.argv[1:] = "--preset tiny --teacher released --data.path . --loop.out run --loop.steps 1".split()
main()
"""


def test_train_extra_suffices_for_training(tmp_path, buzz):
    for number in range(4):
        save(tmp_path / f"{number}.wav", buzz(16_000)[:1], 16_000)
    runs(TRAIN, tmp_path)
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()


def test_missing_package_error_names_its_extra(capsys):
    @exits_cleanly
    def main():
        raise ModuleNotFoundError("No module named 'accelerate.utils'", name="accelerate.utils")

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "pip install 'timbre[train]'" in capsys.readouterr().err


def test_extras_contain_their_packages():
    extras = PROJECT["optional-dependencies"]
    base = " ".join(PROJECT["dependencies"])
    for package, extra in EXTRAS.items():
        name = DISTRIBUTIONS.get(package, package)
        assert any(line.startswith(name) for line in extras[extra]), package
        assert package not in base
