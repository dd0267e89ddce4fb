"""Commands of README, tour and tutorial run in tiny sizes; commands of all pages exist with their options."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from in_process import ROOT, run, tiny_release
from torch.testing import assert_close

import w2w.weights
from timbre import COMMANDS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORTER = {
    "w2w/train.py": "--preset tiny --loop.steps 2 --loop.cpu --loop.trackers none --loop.sample-every 0",
    "vocoders/train.py": "--preset tiny --loop.steps 2 --loop.cpu --loop.trackers none --loop.sample-every 0",
    "pretrain/wav2clip.py": "--clip-steps 2 --draws 1 --batch 8 --n-sounds 1 --control none --loop.cpu "
    "--encoder.width 2 --clip.batch 8 --clip.picture-width 4 --clip.text-width 16 --clip.text-layers 1 "
    "--loop.steps 2 --loop.trackers none --loop.threads 1",
    "pretrain/data2vec.py": "--preset tiny --loop.steps 2 --loop.cpu --loop.trackers none",
    "pretrain/distil.py": "--preset tiny --loop.steps 2 --loop.cpu --loop.trackers none",
    "eval.copy_synthesis": "--n-utterances 1 --cache cache",
    "w2w.live": "--input-file me.wav --output-file live.wav --pace fast",
    "app": "--help",  # it serves until it is stopped: its own tests start it
    "data.voices": "--minutes 0.1 --voices 4",
    "eval/run.py": "--fast --jobs 1 --examples 1 --n-pairs 2 --cache cache",
    "eval.robustness": "--jobs 1 --n-pairs 2 --cache cache --conditions quiet-30 --recogniser pocketsphinx",
}
"""Options that make a command quick; of an option given twice, the last one counts."""
HELP: dict[tuple[str, ...], str] = {}
"""Help texts by program, since several pages name the same ones."""
LAUNCHERS = (
    ["accelerate", "launch"],
    ["torchrun", "--standalone", "--nproc_per_node", "2"],
    ["python"],
)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(page: Path) -> list[list[str]]:
    """Every command of a page, as words."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def program(words: list[str]) -> list[str] | None:
    """A command of this project without its launcher and ``-m``; None for other commands."""
    if words[0] == "timbre":
        return [COMMANDS[words[1]][0].removesuffix(".__main__"), *words[2:]]
    for launcher in LAUNCHERS:
        if words[: len(launcher)] == launcher:
            rest = words[len(launcher) :]
            return rest[1:] if rest[0] == "-m" else rest
    return None


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small spend more time on synchronising threads than on computing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the pages use."""
    pytest.importorskip("espeakng_loader")
    from data.audio import save
    from data.voices import VOICES, speak

    def record(path: str, who: int, text: str) -> None:
        save(tmp_path / path, speak(text, VOICES[who])[0], 16_000)

    record("me.wav", 1, "I would like to speak with another voice.")
    record("her.wav", 0, "This is how I speak when nobody listens.")
    record("her_again.wav", 0, "And this is how I speak on other days.")
    record("him.wav", 3, "Nobody ever asked me for my voice before.")
    record("my_recordings/one.wav", 0, "This is some minutes of my own speech, or would be.")
    record("talks/a.wav", 1, "What I said here was not long at all.")
    for who in range(3):
        for number, text in enumerate(("Somebody is reading.", "Now somebody reads more.", "And even more.")):
            record(f"recordings/{VOICES[who].name}/{number}.wav", who, text)
    row = "me.wav,her_again.wav,as_her.wav,I would like to speak with another voice.,theirs"
    (tmp_path / "pairs.csv").write_text(f"source,target,output,text,system\n{row}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MADE = {
    "README.md": ("as_ada.wav", "as_her.wav", "live.wav", "runs/mine/export/voice.safetensors"),
    "docs/tour.md": (
        *("converted/a.wav", "between.wav", "clean.csv", "my_converter/model.safetensors"),
        *("runs/voice/export/config.json", "report/report.html", "report_of_others/summary.json"),
        *("live.onnx", "by_onnx.wav", "runs/stargan/export/config.json", "by_mels.wav"),
        "report_of_mels/summary.json",
    ),
    "docs/tutorial.md": ("try/config.json", "early_report/report.html"),
}
"""Pages whose commands run one after the other, and files that they write."""


def test_page_commands_run_in_order(world, monkeypatch, capfd):
    """With a tiny converter, except for voices from text; commands that pages share run once."""
    released = {name: getattr(w2w.weights, name) for name in ("RELEASED", "RELEASED_LIVE")}
    tiny = tiny_release(world / "tiny_release")
    monkeypatch.setattr("w2w.exported.step.SECONDS", 0.5)  # of comparing a graph with its network
    ran: list[list[str]] = []
    for page, made in MADE.items():
        for words in filter(None, map(program, commands(ROOT / page))):
            if words in ran:
                continue
            for name, folder in released.items():
                known = "--text" in words and (folder / "config.json").is_file()
                monkeypatch.setattr(w2w.weights, name, folder if known else tiny)
            run([*words, *SHORTER.get(words[0], "").split()], monkeypatch)
            ran.append(words)
        for name in made:
            assert (world / name).is_file(), name
        shutil.rmtree(world / "runs/mine", ignore_errors=True)  # pages use this name for different runs
    assert len(ran) >= 30


@pytest.mark.parametrize("page", ["README.md", "docs/tour.md"])
def test_page_python_streams_the_converted_wave(page, world, monkeypatch, capsys):
    code, *_ = blocks(ROOT / page, "python")
    for name in ("RELEASED", "RELEASED_LIVE"):
        if name == "RELEASED_LIVE" or "embed_text(" not in code:  # only the released one has voices from text
            monkeypatch.setattr(w2w.weights, name, tiny_release(world / "tiny"))
    if not (w2w.weights.RELEASED / "config.json").is_file():
        pytest.skip("the released weights are not in this copy")
    names: dict = {}
    exec(compile(code, page, "exec"), names)
    whole = names["speaker"].convert(names["source"], names["live"].voice)
    assert_close(names["converted"], whole, rtol=0, atol=1e-5)
    assert names["live"].latency_ms == pytest.approx(18), "the README says 18 ms"
    assert isinstance(names["converted"], torch.Tensor)


def test_tour_python_resynthesises_from_a_mel(world):
    _, code, _ = blocks(ROOT / "docs/tour.md", "python")
    names: dict = {}
    exec(compile(code, "tour.md", "exec"), names)
    assert names["wave"].shape[-1] == names["mel"].shape[-1] * names["vocoder"].hop


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_commands_exist(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = (ROOT / "constraints.txt").read_text().lower()
    for words in commands(page):
        match words:
            case ["make", target, *_]:
                if shutil.which("make"):
                    assert (
                        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0
                    )
            case ["pip", "install", *rest]:
                for extra in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
                    assert set(extra.split(",")) <= set(project["optional-dependencies"])
                assert "--no-deps" not in rest or f"\n{rest[-1]}==" in pinned
            case [".ci/run"]:
                assert (ROOT / ".ci/run").stat().st_mode & 0o111
            case ["tensorboard", *_] | ["accelerate", "config"]:
                assert find_spec(words[0])
            case ["curl", *_]:  # the server's own tests make these requests
                assert any("http://127.0.0.1:7860/api/" in word for word in words)
            case ["git", *_] | ["python3", "-m", "venv", _] | [".", ".venv/bin/activate"]:
                pass
            case _:
                assert program(words), f"{page.name}: unknown command {shlex.join(words)!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_options_exist(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for words in filter(None, map(program, commands(page))):
        # Tasks and presets have options of their own.
        chosen = [words.index(option) for option in ("--task", "--preset") if option in words]
        task = words[1:2] if words[0] == "pretrain.probe" else []
        name = (words[0], *task, *(word for first in chosen for word in words[first : first + 2]))
        if name not in HELP:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                run([*name, "--help"], monkeypatch)
            HELP[name] = printed.getvalue().replace("_", "-")
        for option in (word for word in words if re.match(r"--\w", word)):
            option = option.split("=")[0].replace("_", "-")
            described = option.removesuffix(".kind") if option.endswith(".kind") else option
            assert described in HELP[name] or option in ("--preset", "--config"), f"{name} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_by_pages_exist(page):
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.py)`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"
