"""The demo runs end to end, and resumes without repeating finished work."""

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
from in_process import ROOT, run, tiny_release

import w2w.weights

TINY = "--minutes 0.1 --voices 4 --steps 1 --pairs 2 --fast --out demo"
SHORTER = {
    "eval/run.py": "--jobs 1",
    "w2w/train.py": "--loop.cpu --loop.trackers none --loop.sample-every 0",
}


@pytest.fixture
def demo(tmp_path, monkeypatch) -> ModuleType:
    """The demo; its commands run in this process, with an untrained converter."""
    spec = spec_from_file_location("demo", ROOT / "examples/demo.py")
    spec.loader.exec_module(demo := module_from_spec(spec))
    tiny = tiny_release(tmp_path / "tiny")
    for place, name in ((w2w.weights, "RELEASED"), (w2w.weights, "RELEASED_LIVE"), (demo, "RELEASED_LIVE")):
        monkeypatch.setattr(place, name, tiny)
    monkeypatch.chdir(tmp_path)

    def here(*command: object) -> None:
        args = [str(word) for word in command if word != "-m"]
        args += ["--no-baselines"] * ("--sound-first" in args)  # the second evaluation has them
        run([*args, *SHORTER.get(args[0], "").split()], monkeypatch)

    demo.process, demo.run = demo.run, here
    night, demo.CAST = demo.sentences()["night"], demo.CAST[:2]  # fewer to score
    demo.sentences = lambda: {"night": night}
    return demo


def test_demo_writes_two_reports_and_resumes(demo, tmp_path, capfd):
    pytest.importorskip("espeakng_loader")
    demo.main(TINY.split())
    printed = capfd.readouterr().out
    first = tmp_path / "demo/released/report/report.html"
    assert first.as_uri() in printed
    page = first.read_text(encoding="utf-8")
    for shown in ("piece by piece", "semitones higher", "half ivan", "a peaceful night", "<audio"):
        assert shown in page
    assert page.index("Listen") < page.index("Speaker similarity")
    shown = (tmp_path / "demo/report/report.html").as_uri() in printed
    assert shown or "did not beat" in printed
    weights = tmp_path / "demo/run/export/model.safetensors"
    written = weights.stat().st_mtime_ns

    demo.main(TINY.split())
    assert weights.stat().st_mtime_ns == written
    assert capfd.readouterr().out.count("done already") == 2


def test_demo_exits_with_a_failing_commands_status(demo):
    demo.process("-c", "pass")
    with pytest.raises(SystemExit) as end:
        demo.process("-c", "raise SystemExit(3)")
    assert end.value.code == 3


def test_demo_errors_are_one_sentence(demo, capsys):
    with pytest.raises(SystemExit) as end:
        demo.main(["--pears", "3"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: there is no option --pears (did you mean --pairs?)")
