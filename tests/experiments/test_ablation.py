"""Arms differ in what they name and nothing else; runs are kept and continued; tables add up."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.audio.writing import save
from data.batches import batches
from engine import config
from engine.user_error import UserError
from eval.cache import Cache
from experiments.ablation import __main__ as study
from experiments.ablation.__main__ import begin, main, one, train
from experiments.ablation.logging import Watched
from experiments.ablation.report import (
    COLUMNS,
    LOOKED_AT,
    differences,
    paired,
    pictures,
    read_curve,
    spread,
    tables,
)
from experiments.ablation.variants import ARMS, BASE, Bench, chosen, config_of, start
from w2w.baselines.cluit_mel.presets import PRESETS
from w2w.baselines.cluit_mel.task_config import Weights
from w2w.baselines.cluit_mel.train import build, completed

AGAINST = {name: arm.against for name, arm in ARMS.items() if arm.fields}


def told(ours, theirs):
    """Fields in which two configs differ."""
    return {name: value for name, value, _ in config.differences(ours, theirs)}


@pytest.fixture
def bench(tmp_path):
    return Bench(data=Path("speech"), out=tmp_path / "ingredients", steps=4)


@pytest.mark.parametrize("name", AGAINST)
def test_an_arm_differs_in_what_it_names_and_in_nothing_else(name, bench):
    ours, theirs = config_of(name, bench, 1), config_of(ARMS[name].against, bench, 1)
    assert told(ours, theirs) == dict(ARMS[name].fields)


def test_the_base_has_every_ingredient_that_others_leave_out(bench):
    base = config_of(BASE, bench, 0)
    assert (base.task.negatives, base.task.positives, base.task.mask_same_speaker) == (
        "bank",
        "augmented",
        True,
    )
    assert base.data.label_share == 1.0
    weights = base.task.weights
    assert min(weights.norm, weights.label_critic, weights.label_generator) > 0
    assert weights.content == 0


def test_all_arms_of_a_seed_begin_from_what_was_told_of_no_ingredient(bench):
    bench = replace(bench, start_steps=3, n_speakers=2)
    first = start(bench, 1)
    inits = {config_of(name, bench, 1).init for name in ARMS}
    assert inits == {str(first.loop.out)} != {config_of(BASE, bench, 0).init}
    assert (first.loop.steps, first.loop.seed, first.init) == (3, 1, "")
    weights = {weight.name: getattr(first.task.weights, weight.name) for weight in fields(Weights)}
    assert {name for name, weight in weights.items() if weight} == {"reconstruction"}
    shapes = {config_of(name, bench, 1).network for name in ARMS}
    assert shapes == {first.network}


def test_seeds_and_arms_have_folders_of_their_own(bench):
    folders = {config_of(name, bench, seed).loop.out for name in ARMS for seed in (0, 1)}
    assert len(folders) == 2 * len(ARMS)


def test_the_base_and_what_an_arm_builds_on_always_run():
    assert chosen(["moco"]) == ["base", "moco"]
    assert chosen(["labels_0_same_recording"]) == ["base", "labels_0", "labels_0_same_recording"]
    with pytest.raises(UserError, match="'mocco'"):
        chosen(["mocco"])


def run_of(arm, seed, value, **other):
    """A made-up result."""
    facts = {"arm": arm, "seed": seed, "steps": 4, "pairs": 2, "seconds": 10.0}
    return {**facts, **dict.fromkeys(COLUMNS, value), **other}


def test_differences_are_paired_by_seed_and_clear_only_beyond_the_pooled_spread():
    base = [run_of("base", seed, 0.1 * seed) for seed in (0, 1)]
    # Far apart and alike in both seeds; as far, but the seeds disagree; hardly apart at all.
    far = [run_of("moco", seed, 0.1 * seed + 1.0 + 0.01 * seed) for seed in (0, 1)]
    torn = [run_of("no_norm", seed, 0.1 * seed + 0.3 * (1 - 2 * seed)) for seed in (0, 1)]
    near = [run_of("content", seed, 0.1 * seed + 0.01) for seed in (0, 1)]
    found = [*base, *far, *torn, *near]
    assert paired(found, "moco", "base", "cer") == pytest.approx([1.0, 1.01])
    judged = differences(found, AGAINST, "cer")
    assert judged["moco"].clear
    assert judged["moco"].mean == pytest.approx(1.005)
    assert not judged["no_norm"].clear
    assert not judged["content"].clear
    assert "labels_0" not in judged


def test_without_a_second_seed_nothing_is_clear_and_it_is_said():
    found = [run_of("base", 0, 0.0), run_of("moco", 0, 5.0)]
    assert not differences(found, AGAINST, "cer")["moco"].clear
    text = tables(found, {}, AGAINST)
    assert "one seed" in text
    assert "+5.000" in text
    assert "**" not in text


def test_the_table_shows_mean_deviation_toplines_and_differences():
    found = [run_of("base", 0, 1.0), run_of("base", 1, 3.0), run_of("moco", 0, 2.0), run_of("moco", 1, 4.0)]
    text = tables(found, {"source": dict.fromkeys(COLUMNS, 0.25) | {"cer": math.nan}}, AGAINST)
    assert "| base | 2.000 ± 1.414 |" in text
    assert "| (source) | 0.250 |" in text
    assert "| moco | base | **+1.000** |" in text
    assert "nan" not in text
    assert spread([math.nan]) == ""
    assert spread([1.0, math.nan]) == "1.000"


def test_a_value_that_was_not_measured_leaves_no_difference():
    found = [run_of("base", 0, 1.0), run_of("moco", 0, math.nan)]
    assert paired(found, "moco", "base", "cer") == []
    assert differences(found, AGAINST, "cer") == {}


def test_curves_take_the_later_of_two_looks_and_every_measure_has_its_picture(tmp_path):
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        folder = tmp_path / "base" / str(seed)
        folder.mkdir(parents=True)
        points = [{"step": step, **dict.fromkeys(LOOKED_AT, 1.0 * step)} for step in (2, 1)]
        again = {"step": 2, **dict.fromkeys(LOOKED_AT, 9.0)}
        (folder / "curve.jsonl").write_text("\n".join(map(json.dumps, [*points, again])))
    assert [point["cycle"] for point in read_curve(tmp_path / "base/0/curve.jsonl")] == [1.0, 9.0]
    drawn = pictures(tmp_path, ["base", "moco"], [0, 1])
    assert {path.stem for path in drawn} == set(LOOKED_AT)
    assert all("<svg" in path.read_text() for path in drawn)


@pytest.fixture
def speech(tmp_path):
    """Four voices of two files each, two of them held out."""
    folder, rng, lines = tmp_path / "speech", np.random.default_rng(0), ["file_name,speaker_id,split,text"]
    for speaker, split in (("ada", "train"), ("bob", "train"), ("eve", "validation"), ("ian", "validation")):
        for number in range(2):
            name = f"{speaker}_{number}.wav"
            noise = torch.from_numpy(rng.standard_normal((1, 1, 12_000)).astype(np.float32))
            save(folder / name, 0.1 * noise, 16_000)
            lines.append(f"{name},{speaker},{split},hello")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def tiny(name, bench, seed):
    """An arm in networks of nothing."""
    arm = config_of(name, bench, seed)
    return replace(
        arm,
        network=replace(PRESETS["tiny"].network, n_speakers=bench.n_speakers),
        data=replace(arm.data, batch=2, crop_samples=5120),
        task=replace(arm.task, n_negatives=16),
    )


class Blind(Watched):
    """Looks without vocoder and judges."""

    def __init__(self, task, crops, curve):
        self.task, self.curve = task, curve
        self.players, self.modules, self.update = task.players, task.modules, task.update
        self.frozen = task.frozen

    def evaluate(self, step):
        with self.curve.open("a") as file:
            file.write(json.dumps({"step": step, **dict.fromkeys(LOOKED_AT, 0.5)}) + "\n")
        return {}


def test_the_beginning_is_trained_once_and_reaches_the_arms(bench, speech, monkeypatch):
    monkeypatch.setattr(study, "Watched", Blind)
    monkeypatch.setattr(study, "export_run", lambda run, out: out)
    bench = replace(bench, data=speech, start_steps=2, n_speakers=2, steps=1)
    common = replace(tiny("base", bench, 0), loop=start(bench, 0).loop, init="")
    begin(common)
    kept = common.loop.out / "checkpoints/step_00000002/network.safetensors"
    written = kept.stat().st_mtime_ns
    monkeypatch.setattr(study, "fit", lambda *args, **options: pytest.fail("trained again"))
    begin(common)
    assert kept.stat().st_mtime_ns == written
    built = build(completed(tiny("labels_0", bench, 0), batches(tiny("labels_0", bench, 0).data, 0).crops))
    ours, theirs = built.network.state_dict(), load_file(kept)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(bench, speech, monkeypatch):
    monkeypatch.setattr(study, "Watched", Blind)
    monkeypatch.setattr(study, "export_run", lambda run, out: out)
    bench = replace(bench, data=speech)
    whole, part = tiny("moco", bench, 0), tiny("moco", replace(bench, out=bench.out / "again"), 0)
    train(whole)
    train(replace(part, loop=replace(part.loop, steps=2)))
    train(part)
    ours, theirs = (
        load_file(run.loop.out / "checkpoints/step_00000004/network_ema.safetensors") for run in (whole, part)
    )
    assert ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_read_and_one_of_another_setting_refused(bench, monkeypatch, tmp_path):
    trained = []
    curve = {"step": 4, **dict.fromkeys(LOOKED_AT, 0.5)}

    def pretend(config):
        trained.append(config.loop.out)
        (config.loop.out / "curve.jsonl").write_text(json.dumps(curve) + "\n")
        return 7.0

    monkeypatch.setattr(study, "train", pretend)
    monkeypatch.setattr(study, "judged", lambda run, pairs, cache: {"cer": 0.1 * len(pairs)})
    cache = Cache(tmp_path / "cache")
    first = one("moco", 1, bench, [], cache)
    assert (first["seconds"], first["cycle"], first["cer"]) == (7.0, 0.5, 0.0)
    assert one("moco", 1, bench, [], cache) == first
    assert len(trained) == 1
    with pytest.raises(UserError, match="choose another --out"):
        one("moco", 1, replace(bench, steps=5), [], cache)
    with pytest.raises(UserError, match=r"data\.path"):
        one("moco", 1, replace(bench, data=Path("other")), [], cache)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "moco", "frozzen"], "'frozzen'"),
        (["--pairs", "91"], "--pairs"),
        (["--seeds", "-1"], "--seeds"),
        (["--steps", "0"], "--steps"),
        ([], "no speakers"),
    ],
)
def test_mistakes_are_told_in_one_sentence(words, said, tmp_path, capsys):
    (tmp_path / "metadata.csv").write_text("file_name,split\na.wav,train\nb.wav,test\n")
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), *words])
    assert stop.value.code == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert "Traceback" not in complaint
