"""Runs resume exactly after any stop and in any number of processes."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from engine import loop
from engine.checkpoint import checkpoints, load_weights, newest_checkpoint
from engine.optim import OptimConfig, Player, micro_batch
from engine.user_error import UserError


def run(toy, out, steps=10, **changes):
    options = {"out": out, "steps": steps, "trackers": "none", **changes}
    return toy.train(replace(toy.BASE, loop=replace(toy.BASE.loop, **options)))


def final(out):
    """Return the contents of the newest checkpoint."""
    folder = newest_checkpoint(out)
    assert folder is not None
    state = {p.stem: load_weights(p) for p in sorted(folder.glob("*.safetensors"))}
    return {**state, "optimizers": torch.load(folder / "optimizers.pt", weights_only=True)}


def same(a: Path, b: Path) -> None:
    """Assert that two runs ended in bit-equal states."""
    ours, theirs = final(a), final(b)
    assert ours.keys() == theirs.keys()
    assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"accumulate": 3}, {"mixed_precision": "bf16"}])
def test_resume_is_exact(toy, tmp_path, options):
    assert run(toy, tmp_path / "straight", **options) == 10
    for steps in (1, 4, 7, 10):
        assert run(toy, tmp_path / "cut", steps=steps, **options) == steps
    same(tmp_path / "straight", tmp_path / "cut")


def test_run_is_a_function_of_its_seed(toy, tmp_path):
    torch.manual_seed(1)
    run(toy, tmp_path / "a", steps=3)
    torch.manual_seed(2)
    run(toy, tmp_path / "b", steps=3)
    same(tmp_path / "a", tmp_path / "b")
    run(toy, tmp_path / "c", steps=3, seed=1)
    assert not torch.equal(
        final(tmp_path / "a")["maker"]["0.weight"], final(tmp_path / "c")["maker"]["0.weight"]
    )


def test_cadence(toy, tmp_path):
    run(toy, tmp_path, steps=10, keep=3)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000004", "step_00000008", "step_00000010"]
    assert (tmp_path / "config.json").is_file()
    assert run(toy, tmp_path, steps=10) == 10  # nothing left to do


def test_time_limit_saves_and_returns(toy, tmp_path):
    assert run(toy, tmp_path, steps=10**6, max_minutes=1e-6) == 1
    assert newest_checkpoint(tmp_path) is not None


def test_run_with_another_config_is_not_resumed(toy, tmp_path):
    run(toy, tmp_path, steps=2)
    with pytest.raises(UserError, match=r"holds a run with loop\.seed 0, not 1: choose another --loop\.out"):
        run(toy, tmp_path, steps=4, seed=1)
    run(toy, tmp_path, steps=4, save_every=1, log_every=1, keep=1)  # cadence may change


def test_exhausted_data_raises(tmp_path):
    class Still:
        def __init__(self):
            layer = nn.Linear(1, 1)
            self.players, self.modules = {"layer": Player(layer, OptimConfig())}, {"layer": layer}

        def update(self, batch, step):
            return {}

    config = loop.LoopConfig(out=tmp_path, steps=5, trackers="none", cpu=True)
    with pytest.raises(UserError, match="the data ended at step 2"):
        loop.fit(Still, lambda start: [torch.zeros(1)] * 2, config)


def test_tensors_of_any_batch_are_moved():
    from typing import NamedTuple

    class Pair(NamedTuple):
        a: torch.Tensor
        b: str

    class Batch(NamedTuple):
        wave: torch.Tensor
        more: dict
        none: None = None

    meta = torch.device("meta")
    batch = Batch(torch.zeros(1), {"pair": Pair(torch.zeros(2), "name"), "list": [torch.zeros(3), 4]})
    moved = loop.send_to_device(batch, meta)
    assert moved.wave.device == moved.more["pair"].a.device == moved.more["list"][0].device == meta
    assert (moved.more["pair"].b, moved.more["list"][1], moved.none) == ("name", 4, None)


def test_terminated_run_saves_and_resumes_exactly(toy, tmp_path, together, capfd):
    options = replace(toy.BASE.loop, out=tmp_path / "cut", trackers="none")

    def train(rank):
        toy.train(replace(toy.BASE, signal_at=5, loop=options))
        os._exit(9)  # not reached: a stopped run ends the program

    assert together(1, train) == [0]
    said = f"stopped at step 6: saved in {tmp_path / 'cut'}; run the same command to resume"
    assert capfd.readouterr().out.splitlines()[-1] == said
    toy.train(replace(toy.BASE, signal_at=5, loop=options))  # past the signal now
    run(toy, tmp_path / "straight")
    same(tmp_path / "straight", tmp_path / "cut")


def test_drafts_of_a_killed_run_are_deleted_after_the_last_step(toy, tmp_path):
    run(toy, tmp_path)
    left = [tmp_path / "checkpoints" / name for name in (".step_00000003.old.tmp", ".step_00000009.tmp")]
    for folder in left:
        folder.mkdir()
        (folder / "layer.safetensors").write_bytes(b"half")
    run(toy, tmp_path)
    assert not any(folder.exists() for folder in left)


def test_two_processes_resume_exactly(toy, tmp_path, together):
    for out, steps in (("straight", 6), ("cut", 3), ("cut", 6)):
        assert together(2, lambda rank, o=out, n=steps: run(toy, tmp_path / o, steps=n)) == [0, 0]
    same(tmp_path / "straight", tmp_path / "cut")
    assert "buffers_1" in final(tmp_path / "straight")


def test_signal_to_one_process_stops_all(toy, tmp_path, together, capfd):
    def train(rank):
        options = replace(toy.BASE.loop, out=tmp_path, trackers="none")
        toy.train(replace(toy.BASE, signal_at=5 if rank == 1 else 0, loop=options))
        os._exit(9)  # not reached: a stopped run ends the program

    assert together(2, train) == [0, 0]
    assert capfd.readouterr().out.count("stopped at step 6") == 1
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000004", "step_00000006"]


def test_averaged_gradients_equal_those_of_the_joint_batch(together):
    both = torch.randn(2, 4, 3)
    config = OptimConfig(lr=0.1, weight_decay=0.5, gradient_clip=0.01)

    def build():
        torch.manual_seed(0)
        parts = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)])
        return parts, Player(parts, config)

    def loss(parts, rank):  # the second layer is used by one process, the third by none
        return parts[0](both[rank]).square().mean() + (parts[1](both[rank]).mean() if rank else 0.0)

    reference, alone = build()
    alone.step((loss(reference, 0) + loss(reference, 1)) / 2)

    def average(rank):
        loop.accelerator(loop.LoopConfig(cpu=True, trackers="none"))
        parts, player = build()
        player.step(loss(parts, rank))
        assert_close(dict(parts.state_dict()), dict(reference.state_dict()))
        assert_close(player.grad_norm, alone.grad_norm)

    assert together(2, average) == [0, 0]


@pytest.mark.parametrize("file", ["progress.json", "maker.safetensors", "config.json", "optimizers.pt"])
def test_error_about_a_damaged_checkpoint_names_the_older_one(toy, tmp_path, file):
    run(toy, tmp_path, steps=2, save_every=1)
    newest = newest_checkpoint(tmp_path)
    (newest / file).write_bytes(b"")
    with pytest.raises(UserError, match=f"{file}.*delete {newest} to continue from step_00000001"):
        run(toy, tmp_path, steps=3)
    shutil.rmtree(newest)
    assert run(toy, tmp_path, steps=3) == 3


def test_failed_checkpoint_leaves_no_draft(toy, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr("engine.checkpoint.torch.save", refuse)
    with pytest.raises(RuntimeError):
        run(toy, tmp_path, steps=1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_output_folder_that_is_a_file_is_refused(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        run(toy, tmp_path / "file")


def trained_together(toy, out, rank, count, accumulate=1):
    """Train six steps on this process's share of each batch; return the logs and all processes' states."""
    logged = []
    options = {"steps": 6, "log_every": 3, "save_every": 6, "sample_every": 0, "accumulate": accumulate}
    config = loop.LoopConfig(out=out, trackers="none", cpu=True, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.tracking.track", lambda place, scalars, step: logged.append(scalars))
        task, _ = loop.fit(toy.Together, toy.Shares(rank, count, accumulate), config)
    logged = [{k: torch.tensor(v) for k, v in s.items() if not k.startswith("time/")} for s in logged]
    return {"logged": logged, **{name: dict(m.state_dict()) for name, m in task.modules.items()}}


@pytest.mark.parametrize("count", [2, 4])
def test_two_processes_equal_one_with_the_whole_batch(toy, tmp_path, together, count):
    """Gradients, losses and logs are equal; banks are bit-equal in every process."""
    alone = trained_together(toy, tmp_path / "alone", 0, 1)

    def train(rank):
        torch.save(trained_together(toy, tmp_path / "all", rank, count), tmp_path / f"{rank}.pt")

    assert together(count, train) == [0] * count
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(count)]
    for found in ranks:
        assert_close(found, alone, rtol=1e-6, atol=1e-6)
        assert_close(found["bank"], ranks[0]["bank"], rtol=0, atol=0)


def test_micro_batches_in_two_processes_equal_one_batch(toy, tmp_path, together):
    """Without gathered negatives, which differ between micro-batches."""

    def gradient(count, rank=0):
        layer = nn.Linear(4, 4)
        player = Player(layer, OptimConfig(lr=0.1))
        batches = iter(toy.Shares(rank, count, 4 // count)(0))
        for index in range(4 // count):
            with micro_batch(index, 4 // count):
                player.step(layer(next(batches)).square().mean())
        return layer.weight, player.grad_norm

    torch.manual_seed(0)
    expected = gradient(1)

    def train(rank):
        loop.accelerator(loop.LoopConfig(cpu=True, trackers="none", out=tmp_path))
        torch.manual_seed(0)
        assert_close(gradient(2, rank), expected, rtol=1e-6, atol=1e-6)

    assert together(2, train) == [0, 0]


def test_gradients_are_averaged_during_the_backward_pass(together, monkeypatch):
    monkeypatch.setattr("engine.processes.BUCKET_BYTES", 40)  # a layer's weight or its bias and a weight
    events = []

    def train(rank):
        loop.accelerator(loop.LoopConfig(cpu=True, trackers="none"))
        layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        player = Player(layers, OptimConfig())
        reduce = torch.distributed.all_reduce
        monkeypatch.setattr(
            "torch.distributed.all_reduce", lambda *a, **k: (events.append("sent"), reduce(*a, **k))[1]
        )
        first = next(layers[0].parameters())
        first.register_hook(lambda g: events.append("first layer"))
        player.step(layers(torch.ones(2, 3)).sum())
        assert events.index("first layer") > events.index("sent")
        assert events.count("sent") == len(player._buckets.members) == 4

    assert together(2, train) == [0, 0]
