"""Checkpoints are complete or absent; weights that do not fit are refused with their name."""

import os
import shutil
import signal
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from engine import checkpoint
from engine.checkpoint import (
    checkpoints,
    export,
    fill,
    load_export,
    load_weights,
    newest_checkpoint,
    save_weights,
)
from engine.optim import OptimConfig, Player
from engine.user_error import UserError


def save(out, step, value=0.0, keep=2):
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, value)
    draft = checkpoint.draft_folder(out, step)
    players = {"layer": Player(layer, OptimConfig())}
    checkpoint.save_checkpoint(draft, {"layer": layer}, players, OptimConfig(), {"step": step})
    return checkpoint.publish(draft, keep)


def test_newest_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 100, 99_999_999):
        save(tmp_path, step)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000100", "step_99999999"]
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints/step_99999999"
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 5, value=1.0)
    folder = save(tmp_path, 5, value=2.0)
    assert load_weights(folder / "layer.safetensors")["weight"].eq(2.0).all()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000005"]


def save_three_and_die(out, instant):
    """Save steps 1 to 3 in a process that dies when saving step 3 touches a file for the n-th time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        touches = 0

        def die_at_instant(event, args):
            nonlocal touches
            if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}:
                touches += 1
                if touches == instant:
                    os.kill(os.getpid(), signal.SIGKILL)

        save(out, 1)
        save(out, 2)
        sys.addaudithook(die_at_instant)
        save(out, 3)
        os._exit(0)
    finally:
        os._exit(1)


def test_kill_at_any_time_leaves_a_complete_checkpoint(tmp_path):
    seen = []
    for instant in range(1, 100):
        out = tmp_path / str(instant)
        code = save_three_and_die(out, instant)
        newest = newest_checkpoint(out)
        assert newest is not None
        progress = checkpoint.load_checkpoint(newest, {"layer": nn.Linear(2, 2)}, {})
        seen.append(progress["step"])
        save(out, 4)  # remains do not stand in the way
        assert not [*(out / "checkpoints").glob(".*")]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert set(seen) == {2, 3}


def test_shared_and_sliced_tensors_are_saved(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    checkpoint.save_weights(tied, tmp_path / "tied.safetensors")
    assert_close(load_weights(tmp_path / "tied.safetensors"), dict(tied.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda s: s.update(weight=torch.zeros(3, 2)),
            r"tensor weight has shape \(3, 2\) instead of \(2, 2\)",
        ),
        (lambda s: s.pop("bias"), "lacks the tensor bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "has an unknown tensor extra"),
    ],
)
def test_weights_of_another_shape_are_refused_with_their_name(change, sentence):
    layer = nn.Linear(2, 2)
    state = dict(layer.state_dict())
    change(state)
    with pytest.raises(UserError, match=f"a.safetensors.*{sentence}"):
        fill(layer, state, "a.safetensors")


def test_export_contains_config_and_weights_only(tmp_path):
    layer, config = nn.Linear(2, 2), OptimConfig(lr=0.5)
    export(tmp_path / "export", config, layer)
    export(tmp_path / "export", config, layer.state_dict())
    assert sorted(p.name for p in (tmp_path / "export").iterdir()) == ["config.json", "model.safetensors"]
    stored, state = load_export(tmp_path / "export", OptimConfig)
    assert stored == config
    assert_close(state, dict(layer.state_dict()), rtol=0, atol=0)


def test_nan_weights_are_neither_exported_nor_loaded(tmp_path):
    spoilt = {"weight": torch.full((2, 2), float("nan")), "bias": torch.zeros(2)}
    with pytest.raises(UserError, match="weight holds NaN"):
        export(tmp_path, OptimConfig(), spoilt)
    assert not (tmp_path / "model.safetensors").exists()
    with pytest.raises(UserError, match="NaN in the tensor weight"):
        fill(nn.Linear(2, 2), spoilt, "here")


def test_pickled_and_damaged_weights_are_refused(tmp_path):
    export(tmp_path / "export", OptimConfig(), nn.Linear(2, 2))
    weights = tmp_path / "export/model.safetensors"
    whole = weights.read_bytes()
    torch.save({"weight": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match=r"model\.safetensors is a pickled checkpoint"):
        load_export(weights.parent, OptimConfig)
    with pytest.raises(UserError, match="is a pickled checkpoint: give the folder"):
        load_export(weights, OptimConfig)
    torch.save({"weight": torch.zeros(1)}, weights, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="is a pickled checkpoint"):
        load_export(weights.parent, OptimConfig)
    weights.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="damaged or truncated"):
        load_export(weights.parent, OptimConfig)
    weights.unlink()
    with pytest.raises(UserError, match="no weights file"):
        load_export(weights.parent, OptimConfig)
    shutil.rmtree(weights.parent)
    with pytest.raises(UserError, match="no exported model"):
        load_export(weights.parent, OptimConfig)


def test_optimiser_states_are_not_unpickled(tmp_path):
    folder = save(tmp_path, 1)
    torch.save({"layer": os.system}, folder / "optimizers.pt")
    with pytest.raises(UserError, match=r"cannot read .*optimizers\.pt"):
        checkpoint.load_checkpoint(folder, {}, {})


def test_weights_have_the_usual_file_permissions(tmp_path):
    save_weights({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
