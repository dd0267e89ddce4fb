"""Players minimise their own loss over their own parameters; EMA copies follow."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from engine.optim import EMA, OptimConfig, Player, micro_batch
from engine.recovery import diverged, now_skipping, verdict
from engine.user_error import UserError

PLAIN = OptimConfig(lr=0.01)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_player_updates_only_its_own_parameters():
    body, critic = nn.Linear(3, 3), nn.Linear(3, 1)
    before = weights(critic)
    norm = Player(body, PLAIN).step(critic(body(torch.randn(4, 3))).mean())
    assert norm > 0
    assert_close(weights(critic), before, rtol=0, atol=0)
    assert all(p.grad is None for p in [*body.parameters(), *critic.parameters()])


def test_an_update_equals_adam_on_the_same_loss():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    player, adam = Player(ours, PLAIN), torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.99))
    for x in torch.randn(5, 4, 3):
        player.step(ours(x).square().mean())
        adam.zero_grad()
        theirs(x).square().mean().backward()
        adam.step()
    assert_close(weights(ours), weights(theirs))


def test_an_update_equals_rmsprop_on_the_same_loss():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    player = Player(ours, replace(PLAIN, optimizer="rmsprop"))
    rmsprop = torch.optim.RMSprop(theirs.parameters(), lr=0.01, alpha=0.99)
    for x in torch.randn(5, 4, 3):
        player.step(ours(x).square().mean())
        rmsprop.zero_grad()
        theirs(x).square().mean().backward()
        rmsprop.step()
    assert_close(weights(ours), weights(theirs))


def test_rmsprop_resumes_exactly():
    straight, broken = nn.Linear(3, 2), nn.Linear(3, 2)
    broken.load_state_dict(straight.state_dict())
    config, data = replace(PLAIN, optimizer="rmsprop"), torch.randn(6, 4, 3)
    whole, first, second = Player(straight, config), Player(broken, config), Player(broken, config)
    for x in data:
        whole.step(straight(x).square().mean())
    for x in data[:3]:
        first.step(broken(x).square().mean())
    second.load_state_dict(first.state_dict())
    for x in data[3:]:
        second.step(broken(x).square().mean())
    assert_close(weights(broken), weights(straight), rtol=0, atol=0)


def test_rmsprop_refuses_weight_decay():
    with pytest.raises(UserError, match="weight_decay"):
        OptimConfig(optimizer="rmsprop", weight_decay=0.1)


@settings(deadline=None, max_examples=15)
@given(count=st.integers(2, 5), clip=st.sampled_from([0.0, 0.1]), calls=st.integers(1, 3))
def test_accumulation_equals_the_big_batch(count, clip, calls):
    config = replace(PLAIN, gradient_clip=clip)
    big, small = nn.Linear(3, 2), nn.Linear(3, 2)
    small.load_state_dict(big.state_dict())
    whole, parts = Player(big, config), Player(small, config)
    ema = EMA(small, 0.5)
    for step in range(3):
        x = torch.randn(calls, count, 4, 3)
        gradients = [
            torch.autograd.grad(big(x[c]).square().mean(), [*big.parameters()]) for c in range(calls)
        ]
        for gradient in gradients:  # several descents in one step all see the weights of the step's start
            whole.step(sum((p * g).sum() for p, g in zip(big.parameters(), gradient)))
        losses = [[small(x[c, m]).square().mean() for c in range(calls)] for m in range(count)]
        for m in range(count):
            with micro_batch(m, count):
                for c in range(calls):
                    parts.step(_frozen_at(losses[m][c], small))
                ema.update(step)
    assert whole.updates == parts.updates == 3 * calls
    assert_close(weights(small), weights(big))


def _frozen_at(loss, module):
    """Return a loss with the present gradient of ``loss``, independent of later weights."""
    gradients = torch.autograd.grad(loss, [*module.parameters()])
    return sum((p * g).sum() for p, g in zip(module.parameters(), gradients))


def test_gradient_norm_is_clipped_over_all_parameters():
    layer = nn.Linear(3, 3)
    player = Player([layer], replace(PLAIN, gradient_clip=0.5, betas=(0.0, 0.0)))
    seen = []
    player.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.nn.utils.get_total_norm([p.grad for p in layer.parameters()]))
    )
    norm = player.step(100 * layer(torch.randn(4, 3)).square().sum())
    assert norm > 1
    assert_close(seen[0], torch.tensor(0.5))


def test_unused_parameters_do_not_change():
    used, unused = nn.Linear(2, 2), nn.Linear(2, 2)
    player = Player([used, unused], replace(PLAIN, weight_decay=0.1))
    before = weights(unused)
    player.step(used(torch.randn(3, 2)).square().mean())
    assert_close(weights(unused), before, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_non_finite_gradient_is_skipped_and_counted(bad, optimizer):
    layer = nn.Linear(2, 2)
    player = Player(layer, replace(PLAIN, patience=3, optimizer=optimizer))
    player.step(layer(torch.ones(1, 2)).square().mean())
    before = weights(layer)
    for _ in range(2):
        player.step(layer(torch.ones(1, 2)).mean() * bad)
    assert_close(weights(layer), before, rtol=0, atol=0)
    assert (int(player.skipped), diverged({"it": player}), now_skipping({"it": player})) == (2, [], True)
    player.step(layer(torch.ones(1, 2)).square().mean())  # recovery starts the count anew
    assert not now_skipping({"it": player})
    for _ in range(2):
        player.step(layer(torch.ones(1, 2)).mean() * bad)
    assert not diverged({"it": player})
    player.step(layer(torch.ones(1, 2)).mean() * bad)
    player.step(layer(torch.ones(1, 2)).square().mean())
    assert diverged({"it": player}) == ["it"]  # whenever it is asked
    with pytest.raises(UserError, match="'it' was not finite 3 times in a row: lower"):
        verdict({"it": player}, can_go_back=False)


def test_loss_scaling_is_exact_and_overflow_is_skipped():
    torch.manual_seed(0)
    plain, scaled = nn.Linear(3, 2), nn.Linear(3, 2)
    scaled.load_state_dict(plain.state_dict())
    config = replace(PLAIN, gradient_clip=0.1)
    one, other = Player(plain, config), Player(scaled, config)
    other.float16 = True
    for x in torch.randn(4, 4, 3):
        one.step(plain(x).square().mean())
        other.step(scaled(x).square().mean())
    assert_close(weights(scaled), weights(plain))
    before = weights(scaled)
    other.step(scaled(torch.ones(1, 3)).sum() * 1e38)  # too much when scaled
    assert_close(weights(scaled), before, rtol=0, atol=0)
    third = Player(scaled, config)
    third.float16 = True
    third.load_state_dict(other.state_dict())
    third.step(scaled(torch.ones(1, 3)).sum())
    assert third.state_dict()["scaler"]["scale"] == 2.0**15


def test_schedules():
    flat = OptimConfig(lr=1.0, warmup_steps=4)
    assert [flat.rate(t) for t in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    cosine = OptimConfig(lr=1.0, warmup_steps=2, hold_steps=3, schedule="cosine", decay_steps=10, final=0.1)
    assert cosine.rate(5) == 1.0
    assert cosine.rate(10) == pytest.approx(0.55)
    assert cosine.rate(15) == cosine.rate(10**6) == pytest.approx(0.1)
    halving = OptimConfig(lr=1.0, schedule="exponential", decay_steps=20, final=0.25)
    assert [halving.rate(t) for t in (0, 10, 20)] == pytest.approx([1.0, 0.5, 0.25])
    for config in (flat, cosine, halving):
        rates = [config.rate(t) for t in range(5, 40)]
        assert rates == sorted(rates, reverse=True)


def test_the_schedule_reaches_the_optimiser():
    layer = nn.Linear(1, 1, bias=False)
    player = Player(layer, OptimConfig(lr=0.1, warmup_steps=2, betas=(0.0, 0.0)))
    moves = []
    for _ in range(2):
        before = layer.weight.item()
        player.step(layer.weight.sum())
        moves.append(before - layer.weight.item())
    assert moves == pytest.approx([0.05, 0.1], rel=1e-3)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"schedule": "cosine", "decay_steps": 0}])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(UserError):
        OptimConfig(**wrong)


def test_player_resumes_exactly():
    def run(layer, player, rounds):
        for x in rounds:
            player.step(layer(x).square().mean())
        return weights(layer)

    config = OptimConfig(lr=0.1, warmup_steps=3, schedule="exponential", decay_steps=5)
    rounds = torch.randn(8, 4, 3)
    layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(layer.state_dict())
    straight = run(layer, Player(layer, config), rounds)
    first = Player(other, config)
    run(other, first, rounds[:4])
    second = Player(other, config)
    second.load_state_dict(first.state_dict())
    assert_close(run(other, second, rounds[4:]), straight, rtol=0, atol=0)


def test_ema_lags_and_copies_buffers():
    source = nn.BatchNorm1d(2)
    ema = EMA(source, decay=0.9)
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert not ema.module.training
    with torch.no_grad():
        source.weight.fill_(2.0)
        source.running_mean.fill_(3.0)
    ema.update(10**6)
    assert_close(ema.module.weight, torch.full((2,), 1.1))
    assert_close(ema.module.running_mean, torch.full((2,), 3.0))
    ema.update(0)  # early on the copy follows closely
    assert_close(ema.module.weight, torch.full((2,), 1.1 + 0.9 * 0.9))


def test_gradient_strides_do_not_affect_the_update():
    twins = [nn.Parameter(torch.ones(3, 5)) for _ in range(2)]
    across = torch.arange(15.0).view(5, 3)
    for weight, factor in zip(twins, (across.T, across.T.contiguous()), strict=True):
        module = nn.ParameterList([weight])
        player = Player(module, OptimConfig(lr=0.1))
        for turn in (1.0, -0.5):
            player.step((weight * factor.sin() * turn).sum())
    assert_close(twins[0], twins[1], rtol=0, atol=1e-6)
