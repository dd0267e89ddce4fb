"""The demo runs from nothing to two pages, and a second time does nothing twice."""

import runpy
from pathlib import Path

import pytest

from w2w.weights import RELEASED

ROOT = Path(__file__).resolve().parents[1]
TINY = "--minutes 0.1 --voices 4 --steps 1 --pairs 2 --fast"


def demo(*words: str) -> None:
    runpy.run_path(str(ROOT / "examples/demo.py"))["main"](list(words))


def test_demo_leaves_two_pages_and_resumes(tmp_path, monkeypatch, capfd):
    pytest.importorskip("espeakng_loader")
    if not (RELEASED / "config.json").is_file():
        pytest.skip("the demo speaks with the released converter, and this copy has none")
    monkeypatch.chdir(tmp_path)
    demo(*TINY.split(), "--out", "demo")
    said = capfd.readouterr().out
    first = tmp_path / "demo/released/report/report.html"
    assert first.as_uri() in said
    page = first.read_text(encoding="utf-8")
    for shown in ("piece by piece", "semitones higher", "half ivan", "Patience is genius", "<audio"):
        assert shown in page
    assert page.index("Listen") < page.index("Speaker similarity")
    shown = (tmp_path / "demo/report/report.html").as_uri() in said
    assert shown or "did not beat" in said
    weights = tmp_path / "demo/run/export/model.safetensors"
    written = weights.stat().st_mtime_ns

    demo(*TINY.split(), "--out", "demo")
    assert weights.stat().st_mtime_ns == written
    assert capfd.readouterr().out.count("done already") == 2


def test_demo_refuses_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        demo("--pears", "3")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: there is no option --pears (did you mean --pairs?)")
