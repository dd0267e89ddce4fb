"""The training command: presets, exact resuming, bad files, refused mistakes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data.pairs import batches_together
from engine.checkpoint import newest_checkpoint
from engine.config import from_json, to_json
from engine.loop import fit
from engine.user_error import UserError
from w2w.cluit.adversary import Discriminator
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork
from w2w.train import build
from w2w.train import main as train_command
from w2w.train_config import PRESETS, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = PRESETS["tiny"]


def config(corpus, out, steps=4, workers=0, pairs: Path | str = "") -> TrainConfig:
    """The tiny preset on a corpus."""
    loop = replace(
        TINY.loop, out=out, steps=steps, workers=workers, trackers="none", cpu=True, sample_every=0
    )
    data = replace(TINY.data, path=str(corpus))
    return replace(TINY, loop=loop, data=data, pairs=replace(TINY.pairs, path=str(pairs)))


def train(run: TrainConfig) -> Path:
    """Train in this process and return the newest checkpoint."""
    crops = batches_together(run.data, run.pairs, run.loop.seed, run.loop.workers)
    fit(lambda: build(run), crops, run.loop, full_config=run)
    folder = newest_checkpoint(run.loop.out)
    assert folder is not None
    return folder


def command(
    corpus, out, *words, launch=("accelerate.commands.launch", "--cpu")
) -> subprocess.CompletedProcess:
    """Run the documented command."""
    start = [sys.executable, "-m", *launch, "w2w/train.py", "--preset", "tiny", "--data.path", str(corpus)]
    options = ["--loop.out", str(out), "--loop.cpu", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_DISABLE_RICH": "1"}
    return subprocess.run(
        [*start, *options], cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    run = PRESETS[name]
    assert sum(p.numel() for p in Discriminator(run.discriminator).parameters()) > 0
    network = ConverterNetwork(run.converter)
    assert network.streams == (name != "files")
    assert network.config.sample_rate == run.data.sample_rate == (24_000 if "24k" in name else 16_000)
    assert run.cluit.discriminator_samples <= run.data.crop_samples
    assert from_json(TrainConfig, to_json(run), "here") == run
    assert json.loads(to_json(run))["converter"]


def test_resume_is_exact_with_pairs_workers_and_moved_data(corpus, tmp_path, assert_same_checkpoints):
    straight = train(config(corpus, tmp_path / "straight", pairs=corpus))
    train(config(corpus, tmp_path / "cut", steps=2, workers=2, pairs=corpus))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in [*tmp_path.glob("*.wav"), corpus]:
        path.rename(moved / path.name)
    there = moved / corpus.name
    resumed = train(config(there, tmp_path / "cut", workers=2, pairs=there))
    assert_same_checkpoints(straight, resumed, "converter", "bank")


def test_run_does_not_resume_with_shifted_labels(corpus, tmp_path, capsys):
    train(config(corpus, tmp_path / "run", steps=2))
    corpus.write_text(corpus.read_text().replace(",speaker0,", ",speaker9,"))
    with pytest.raises(UserError, match=r"another --data.path"):
        train(config(corpus, tmp_path / "run"))
    corpus.write_text(corpus.read_text().replace(",speaker9,", ",speaker0,"))
    recording = tmp_path / "speaker1_0.wav"
    recording.write_bytes((tmp_path / "speaker1_1.wav").read_bytes())
    train(config(corpus, tmp_path / "run"))
    assert "note: --data.path has changed" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_resume_exactly(corpus, tmp_path, assert_same_checkpoints):
    for out, steps in (("straight", "4"), ("cut", "3"), ("cut", "4")):
        launch = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
        done = command(
            corpus, tmp_path / out, "--loop.steps", steps, "--loop.trackers", "none", launch=launch
        )
        assert done.returncode == 0, done.stderr
    ends = [newest_checkpoint(tmp_path / out) for out in ("straight", "cut")]
    assert ends[0] is not None
    assert ends[1] is not None
    assert (ends[0] / "buffers_1.safetensors").is_file()
    assert_same_checkpoints(*ends, "converter", "bank")


def test_documented_command_trains_resumes_and_exports(corpus, tmp_path, buzz, monkeypatch, capsys):
    out = tmp_path / "run"
    done = command(corpus, out, "--loop.steps", "2")
    assert done.returncode == 0, done.stderr
    assert list(out.rglob("events.out.tfevents*"))
    words = ["--preset", "tiny", "--data.path", corpus, "--loop.out", out, "--loop.cpu", "--loop.steps", "3"]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    train_command()  # here, where all is loaded already
    told = capsys.readouterr().out
    assert "continuing from" in told
    assert f"exported to {out / 'export'}" in told
    assert newest_checkpoint(out) == out / "checkpoints/step_00000003"
    converter = Converter.from_pretrained(out / "export")
    assert converter.convert(buzz(3000, (120.0,)), converter.embed(buzz(8000, (200.0,)))).shape[-1] == 3000


def test_bad_file_is_skipped_and_reported_at_the_end(corpus, tmp_path, capsys, monkeypatch):
    corpus.with_name("speaker1_1.wav").write_text("this is no wave")
    words = ["--preset", "tiny", "--data.path", corpus, "--loop.out", tmp_path / "run", "--loop.steps", "1"]
    words += ["--loop.cpu", "--loop.trackers", "none", "--loop.sample-every", "0"]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        train_command()
    assert end.value.code == 1
    assert (tmp_path / "run/export/model.safetensors").is_file()
    said = capsys.readouterr().err
    ended = said.partition("recordings read")[2]
    assert "5 recordings learned from, 1 left out" in ended
    assert said.count("speaker1_1.wav") == 2


def test_mistakes_are_refused_in_one_sentence(corpus, tmp_path, capsys, monkeypatch):
    def said(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", *words, "--loop.out", str(tmp_path / "run")])
        with pytest.raises(SystemExit) as stop:
            train_command()
        assert stop.value.code == 2
        *_, line = capsys.readouterr().err.strip().splitlines()  # after what was read
        assert line.startswith("error: ")
        return line

    assert "there is no preset 'smal' (did you mean small?)" in said("--preset", "smal")
    assert "no data given" in said("--preset", "tiny", "--loop.cpu")
    assert "must be the same" in said("--preset", "tiny", "--data.sample-rate", "24000")
    assert "discriminator.n-speakers 3" in said(
        "--preset",
        "tiny",
        "--data.path",
        str(corpus),
        "--cluit.weights.label-discriminator",
        "1",
        "--loop.cpu",
    )
    assert not (tmp_path / "run").exists()


def test_run_of_another_model_is_not_resumed(corpus, tmp_path):
    run = config(corpus, tmp_path / "run", steps=1)
    train(run)
    with pytest.raises(UserError, match=r"choose another --loop\.out"):
        train(replace(run, converter=replace(run.converter, look_ahead_ms=9.0)))
