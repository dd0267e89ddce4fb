"""The notebooks run from top to bottom."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from torch.testing import assert_close

import w2w.weights

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Run the cells in a folder; audio to be played is collected in ``played``."""
    played: list[object] = []
    display = ModuleType("IPython.display")
    vars(display).update(Audio=lambda samples, rate: (samples, rate), display=played.append)
    package = ModuleType("IPython")
    vars(package)["display"] = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "notebook"}
    for cell in json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), names)
    return SimpleNamespace(played=played, **{k: v for k, v in names.items() if not k.startswith("__")})


def test_convert_and_blend_notebook_streams_the_converted_wave(tmp_path, monkeypatch):
    if not (w2w.weights.RELEASED / "config.json").is_file():
        pytest.skip("the released weights are not in this copy")
    end = run("convert_and_blend.ipynb", tmp_path, monkeypatch)
    assert len(end.played) == 6
    assert_close(end.streamed, end.converted, rtol=0, atol=1e-5)
    assert (
        len({float(wave.square().sum()) for wave in [*end.spoken.values(), end.higher, end.converted]}) == 5
    )


def test_train_tiny_notebook_exports_a_working_converter(tmp_path, monkeypatch):
    end = run("train_tiny.ipynb", tmp_path, monkeypatch)
    assert (tmp_path / "runs/tiny/export/model.safetensors").is_file()
    assert end.converted.shape == end.source.shape
    assert (tmp_path / "tiny.wav").is_file()
