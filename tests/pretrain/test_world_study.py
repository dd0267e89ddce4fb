"""The study of the synthetic world: held-out combinations, the control, resumption, and the report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batches import Address
from data.synthetic.world import ATTRIBUTES, World
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from pretrain import load_audio_encoder
from pretrain.clip.audio_encoder import AudioEncoderConfig
from pretrain.clip.small_clip import SmallCLIPConfig
from pretrain.clip.towers import TowersConfig, open_towers
from pretrain.clip.world_report import attributes, table
from pretrain.clip.world_study import WorldConfig, WorldPairs, derangement, run

OPTIM = OptimConfig(lr=1e-3)


def tiny(out: Path, steps: int = 2) -> WorldConfig:
    small = {"picture_width": 2, "text_width": 8, "text_layers": 1, "text_heads": 2, "batch": 8}
    return WorldConfig(
        clip=SmallCLIPConfig(dim=8, optim=OPTIM, **small),
        clip_steps=2,
        draws=1,
        encoder=AudioEncoderConfig(width=2, blocks=(1, 1), hidden=8),
        batch=8,
        optim=OPTIM,
        n_sounds=1,
        loop=LoopConfig(out=out, steps=steps, save_every=1, sample_every=0, trackers="none", cpu=True),
    )


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> tuple[WorldConfig, dict]:
    torch.manual_seed(0)
    config = tiny(tmp_path_factory.mktemp("runs") / "world")
    return config, run(config)


def test_held_out_combinations_are_not_trained_on():
    world = World(0, "train", draws=2)
    images = torch.arange(len(world)).float()[:, None]
    pairs, held_out = WorldPairs(world, images, batch=64), set(World(0, "held_out").combinations.tolist())
    for step in range(20):
        batch = pairs[Address(0, step)]
        assert len(set(batch.index.tolist())) == 64
        assert not held_out & set(world.combinations[batch.index.numpy()].tolist())
        assert torch.equal(batch.image[:, 0].long() % world.n_combinations, batch.index)


def test_batches_of_the_world_are_a_function_of_their_address():
    world = World(0, "train")
    pairs = WorldPairs(world, torch.randn(len(world), 4), batch=4)
    for one, other in zip(pairs[Address(0, 3)], pairs[Address(0, 3)]):
        assert torch.equal(one, other)
    assert not torch.equal(pairs[Address(0, 3)].wave, pairs[Address(0, 4)].wave)


def test_control_pairs_every_sound_with_images_of_another_combination():
    partner = derangement(50)
    assert sorted(partner) == list(range(50))
    assert (partner != np.arange(50)).all()


def test_study_writes_clip_encoder_report_and_figure(studied):
    config, report = studied
    out = config.loop.out
    assert json.loads((out / "report.json").read_text()) == report
    assert (out / "answers.png").stat().st_size > 10_000
    towers = open_towers(TowersConfig(name=str(out / "clip")))
    encoder = load_audio_encoder("wav2clip", out / "export")
    assert encoder.config.teacher == towers.key
    assert encoder(World(0, "held_out").wave(0)[None]).shape == (1, towers.dim)
    assert set(report["encoders"]) == {"distilled", "random", "shuffled"}
    assert "audio→image" in table(report)


def test_second_run_trains_nothing_and_gives_the_same_scores(studied):
    config, report = studied
    before = {p: p.stat().st_mtime_ns for p in config.loop.out.rglob("step_*/*")}
    again = run(config)
    assert {p: p.stat().st_mtime_ns for p in config.loop.out.rglob("step_*/*")} == before
    assert again["encoders"] == report["encoders"]
    assert again["clip"] == report["clip"]


def test_more_steps_continue_the_encoder_and_keep_the_teacher(studied):
    config, report = studied
    teacher = (config.loop.out / "clip" / "open_clip_model.safetensors").read_bytes()
    longer = run(replace(config, control="none", loop=replace(config.loop, steps=3)))
    assert (config.loop.out / "clip" / "open_clip_model.safetensors").read_bytes() == teacher
    assert longer["clip"] == report["clip"]
    assert longer["encoders"]["distilled"] != report["encoders"]["distilled"]
    assert "shuffled" not in longer["encoders"]


def test_attribute_scores_count_agreement_of_the_first_answer():
    values = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    right = attributes(torch.eye(2), torch.eye(2), values)
    wrong = attributes(torch.eye(2), torch.eye(2).flip(0), values)
    assert right == {a.name: 100.0 for a in ATTRIBUTES}
    assert wrong == {**right, "shape": 0.0}
