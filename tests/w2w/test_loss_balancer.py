"""The loss balancer gives losses of any scale their shares of the gradient."""

import torch
from torch.testing import assert_close

from w2w.cluit.losses import STRENGTH, LossBalancer


def test_gradient_shares_do_not_depend_on_loss_scales():
    torch.manual_seed(0)
    balancer, shares = LossBalancer(("loud", "soft")), {"loud": 1.0, "soft": 0.5}
    directions = torch.randn(2, 3, 1, 400)
    directions /= directions.flatten(1).norm(dim=1)[:, None, None, None]
    for _ in range(5):
        output = torch.randn(3, 1, 400, requires_grad=True)
        losses = {"loud": 1e4 * (output * directions[0]).sum(), "soft": 1e-4 * (output * directions[1]).sum()}
        balancer(losses, shares, output).backward()
        assert_close(output.grad, STRENGTH * (directions[0] + 0.5 * directions[1]))


def test_growing_loss_has_only_a_temporary_effect():
    balancer, pulls = LossBalancer(("only",)), []
    for scale in [1.0] * 50 + [10.0] * 1000:
        output = torch.ones(1, 1, 4, requires_grad=True)
        balancer({"only": scale * output.sum()}, {"only": 1.0}, output).backward()
        pulls.append(float(output.grad.norm()))
    assert_close(torch.tensor(pulls[:50]), torch.full((50,), STRENGTH))
    assert pulls[50] > 5 * STRENGTH
    assert abs(pulls[-1] / STRENGTH - 1) < 0.01


def test_running_norms_are_saved_in_checkpoints():
    one, other = LossBalancer(("a", "b")), LossBalancer(("a", "b"))
    output = torch.ones(1, 1, 4, requires_grad=True)
    for scale in (1.0, 3.0):
        one({"a": scale * output.sum()}, {"a": 1.0}, output)
    other.load_state_dict(one.state_dict())
    found = [balancer({"a": output.sum()}, {"a": 1.0}, output) for balancer in (one, other)]
    assert torch.equal(*found)


def test_without_losses_there_is_no_gradient():
    output = torch.ones(1, 1, 4, requires_grad=True)
    LossBalancer(())({}, {}, output).backward()
    assert not output.grad.any()
