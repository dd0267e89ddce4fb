"""The demo runs from nothing to a report, and a second time does nothing twice."""

import inspect
import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = "--minutes 0.1 --voices 4 --preset tiny --steps 2 --pairs 2 --fast"
DEMO = runpy.run_path(str(ROOT / "examples/demo.py"))
main, run = DEMO["main"], DEMO["run"]


def run_here(*command: object) -> None:
    """Run a part in this process, which has paid for its imports."""
    name, *options = [str(word) for word in command if word != "-m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *options])
        if name.endswith(".py"):
            runpy.run_path(str(ROOT / name), run_name="__main__")
        else:
            import_module(name).main()


def test_demo_leaves_audio_pictures_and_report_and_resumes(tmp_path, monkeypatch, capfd):
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(inspect.unwrap(main).__globals__, "run", run_here)
    main([*TINY.split(), "--out", "demo"])
    said = capfd.readouterr().out
    for made in ("audio", "pictures", "report/report.html"):
        assert (tmp_path / "demo" / made).exists()
        assert made in said
    roles = [path.stem.rsplit("_", 1)[-1] for path in sorted((tmp_path / "demo/audio").iterdir())]
    assert roles == ["source", "target", "converted"] * 2
    assert len(list((tmp_path / "demo/pictures").glob("*.png"))) == 2
    weights = tmp_path / "demo/run/export/model.safetensors"
    written = weights.stat().st_mtime_ns

    main([*TINY.split(), "--out", "demo"])
    assert weights.stat().st_mtime_ns == written
    assert capfd.readouterr().out.count("done already") == 2


def test_demo_refuses_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--pears", "3"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: there is no option --pears, did you mean --pairs?")


def test_a_part_that_fails_ends_the_demo_with_its_code(capfd):
    run("-c", "print('done')")
    assert capfd.readouterr().out.splitlines()[-1] == "done"
    for code, ended in (("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 128 + 9)):
        with pytest.raises(SystemExit) as end:
            run("-c", code)
        assert end.value.code == ended
