"""The evaluation command: from pairs or a corpus and a converter to rows, summary and report."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.audio.writing import save
from data.manifest import Row, write_manifest
from eval import run
from eval.outputs import Voices

pytest.importorskip("pyworld", reason="pyworld is not installed")
pytest.importorskip("jinja2", reason="jinja2 is not installed")
RATE = 16_000


def hum(path: Path, f0: float) -> Path:
    time = torch.arange(RATE // 2) / RATE
    wave = sum(torch.sin(2 * torch.pi * f0 * k * time) / k for k in range(1, 12))
    save(path, 0.2 * wave[None, None], RATE)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = []
    for s in range(3):
        for u in range(3):
            path = hum(tmp_path / "corpus" / f"s{s}" / f"{u}.wav", 100.0 + 40 * s + 3 * u)
            rows.append(Row(path=path, speaker=f"s{s}", split="test", text="hum"))
    write_manifest(tmp_path / "corpus" / "metadata.csv", rows)
    return tmp_path / "corpus"


class Louder:
    """A converter that changes nothing but the level."""

    sample_rate = RATE

    def embed(self, wave: Tensor) -> Tensor:
        return wave.abs().mean().reshape(1, 1)

    def convert(self, wave: Tensor, voice: Tensor) -> Tensor:
        return 0.5 * wave


def start(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["eval/run.py", *map(str, words)])
    run.main()


def test_converter_is_scored_with_baselines_and_toplines_deterministically(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "load_converter", lambda folder: Louder())
    flags = f"--data {corpus} --converter x --metrics pitch --examples 2 --n-pairs 4 --jobs 1".split()
    for name in ("first", "second"):
        start(monkeypatch, *flags, "--out", tmp_path / name, "--cache", tmp_path / f"cache of {name}")
    rows = list(csv.DictReader((tmp_path / "first" / "rows.csv").open()))
    assert {row["system"] for row in rows if row["group"] == "system"} == {"converter"}
    assert len({row["system"] for row in rows}) == 1 + 3 + 4
    for row in rows:
        assert (tmp_path / "first" / row["output"]).is_file()
    for name in ("rows.csv", "summary.json", "report.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    scores = json.loads((tmp_path / "first" / "summary.json").read_text())["systems"]
    assert scores["copy_target"]["scores"]["f0_distance"]["mean"] == 0
    assert (
        scores["world_f0"]["scores"]["f0_distance"]["mean"]
        < scores["converter"]["scores"]["f0_distance"]["mean"]
    )
    page = (tmp_path / "first" / "report.html").read_text()
    assert "data:audio/mpeg" in page
    assert 'src="http' not in page
    assert "WORLD, F0 moved" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, *flags, "--out", tmp_path / "first")
    assert end.value.code == 2
    assert "rows.csv is there already: --overwrite replaces it" in capsys.readouterr().err


def test_unusable_outputs_are_listed_and_the_rest_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, f0 in (("a", 110.0), ("b", 180.0), ("good", 170.0)):
        hum(Path(f"{name}.wav"), f0)
    Path("broken.wav").write_text("no audio")
    save("short.wav", torch.full((1, 1, 160), 0.1), RATE)
    lines = [f"a.wav,b.wav,{name}.wav,,x" for name in ("good", "broken", "missing", "short")]
    Path("pairs.csv").write_text("\n".join(["source,target,output,text,system", *lines]))
    flags = ("--pairs", "pairs.csv", "--metrics", "pitch", "--jobs", 1, "--cache", "cache", "--examples", 1)
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, *flags, "--no-baselines")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "1 outputs scored, 3 left out:" in error
    for line, why in ((3, "broken.wav"), (4, "does not exist"), (5, "lasts 0.010 s")):
        assert any(f"pairs.csv line {line}: " in row and why in row for row in error.splitlines())
    (row,) = csv.DictReader(Path("report/rows.csv").read_text().splitlines())
    assert row["output"].endswith("good.wav")
    assert len(json.loads(Path("report/summary.json").read_text())["left_out"]) == 3


def test_silent_output_gets_the_worst_scores_and_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("resemblyzer", "pocketsphinx", "jiwer", "num2words"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    hum(Path("a.wav"), 110.0)
    hum(Path("b.wav"), 180.0)
    save("silent.wav", torch.zeros(1, 1, RATE), RATE)
    Path("pairs.csv").write_text("source,target,output,text,system\na.wav,b.wav,silent.wav,Hello,x\n")
    flags = ("--pairs", "pairs.csv", "--metrics", "similarity", "pitch", "intelligibility", "--jobs", 1)
    start(monkeypatch, *flags, "--recogniser", "pocketsphinx", "--cache", "cache", "--no-baselines")
    assert "line 2: silent.wav is silent" in capsys.readouterr().err
    (row,) = csv.DictReader(Path("report/rows.csv").read_text().splitlines())
    assert (float(row["cer"]), float(row["to_target"]), float(row["nearer_to_target"])) == (1, 0, 0)


def test_references_are_averaged(tmp_path: Path) -> None:
    quiet, loud = (tmp_path / name for name in ("quiet.wav", "loud.wav"))
    save(quiet, torch.full((1, 1, RATE), 0.25), RATE)
    save(loud, torch.full((1, 1, RATE), 0.75), RATE)
    given: list[Tensor] = []

    class Recorder(Louder):
        def convert(self, wave: Tensor, voice: Tensor) -> Tensor:
            given.append(voice)
            return wave

    Voices(Recorder()).speak(quiet, [quiet, loud], tmp_path / "out.wav")
    torch.testing.assert_close(given[0], torch.tensor([[0.5]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "give either --pairs FILE.csv or --data FOLDER"),
        (["--pairs", "nowhere.csv"], "nowhere.csv is missing"),
        (["--data", "nowhere"], "there is no manifest or folder nowhere"),
        (["--piars", "x.csv"], "did you mean --pairs?"),
        (["--pairs", "taken.csv"], "the system name 'world_f0' is reserved"),
        (["--pairs", "open.csv"], "line 2 has no output"),
        (["--pairs", "x.csv", "--recogniser", "nowhere"], "nowhere holds no recogniser"),
    ],
)
def test_invalid_options_give_one_sentence(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    header = "source,target,output,text,system\n"
    Path("taken.csv").write_text(header + "a.wav,b.wav,c.wav,,world_f0\n")
    Path("open.csv").write_text(header + "a.wav,b.wav,,,\n")
    metrics = ["--metrics", "intelligibility" if "--recogniser" in words else "pitch"]
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, *words, *(metrics if "--piars" not in words else []))
    assert end.value.code == 2
    error = capsys.readouterr().err.strip()
    assert complaint in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert not Path("report").exists()
