"""CLIP's loss against closed forms, its temperature, gathered negatives, ranks, and plateaus."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from engine.optim import OptimConfig, Player
from engine.user_error import UserError
from pretrain.clip.distillation import PlateauConfig, PlateauPlayer
from pretrain.clip.losses import LogitScale, clip_loss, ranks, retrieval


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 6), scale=st.floats(1.0, 50.0))
def test_loss_of_orthogonal_pairs_equals_the_closed_form(n, scale):
    pairs = torch.eye(n, 8) * 3
    expected = math.log1p((n - 1) * math.exp(-scale))
    assert_close(float(clip_loss(pairs, 2 * pairs, torch.tensor(scale))), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n", [2, 7])
def test_loss_of_equal_rows_is_the_log_of_their_number(n):
    same = torch.ones(n, 5)
    assert_close(clip_loss(same, same, torch.tensor(14.3)), torch.tensor(float(n)).log())


def test_loss_equals_its_definition_and_is_symmetric():
    a, b, scale = torch.randn(5, 7), torch.randn(5, 7), torch.tensor(3.0)
    logits = scale * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    rows = (logits.exp().sum(1).log() - logits.diagonal()).mean()
    columns = (logits.exp().sum(0).log() - logits.diagonal()).mean()
    assert_close(clip_loss(a, b, scale), (rows + columns) / 2)
    assert_close(clip_loss(a, b, scale), clip_loss(b, a, scale))
    assert_close(clip_loss(a, b, scale), clip_loss(9 * a, b / 9, scale))


def test_temperature_starts_at_clips_value_and_stays_in_range():
    scale = LogitScale()
    assert_close(scale().item(), 1 / 0.07)
    for wrong, right in ((9.0, 100.0), (-3.0, 1.0)):
        nn.init.constant_(scale.log_scale, wrong)
        assert_close(scale().item(), right)
        scale.clamp()
        scale().backward()
        assert scale.log_scale.grad is not None
        assert scale.log_scale.grad != 0  # at the limit it can still return
        scale.zero_grad()


BATCH, INPUTS, AUDIO, IMAGE = 8, 6, 5, 4


def step(rank: int = 0, count: int = 1) -> dict[str, torch.Tensor]:
    """Take a step on this process's share of the pairs; return the mean loss, gradients and parameters."""
    torch.manual_seed(0)
    sound, image = torch.randn(BATCH, INPUTS), torch.randn(BATCH, IMAGE)
    layers = {"encoder": nn.Linear(INPUTS, AUDIO), "to_image": nn.Linear(AUDIO, IMAGE)}
    parts = nn.ModuleDict({**layers, "to_audio": nn.Linear(IMAGE, AUDIO), "scale": LogitScale()})
    player = Player(parts, OptimConfig(lr=0.01))
    share = slice(rank * BATCH // count, (rank + 1) * BATCH // count)
    audio, image, scale = parts["encoder"](sound[share]), image[share], parts["scale"]()
    in_audio = clip_loss(audio, parts["to_audio"](image), scale)
    loss = in_audio + clip_loss(parts["to_image"](audio), image, scale)
    gradients = torch.autograd.grad(loss, player.parameters, retain_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    player.step(loss)
    mean = loss.detach().clone()
    if count > 1:
        for tensor in (flat, mean):
            dist.all_reduce(tensor)
            tensor /= count
    return {"loss": mean, "gradients": flat, **parts.state_dict()}


def test_two_processes_give_the_loss_and_step_of_the_whole_batch(tmp_path, together):
    def share(rank):
        dist.init_process_group("gloo")
        torch.save(step(rank, 2), tmp_path / f"{rank}.pt")
        dist.barrier()  # a process that ends early would break the connection of the other

    alone = step()
    assert together(2, share) == [0, 0]
    shared = torch.load(tmp_path / "0.pt", weights_only=True)
    assert shared.keys() == alone.keys()
    for name, tensor in alone.items():
        assert_close(shared[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


def test_ranks_count_better_answers_and_ties():
    answers = torch.eye(3)
    query = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    assert ranks(query, answers).tolist() == [1, 2, 3]
    scores = retrieval(query, answers)
    assert scores["R@1"] == pytest.approx(100 / 3)
    assert scores["R@5"] == 100
    assert scores["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_plateau_equals_torchs():
    ours = PlateauPlayer(nn.Linear(1, 1), OptimConfig(lr=1.0), PlateauConfig(patience=2))
    theirs = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, patience=2, min_lr=1e-3)
    for loss in (3.0, 2.0, 2.5, 2.0, 1.99999, 2.1, 1.0, *[1.0] * 12):
        ours.observe(loss)
        schedule.step(loss)
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"])
    assert ours.lr == pytest.approx(1e-3)


def test_plateau_continues_from_a_stored_state():
    one, other = (PlateauPlayer(nn.Linear(1, 1), OptimConfig(), PlateauConfig(patience=1)) for _ in range(2))
    for loss in (1.0, 2.0, 2.0, 2.0):
        one.observe(loss)
    other.load_state_dict(one.state_dict())
    for player in (one, other):
        player.observe(2.0)
    assert one.lr == other.lr == pytest.approx(1e-6)
    with pytest.raises(UserError, match="patience=-1"):
        PlateauConfig(patience=-1)
