"""Training CLUIT on mels: presets, exact resuming, refused mistakes."""

import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from data.batches import batches
from engine.checkpoint import load_weights, newest_checkpoint
from engine.config import from_json, to_json
from engine.loop import fit
from engine.user_error import UserError
from w2w import train as entry
from w2w.baselines.cluit_mel.network import CluitMelNetwork
from w2w.baselines.cluit_mel.train import PRESETS, CluitMelTrainConfig, build, completed
from w2w.converter import Converter

TINY = PRESETS["tiny"]


def config(corpus: Path, out: Path, steps: int = 4, **task) -> CluitMelTrainConfig:
    """The tiny preset on a corpus."""
    loop = replace(TINY.loop, out=out, steps=steps, trackers="none", cpu=True, sample_every=0)
    data = replace(TINY.data, path=str(corpus))
    return replace(TINY, loop=loop, data=data, task=replace(TINY.task, **task))


def train(run: CluitMelTrainConfig) -> Path:
    """Train in this process and return the newest checkpoint."""
    crops = batches(run.data, run.loop.seed)
    run = completed(run, crops.crops)
    fit(lambda: build(run), crops, run.loop, full_config=run)
    folder = newest_checkpoint(run.loop.out)
    assert folder is not None
    return folder


def differences(ours, theirs, path="") -> set[str]:
    """Paths of fields with different values."""
    if is_dataclass(ours) and type(ours) is type(theirs):
        inner = (
            differences(getattr(ours, f.name), getattr(theirs, f.name), f"{path}.{f.name}")
            for f in fields(ours)
        )
        return set().union(*inner)
    return set() if ours == theirs else {path.removeprefix(".")}


def test_published_variants_differ_only_as_specified():
    def step(one, other):
        return differences(PRESETS[one], PRESETS[other])

    assert step("bank", "bank_norm") == {"task.weights.norm"}
    assert step("bank_norm", "bank_norm_label") == {
        "task.weights.label_critic",
        "task.weights.label_generator",
    }
    assert step("bank_norm_label", "moco_norm_label") == {"task.negatives"}
    recipe = PRESETS["bank"]
    task, weights = recipe.task, recipe.task.weights
    assert (weights.contrast_critic, weights.cycle, weights.r1) == (0.1, 3.0, 10.0)
    assert (weights.reconstruction, weights.content) == (0.0, 0.0)
    assert (task.n_negatives, task.temperature, task.ema, task.r1_every) == (2048, 0.07, 0.999, 16)
    assert not task.mask_same_speaker
    for optim in (recipe.optim_generator, recipe.optim_critic):
        assert (optim.optimizer, optim.lr, optim.betas) == ("adamw", 5e-5, (0.0, 0.99))
        assert (optim.weight_decay, optim.schedule) == (0.0, "constant")
    assert (recipe.loop.steps, recipe.data.batch) == (200_000, 8)


def test_small_variants_differ_from_each_other_as_the_published_do():
    for one, other in (("bank", "bank_norm"), ("bank_norm_label", "moco_norm_label")):
        small = differences(PRESETS[f"{one}_small"], PRESETS[f"{other}_small"])
        assert small == differences(PRESETS[one], PRESETS[other])
    live = differences(PRESETS["bank_norm_label_small"], PRESETS["causal_small"])
    assert live == {"network.causal", "network.norm"}
    assert differences(PRESETS["causal_small"], PRESETS["causal_frozen_small"]) == {"network.norm"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    run = PRESETS[name]
    with torch.device("meta"):
        network = CluitMelNetwork(run.network)
    assert network.streams == ("causal" in name)
    assert from_json(CluitMelTrainConfig, to_json(run), "here") == run
    assert run.data.crop_samples == run.network.crop_frames * run.network.mel.hop


def test_counts_are_filled_in_from_the_data(corpus, tmp_path):
    run = config(corpus, tmp_path, weights=replace(TINY.task.weights, label_critic=1.0))
    crops = batches(run.data, 0).crops
    full = completed(run, crops)
    assert (full.network.n_speakers, full.task.bank_slots) == (3, 6)
    assert completed(full, crops) == full
    assert completed(config(corpus, tmp_path), crops).network.n_speakers == 0
    with pytest.raises(UserError, match="bank_slots"):
        build(run)
    none = replace(run, data=replace(run.data, label_share=0.0))
    assert completed(none, batches(none.data, 0).crops).network.n_speakers == 0


@pytest.mark.parametrize("negatives", ["bank", "queue"])
def test_resume_is_exact(corpus, tmp_path, negatives, assert_same_checkpoints):
    weights = replace(TINY.task.weights, label_critic=1.0, label_generator=1.0)
    changed = {"negatives": negatives, "weights": weights, "n_negatives": 3}
    straight = train(config(corpus, tmp_path / "straight", **changed))
    train(config(corpus, tmp_path / "cut", steps=2, **changed))
    resumed = train(config(corpus, tmp_path / "cut", **changed))
    assert_same_checkpoints(straight, resumed, "network", "critic_ema", "negatives")


def test_networks_can_be_initialised_from_another_run(corpus, tmp_path):
    first = train(config(corpus, tmp_path / "first", steps=1))
    run = replace(config(corpus, tmp_path / "second"), init=str(tmp_path / "first"))
    task = build(completed(run, batches(run.data, 0).crops))
    assert_close(dict(task.network.state_dict()), load_weights(first / "network.safetensors"))
    assert len(task.bank.draw().keys) == 0
    with pytest.raises(UserError, match="holds no checkpoint"):
        build(completed(replace(run, init=str(tmp_path / "none")), batches(run.data, 0).crops))


def test_entry_point_trains_resumes_and_exports(corpus, tmp_path, buzz, monkeypatch, capsys):
    out = tmp_path / "run"

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", "--task", "cluit-mel", *words, "--loop.cpu"])
        entry.main()
        return capsys.readouterr().out

    where = ("--data.path", str(corpus), "--loop.out", str(out))
    command("--preset", "tiny", *where, "--loop.steps", "1")
    assert list(out.rglob("events.out.tfevents*"))
    told = command("--config", str(out / "config.json"), "--loop.steps", "2")
    assert "continuing from" in told
    assert f"exported to {out / 'export'}" in told
    converter = Converter.from_pretrained(out / "export", vocoder="griffin_lim")
    voice = converter.embed(buzz(8000, (200.0,)))
    assert converter.convert(buzz(3200, (120.0,)), voice).shape[-1] == 3200
    assert newest_checkpoint(out) == out / "checkpoints/step_00000002"


def said(capsys, monkeypatch, *words) -> str:
    """Return the sentence with which the entry point refuses."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()  # after what was read
    assert line.startswith("error: ")
    return line


def test_mistakes_are_refused_in_one_sentence(corpus, tmp_path, capsys, monkeypatch):
    def refused(*words):
        where = ("--loop.out", str(tmp_path / "run"), "--loop.cpu")
        return said(capsys, monkeypatch, "--task", "cluit-mel", "--preset", "tiny", *where, *words)

    data = ("--data.path", str(corpus))
    label = ("--task.weights.label-critic", "1")
    assert "no data given" in refused()
    assert "must be the same" in refused("--data.sample-rate", "24000")
    assert "--data.crop-samples 5120" in refused("--data.crop-samples", "6400")
    assert "data.batch=1" in refused("--data.batch", "1")
    assert "3 speakers, but network.n_speakers is 2" in refused(*data, *label, "--network.n-speakers", "2")
    (bare := tmp_path / "bare").mkdir()
    (bare / "a.wav").write_bytes((corpus.parent / "speaker0_0.wav").read_bytes())
    assert "names none" in refused("--data.path", str(bare), *label)
    assert not (tmp_path / "run").exists()


def test_task_option_selects_the_trainer(capsys, monkeypatch):
    assert entry.task_of(["--loop.cpu"]) == ("w2w", ["--loop.cpu"])
    words = ["--preset", "tiny", "--task", "cluit-mel", "--task.ema", "0.9"]
    assert entry.task_of(words) == ("cluit-mel", ["--preset", "tiny", "--task.ema", "0.9"])
    assert entry.task_of(["--task=stargan"]) == ("stargan", [])
    assert "there is no task 'cluit'; choose from w2w, cluit-mel, stargan" in said(
        capsys, monkeypatch, "--task", "cluit"
    )
    assert "--task needs a value" in said(capsys, monkeypatch, "--task")
    assert "no preset 'base'" in said(capsys, monkeypatch, "--task", "cluit-mel", "--preset", "base")


def test_help_shows_the_tasks_options(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--task", "cluit-mel", "--help"])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code in (0, None)
    out = capsys.readouterr().out
    assert "--task.weights.norm" in out
    assert "moco_norm_label_small" in out
