"""The demo runs from nothing to a report, and a second time does nothing twice."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = "--minutes 0.1 --voices 4 --preset tiny --steps 2 --pairs 2 --fast"


def demo(*words: str) -> None:
    runpy.run_path(str(ROOT / "examples/demo.py"))["main"](list(words))


def test_demo_leaves_audio_pictures_and_report_and_resumes(tmp_path, monkeypatch, capfd):
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(tmp_path)
    demo(*TINY.split(), "--out", "demo")
    said = capfd.readouterr().out
    for made in ("audio", "pictures", "report/report.html"):
        assert (tmp_path / "demo" / made).exists()
        assert made in said
    roles = [path.stem.rsplit("_", 1)[-1] for path in sorted((tmp_path / "demo/audio").iterdir())]
    assert roles == ["source", "target", "converted"] * 2
    assert len(list((tmp_path / "demo/pictures").glob("*.png"))) == 2
    weights = tmp_path / "demo/run/export/model.safetensors"
    written = weights.stat().st_mtime_ns

    demo(*TINY.split(), "--out", "demo")
    assert weights.stat().st_mtime_ns == written
    assert capfd.readouterr().out.count("done already") == 2


def test_demo_refuses_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        demo("--pears", "3")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: there is no option --pears, did you mean --pairs?")
