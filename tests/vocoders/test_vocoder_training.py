"""The training command: resuming, export, fine-tuning to predicted mels, and errors."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.audio import load, save
from data.batches import Address
from data.frontends import LogMel
from engine.checkpoint import load_weights, newest_checkpoint
from engine.config import from_json, to_json
from engine.loop import fit
from engine.user_error import UserError
from vocoders.tasks.config import TrainConfig, export_run
from vocoders.tasks.predicted_mels import PredictedMels
from vocoders.tasks.presets import PRESETS
from vocoders.train import build, crops, main, validation_waves

ROOT = Path(__file__).resolve().parents[2]
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, hum):
    """Four recordings of two speakers, the last for validation."""
    torch.manual_seed(0)
    tmp_path, lines = tmp_path_factory.mktemp("corpus"), ["path,speaker,split"]
    for i, f0 in enumerate((100.0, 150.0, 220.0, 130.0)):
        save(tmp_path / f"speaker{i % 2}" / f"take{i}.wav", hum(8_000 + 500 * i, (f0,)), 16_000)
        lines.append(f"speaker{i % 2}/take{i}.wav,speaker{i % 2},{'validation' if i == 3 else 'train'}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "manifest.csv"


def config(corpus, out, steps=4, **changes) -> TrainConfig:
    loop = replace(TINY.loop, out=out, steps=steps, trackers="none", cpu=True, sample_every=0)
    return replace(TINY, loop=loop, data=replace(TINY.data, path=str(corpus)), **changes)


def train(run: TrainConfig) -> Path:
    waves = validation_waves(run)
    fit(lambda: build(run, waves), crops(run, 0, 1), run.loop, full_config=run)
    folder = newest_checkpoint(run.loop.out)
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    """The folder of a run of four steps."""
    run = config(corpus, tmp_path_factory.mktemp("straight"))
    torch.manual_seed(0)
    train(run)
    return run.loop.out


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_weights(path) for path in sorted(folder.glob("*.safetensors"))}


def test_resumed_run_equals_uninterrupted_run(corpus, trained, tmp_path):
    """The run is interrupted at the step at which the discriminators start."""
    straight = newest_checkpoint(trained)
    train(config(corpus, tmp_path / "b", steps=2))
    broken = train(config(corpus, tmp_path / "b"))
    assert set(weights(straight)) == {"network.safetensors", "network_ema.safetensors", "critics.safetensors"}
    assert_close(weights(broken), weights(straight), rtol=0, atol=0)


def test_exported_run_is_the_averaged_network(corpus, trained, tmp_path, hum):
    from vocoders import load_vocoder

    run = config(corpus, trained)
    vocoder = load_vocoder("hifigan", export_run(trained, tmp_path / "export"))
    task = build(run, [])
    task.modules["network_ema"].load_state_dict(
        load_weights(newest_checkpoint(trained) / "network_ema.safetensors")
    )
    mel = LogMel(run.mel)(hum(4_800))
    with torch.no_grad():
        assert_close(vocoder(mel), task.modules["network_ema"](mel), rtol=0, atol=1e-5)
    assert vocoder.mel == run.mel


def test_samples_and_scores_use_validation_recordings(corpus, tmp_path):
    run = config(corpus, tmp_path / "run")
    waves = validation_waves(run)
    assert [wave.shape for wave in waves] == [(1, 1, 8_000)]
    task = build(run, waves)
    with torch.no_grad():
        shown, figures = task.samples(0), task.evaluate(0)
    assert set(shown.audio) == {"original/0", "resynthesised/0"}
    assert shown.mels["original/0"].shape == shown.mels["resynthesised/0"].shape
    assert figures["log_mel_l1"] > 0
    assert all(np.isfinite(value) for value in figures.values())


def predict(corpus, folder, frames=lambda n: n) -> None:
    """Write mels that differ from the recordings' by a constant."""
    for path in sorted(corpus.parent.glob("speaker*/*.wav")):
        mel = LogMel(TINY.mel)(load(path, 16_000))[0]
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        np.save(
            folder / path.parent.name / f"{path.stem}.npy", (mel[:, : frames(mel.shape[1])] - 0.5).numpy()
        )


def test_predicted_mels_are_aligned_with_crops(corpus, tmp_path):
    predict(corpus, tmp_path / "mels")
    pairs = PredictedMels(replace(TINY.data, path=str(corpus)), TINY.mel, tmp_path / "mels", progress=False)
    batch = pairs[Address(0, 3)]
    inside = slice(4, -4)  # at the edges the crop's own mel sees another side of its end
    own = LogMel(TINY.mel)(batch.wave)
    assert_close(batch.mel[..., inside], own[..., inside] - 0.5, rtol=0, atol=0.02)


def test_fine_tuning_starts_from_a_run(corpus, trained, tmp_path):
    predict(corpus, tmp_path / "mels")
    tuned = config(
        corpus, tmp_path / "tuned", steps=1, init=str(trained), predicted_mels=str(tmp_path / "mels")
    )
    before = load_weights(newest_checkpoint(trained) / "network.safetensors")
    assert_close(dict(build(tuned, []).modules["network"].state_dict()), before, rtol=0, atol=0)
    assert train(tuned).is_dir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: None, "has no mel for any of the 3 recordings"),
        (
            lambda folder: [np.save(p, np.load(p).T) for p in folder.glob("*/*.npy")],
            r"must be \(80, frames\)",
        ),
        (
            lambda folder: [np.save(p, np.load(p)[:, :20]) for p in folder.glob("*/*.npy")],
            "keep the recording's time",
        ),
        (lambda folder: [p.write_bytes(b"no array") for p in folder.glob("*/*.npy")], "cannot read the mel"),
    ],
    ids=["absent", "transposed", "shorter", "broken"],
)
def test_invalid_predicted_mels_are_refused(corpus, tmp_path, spoil, sentence, request):
    if "absent" not in request.node.name:
        predict(corpus, tmp_path / "mels")
    spoil(tmp_path / "mels")
    with pytest.raises(UserError, match=sentence):
        PredictedMels(replace(TINY.data, path=str(corpus)), TINY.mel, tmp_path / "mels", progress=False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mel": replace(TINY.mel, sample_rate=24_000)}, "must be the same"),
        ({"data": replace(TINY.data, crop_samples=3_201)}, "whole number of hops"),
        ({"data": replace(TINY.data, crop_samples=320)}, "shorter than the mel's"),
    ],
)
def test_inconsistent_configs_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        replace(TINY, **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert from_json(TrainConfig, to_json(PRESETS[name]), name) == PRESETS[name]


def test_command_trains_and_exports(corpus, tmp_path, monkeypatch):
    words = [
        *("--preset", "tiny", "--data.path", str(corpus), "--loop.out", str(tmp_path / "run")),
        *("--loop.steps", "3", "--loop.cpu", "--loop.sample-every", "3"),
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    main()
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_network_without_mels_generates_with_babble(corpus, tmp_path):
    from vocoders.babble import main as babble

    small = replace(PRESETS["wavenet_speakers"].task.network, layers=4, stacks=1, residual=8, gate=16, skip=8)
    preset = PRESETS["wavenet_speakers"]
    run = replace(
        preset,
        task=replace(preset.task, network=small),
        data=replace(preset.data, path=str(corpus), crop_samples=3_200, batch=2),
        loop=replace(TINY.loop, out=tmp_path / "run", steps=2, trackers="none", cpu=True, sample_every=0),
    )
    train(run)
    with pytest.raises(UserError, match=r"vocoders\.babble"):
        export_run(tmp_path / "run", tmp_path / "export")
    babble([str(tmp_path / "run"), "--speaker", "1", "--seconds", "0.05", "--out", str(tmp_path / "b.wav")])
    assert load(tmp_path / "b.wav").shape == (1, 1, 800)
    with pytest.raises(SystemExit):
        babble([str(tmp_path / "run"), "--speaker", "999", "--out", str(tmp_path / "b.wav")])
    with pytest.raises(UserError, match="name one for every recording"):
        run.check_speakers(0)
