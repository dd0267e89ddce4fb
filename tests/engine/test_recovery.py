"""Non-finite batches cost only the updates that they affect."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from engine.checkpoint import load_weights, newest_checkpoint
from engine.loop import fit
from engine.user_error import UserError


def run(toy, out, poisoned, steps=12, patience=3, **changes):
    optim = replace(toy.BASE.optim, patience=patience)
    options = {"out": out, "steps": steps, "trackers": "none", "sample_every": 0, **changes}
    config = replace(toy.BASE, optim=optim, loop=replace(toy.BASE.loop, **options))
    return fit(
        lambda: toy.Toy(config), toy.Batches(config.loop, 0, poisoned), config.loop, full_config=config
    )


def test_bad_batch_is_skipped_and_reported(toy, tmp_path, capsys):
    task, steps = run(toy, tmp_path, (5,))
    assert steps == 12
    assert [int(task.players[n].skipped) for n in ("maker", "critic")] == [1, 0]  # the critic's turn is even
    for module in task.modules.values():  # banks and running statistics too
        assert all(tensor.isfinite().all() for tensor in module.state_dict().values())
    told = "step 6: not finite: loss/critic/adversarial, loss/maker/adversarial"
    assert told in "".join(capsys.readouterr())


def test_divergence_returns_to_a_checkpoint_and_finally_raises(toy, tmp_path, capsys):
    with pytest.raises(UserError, match=r"'maker' was not finite 3 times in a row, even at 1/8 of its"):
        run(toy, tmp_path, range(5, 12))
    said = capsys.readouterr().out
    assert said.count("back to step 4 with half the learning rate") == 3
    before = load_weights(newest_checkpoint(tmp_path) / "maker.safetensors")
    task, steps = run(toy, tmp_path, (), steps=12)  # the batches were mended
    assert steps == 12
    assert not torch.equal(task.maker[0].weight, before["0.weight"])


def test_divergence_without_a_checkpoint_raises(toy, tmp_path):
    with pytest.raises(UserError, match="'maker' was not finite 3 times in a row: lower its learning rate"):
        run(toy, tmp_path, range(12))


def test_no_checkpoint_is_saved_during_skipped_updates(toy, tmp_path):
    run(toy, tmp_path, (6, 7), save_every=4)
    assert not (tmp_path / "checkpoints" / "step_00000008").exists()
    run(toy, tmp_path / "other", (6, 7), steps=8)
    assert newest_checkpoint(tmp_path / "other").name == "step_00000008"  # the last is: where would it go on?


def test_halved_rate_is_resumed(toy, tmp_path):
    task, _ = run(toy, tmp_path, ())
    task.players["maker"].halve(2)
    full = task.players["maker"].config.rate(task.players["maker"].updates)
    assert_close(task.players["maker"].lr, full / 4)
    again, state = run(toy, tmp_path / "again", (), steps=1)[0].players["maker"], task.players["maker"]
    again.load_state_dict(state.state_dict())
    assert again.lr == state.lr
