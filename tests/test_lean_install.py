"""The base install converts, streams and serves; what it does without is asked for by name."""

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
STRANGERS = (*EXTRAS, "tensorboard", "librosa", "pandas")
DISTRIBUTIONS = {"sklearn": "scikit-learn", "aac_metrics": "aac-metrics"}
"""Where a package is installed by another name than it is imported by."""
BASE_ALONE = f"""
import sys
for name in {STRANGERS!r}:
    sys.modules[name] = None  # importing it now says that there is none
from w2w.convert import main as convert
from w2w.gallery.__main__ import main as voices
from w2w.live.__main__ import main as live
voices([])
convert(["me.wav", "--voice", "ada", "--out", "converted.wav"])
live("--voice ada --input-file me.wav --output-file live.wav --engine eager".split())
import app.api, app.conversions
"""


def test_the_base_install_converts_streams_and_serves(tmp_path, buzz):
    pytest.importorskip("fastapi")
    save(tmp_path / "me.wav", buzz(8_000)[:1], 16_000)
    around = os.environ | {"PYTHONPATH": str(ROOT), "TIMBRE_VOICES": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", BASE_ALONE], cwd=tmp_path, env=around, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for made in ("converted.wav", "live.wav"):
        assert info(tmp_path / made).samples == 8_000


TRAIN_ALONE = f"""
import sys
for name in {tuple(name for name, extra in EXTRAS.items() if extra != "train")!r}:
    sys.modules[name] = None
from w2w.train import main
sys.argv[1:] = "--preset tiny --teacher released --data.path . --loop.out run --loop.steps 1".split()
main()
"""


def test_the_extra_for_training_trains(tmp_path, buzz):
    for number in range(4):
        save(tmp_path / f"{number}.wav", buzz(16_000)[:1], 16_000)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_ALONE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()


def test_what_is_not_installed_is_asked_for_by_its_extra(capsys):
    @exits_cleanly
    def main():
        raise ModuleNotFoundError("No module named 'accelerate.utils'", name="accelerate.utils")

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "pip install 'timbre[train]'" in capsys.readouterr().err


def test_extras_bring_what_they_are_asked_for():
    extras = PROJECT["optional-dependencies"]
    base = " ".join(PROJECT["dependencies"])
    for package, extra in EXTRAS.items():
        name = DISTRIBUTIONS.get(package, package)
        assert any(line.startswith(name) for line in extras[extra]), package
        assert package not in base
