"""Wav2CLIP's distillation and AudioCLIP's three heads: gradients, exact resumption, commands, and errors."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.audio import save
from engine.checkpoint import load_weights, newest_checkpoint
from engine.config import from_json, to_json
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain import load_audio_encoder, wav2clip
from pretrain.clip.audio_encoder import AudioEncoderConfig
from pretrain.clip.audio_images import AudioImageBatch, AudioImageConfig, in_epochs, split_scenes
from pretrain.clip.audioclip import AudioCLIPConfig, ThreeHeads, ThreeHeadsConfig, train_three_heads
from pretrain.clip.distillation import Distillation, DistillationConfig, PlateauConfig
from pretrain.clip.losses import clip_loss
from pretrain.clip.small_clip import SmallCLIP, SmallCLIPConfig, save_small_clip, train_tokeniser
from pretrain.clip.towers import TowersConfig, open_towers
from pretrain.clip.triples import Triple
from pretrain.wav2clip import PRESETS, Wav2CLIPConfig, main, train

ENCODER = AudioEncoderConfig(width=4, blocks=(1, 1), dim=12, hidden=32, dropout=0.0)
CLIP = SmallCLIPConfig(
    dim=12, picture_size=32, picture_width=4, text_width=16, text_layers=1, text_heads=2, context_length=8
)
WORDS = [f"a tone of {100 * n} hertz" for n in range(1, 13)]


def tones(n: int = 6, dim: int = 12) -> AudioImageBatch:
    """Return tones of different pitches, with different embeddings."""
    time = torch.arange(2_000) / 16_000
    waves = torch.stack([torch.sin(2 * torch.pi * 400 * (i + 1) * time) for i in range(n)])[:, None]
    return AudioImageBatch(waves + 0.01 * torch.randn(waves.shape), torch.randn(n, dim), torch.arange(n))


def distillation(loss="cx", **options) -> Distillation:
    return Distillation(DistillationConfig(loss=loss, hidden=8, dropout=0.0), ENCODER, 12, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Return a folder with a random small CLIP and twelve images with tones, four of them for validation."""
    folder = tmp_path_factory.mktemp("wav2clip")
    torch.manual_seed(0)
    save_small_clip(SmallCLIP(CLIP, train_tokeniser(WORDS, CLIP)), folder / "clip")
    from PIL import Image

    lines = [["path", "picture", "caption", "split"]]
    rng = np.random.default_rng(0)
    batch = tones(12)
    for n in range(12):
        save(folder / f"{n}.wav", batch.wave[n : n + 1] * 0.5, 16_000)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        lines.append([f"{n}.wav", f"{n}.png", WORDS[n], "train" if n < 8 else "validation"])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder


def run_of(place: Path, out: Path, steps: int = 4) -> Wav2CLIPConfig:
    loop = LoopConfig(out=out, steps=steps, sample_every=1, log_every=1, trackers="none", cpu=True)
    return Wav2CLIPConfig(
        encoder=replace(ENCODER, dim=512),
        distillation=DistillationConfig(hidden=8, plateau=PlateauConfig(patience=1, threshold=0.5)),
        data=AudioImageConfig(path=str(place), crop_seconds=0.1, batch=4),
        towers=TowersConfig(name=str(place / "clip")),
        cache=out.parent / "cache",
        loop=loop,
    )


def three_heads_of(place: Path, out: Path, steps: int = 4, towers=None) -> AudioCLIPConfig:
    run = run_of(place, out, steps)
    return AudioCLIPConfig(
        encoder=run.encoder,
        heads=ThreeHeadsConfig(towers=OptimConfig(lr=1e-3), plateau=run.distillation.plateau),
        data=run.data,
        towers=towers or run.towers,
        loop=run.loop,
    )


@pytest.mark.parametrize("loss", ["clip", "cx"])
def test_gradients_reach_all_trained_parameters_and_stop_at_the_image_embeddings(loss):
    task, batch = distillation(loss), tones()
    batch.image.requires_grad_(True)
    total = task.loss(batch)
    gradients = torch.autograd.grad(total, task.player.parameters, retain_graph=True)
    assert all(g.isfinite().all() for g in gradients)
    assert all(g.any() for g, p in zip(gradients, task.player.parameters) if p.ndim > 1)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(total, batch.image)
    n_stored = sum(p.numel() for module in task.modules.values() for p in module.parameters())
    assert n_stored == sum(p.numel() for p in task.player.parameters)


def test_cx_is_the_mean_of_the_losses_in_both_spaces():
    task, batch = distillation("cx"), tones()
    audio, modules = task.encoder.pooled(batch.wave), task.modules
    torch.nn.init.constant_(modules["scale_audio"].log_scale, 1.0)
    in_audio = clip_loss(audio, modules["image_transform"](batch.image), modules["scale_audio"]())
    in_image = clip_loss(task.encoder.transform(audio), batch.image, modules["scale_image"]())
    assert_close(task.loss(batch), (in_audio + in_image) / 2)


@pytest.mark.parametrize("loss", ["clip", "cx"])
def test_one_batch_can_be_learned(loss):
    batch = tones()
    task = distillation(loss, optim=OptimConfig(lr=1e-2), validation=[batch])
    before = batch.image.clone()
    for step in range(60):
        scalars = task.update(batch, step)
    assert scalars[f"loss/encoder/{loss}"] < 0.2
    scores = task.evaluate(60)
    assert scores["audio_to_image/R@1"] == scores["image_to_audio/R@1"] == 100
    assert scores["audio_to_image/MRR"] == 1
    assert torch.equal(batch.image, before)
    assert task.samples(60).mels["audio by picture"].shape == (6, 6)


def test_temperatures_stay_in_range_during_training():
    task, batch = distillation(optim=OptimConfig(lr=5.0)), tones()
    for step in range(4):
        task.update(batch, step)
        assert all(1 <= float(scale().detach()) <= 100.001 for scale in task.scales.values())


def test_evaluation_keeps_the_weights_and_embeds_clips_independently():
    batch = tones()
    task = distillation(validation=[batch, tones()])
    before = {n: t.clone() for n, t in task.encoder.state_dict().items()}
    halves = [AudioImageBatch(*(part[half] for part in batch)) for half in (slice(0, 3), slice(3, 6))]
    task.evaluate(0)
    assert_close(task.encoder(batch.wave)[:3], task.encoder(halves[0].wave))
    assert all(torch.equal(t, before[n]) for n, t in task.encoder.state_dict().items())
    assert distillation().evaluate(0) == {}


def test_only_regular_evaluations_affect_the_learning_rate():
    task = distillation(validation=[tones()], evaluated_every=10)
    for step in (3, 7, 9):
        task.evaluate(step)
    assert task.player.best == float("inf")
    task.evaluate(10)
    assert task.player.best < float("inf")


def test_incompatible_sizes_are_refused():
    with pytest.raises(UserError, match=r"--encoder\.dim 99"):
        Distillation(DistillationConfig(), ENCODER, 99)
    with pytest.raises(UserError, match="cx needs the encoder's transform"):
        Distillation(DistillationConfig(), replace(ENCODER, transform=False, dim=8), 8)


def test_run_exports_an_encoder_and_keeps_the_teacher_unchanged(place, tmp_path, monkeypatch):
    opened = []

    def opening(config):
        opened.append(open_towers(config))
        return opened[0]

    monkeypatch.setattr(wav2clip, "open_towers", opening)
    before = open_towers(TowersConfig(name=str(place / "clip")))
    encoder = train(run_of(place, tmp_path / "run"))
    assert opened[0].key == before.key
    assert all(p.grad is None and not p.requires_grad for p in opened[0].parameters())
    for name, tensor in before.state_dict().items():
        assert torch.equal(opened[0].state_dict()[name], tensor)
    assert encoder.config.dim == 12
    assert encoder.config.teacher == before.key
    wave = tones().wave
    assert torch.equal(load_audio_encoder("wav2clip", tmp_path / "run")(wave), encoder(wave))
    (tmp_path / "run/export/config.json").unlink()
    (tmp_path / "run/export/model.safetensors").unlink()
    assert torch.equal(load_audio_encoder("wav2clip", tmp_path / "run")(wave), encoder(wave))


@pytest.mark.parametrize("heads", [False, True])
def test_resuming_is_exact(place, tmp_path, heads):
    config_of, run = (three_heads_of, train_three_heads) if heads else (run_of, train)
    run(config_of(place, tmp_path / "whole", steps=6))
    run(config_of(place, tmp_path / "parts", steps=3))
    run(config_of(place, tmp_path / "parts", steps=6))
    whole, parts = (newest_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert whole
    assert parts
    for file in sorted(whole.glob("*.safetensors")):
        stored = load_weights(parts / file.name)
        for name, tensor in load_weights(file).items():
            assert torch.equal(stored[name], tensor), f"{file.name}: {name}"
    players = [torch.load(folder / "optimizers.pt", weights_only=True) for folder in (whole, parts)]
    for player in players[0]:
        assert players[0][player]["plateau"] == players[1][player]["plateau"]
        assert players[0][player]["plateau"]["share"] < 1  # the loss never decreases by the threshold, a half


@pytest.mark.parametrize("fresh", [False, True])
def test_three_heads_are_all_trained_and_exported(place, tmp_path, fresh):
    towers = CLIP if fresh else TowersConfig(name=str(place / "clip"))
    task = train_three_heads(three_heads_of(place, tmp_path / "run", towers=towers))
    first = open_towers(TowersConfig(name=str(tmp_path / "run/start" if fresh else place / "clip")))
    for part in ("visual", "transformer"):
        before = {n: p for n, p in first.clip.named_parameters() if part in n}
        after = dict(task.towers.clip.named_parameters())
        assert any(not torch.equal(after[n], p) for n, p in before.items()), part
    exported = open_towers(TowersConfig(name=str(tmp_path / "run/clip")))
    pictures = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    task.towers.clip.eval()
    assert_close(exported.images(pictures), task.towers.images(pictures))
    assert_close(exported.texts(WORDS[:2]), task.towers.texts(WORDS[:2]))
    assert load_audio_encoder("wav2clip", tmp_path / "run").config.teacher == exported.key
    assert set(task.evaluate(0)) >= {"audio_to_text/R@1", "image_to_audio/MRR", "text_to_image/R@5", "loss"}


def test_pairs_of_weight_zero_do_not_train_the_encoder(place):
    towers = open_towers(TowersConfig(name=str(place / "clip")))
    off = ThreeHeadsConfig(audio_image=0.0, audio_text=0.0, towers=OptimConfig(lr=1e-3))
    task = ThreeHeads(off, ENCODER, towers, OptimConfig(lr=1e-3))
    tokens = towers.tokenizer(WORDS[:4])
    pictures = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    before = [p.clone() for p in task.encoder.parameters()]
    task.update(Triple(tones(4), pictures, tokens), 0)
    assert all(torch.equal(a, b) for a, b in zip(task.encoder.parameters(), before))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_build_and_are_restored_from_json(name):
    preset = PRESETS[name]
    assert from_json(type(preset), to_json(preset), name) == preset
    if isinstance(preset, Wav2CLIPConfig):
        Distillation(preset.distillation, preset.encoder, preset.encoder.dim, preset.optim)


def test_training_clips_are_held_out_if_there_is_no_validation_split(place):
    data = AudioImageConfig(path=str(place), validation_split="dawn", validation_share=0.4)
    train, held_out = split_scenes(data)
    assert len(held_out) > 1
    assert len({scene.name for scene in train + held_out}) == len(train) + len(held_out) == 8
    assert split_scenes(data) == (train, held_out)
    with pytest.warns(UserWarning, match="there is no validation"):
        train, held_out = split_scenes(replace(data, validation_share=0.0))
    assert (len(train), held_out) == (8, [])


def test_max_epochs_limits_the_steps_and_adds_evaluations():
    loop = LoopConfig(steps=1000, sample_every=50)
    assert in_epochs(loop, 0, 7) == loop
    assert in_epochs(loop, 3, 7) == replace(loop, steps=21, sample_every=7)
    assert in_epochs(loop, 100, 70) == loop
    assert in_epochs(replace(loop, sample_every=0), 3, 7).sample_every == 0


def command(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["wav2clip.py", *map(str, words)])
    main()


def test_command_trains_and_resumes_from_a_stored_config(place, tmp_path, monkeypatch):
    here = ["--loop.cpu", "--cache", tmp_path / "cache", "--data.path", place]
    towers = ["--towers.name", place / "clip", "--data.crop-seconds", "0.1"]
    command(monkeypatch, "--preset", "tiny", *here, *towers, "--loop.out", tmp_path / "run")
    assert (tmp_path / "run/export/model.safetensors").is_file()
    again = ["--config", tmp_path / "run/config.json", "--loop.steps", "5"]
    command(monkeypatch, *again)
    assert newest_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoints/step_00000005"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no data given; set --data.path"),
        (["--data.path", "nowhere.csv"], "nowhere.csv"),
        (["--data.path", "{place}", "--data.split", "nights"], "no scenes in split 'nights'; it has train"),
        (["--data.path", "{place}", "--towers.name", "ViT-Z-1"], "open_clip has no model of that name"),
        (["--data.path", "{place}", "--towers.name", "{place}"], "has no open_clip_config.json"),
        (
            ["--data.path", "{place}", "--data.batch", "9", "--towers.name", "{place}/clip"],
            "fewer than a batch",
        ),
    ],
)
def test_mistakes_are_reported_in_one_sentence(place, tmp_path, monkeypatch, capsys, words, message):
    words = [word.format(place=place) for word in words]
    here = ["--loop.cpu", "--cache", tmp_path / "cache", "--loop.out", tmp_path / "run"]
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, "--preset", "tiny", *here, *words)
    assert end.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in printed
    assert printed.startswith("error: ")
