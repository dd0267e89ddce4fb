"""StarGAN's losses against their definitions: gradient penalty, missing labels, feature matching."""

import math

import pytest
import torch
from torch.testing import assert_close

from w2w.baselines.stargan.task import (
    feature_matching,
    gradient_penalty,
    masked_cross_entropy,
    mean_feature_matching,
    wasserstein,
)


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic(slope):
    direction = torch.randn(1, 4, 6)
    weight = (slope * direction / direction.norm()).requires_grad_()
    real, fake, share = torch.rand(3, 1, 4, 6), torch.rand(3, 1, 4, 6), torch.rand(3, 1, 1, 1)
    penalty = gradient_penalty(lambda x: (x * weight).sum((1, 2, 3))[:, None, None, None], real, fake, share)
    assert_close(penalty, torch.tensor((slope - 1.0) ** 2), atol=1e-6, rtol=1e-5)
    if slope:
        (gradient,) = torch.autograd.grad(penalty, weight)
        assert_close(gradient, 2 * (slope - 1) * (weight / slope).detach(), atol=1e-5, rtol=1e-4)


def test_gradient_penalty_sums_the_score_map():
    real, fake = torch.rand(2, 1, 2, 2), torch.rand(2, 1, 2, 2)
    # The map is the spectrogram itself: the sum's slope is 1 in each of 4 places, of length 2.
    assert_close(gradient_penalty(lambda x: x, real, fake, torch.rand(2, 1, 1, 1)), torch.tensor(1.0))


def test_gradient_penalty_is_taken_between_real_and_fake():
    """The critic x² has the slope 2x there: with a share of ¼ real, 2 (¼ · 2 + ¾ · 6) = 10."""
    real, fake = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 6.0)
    penalty = gradient_penalty(lambda x: x.square(), real, fake, torch.full((1, 1, 1, 1), 0.25))
    assert_close(penalty, torch.tensor(81.0))


def test_gradient_penalty_is_float32_under_autocast():
    layer = torch.nn.Conv2d(1, 1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(
            layer, torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 1, 1)
        )
    assert penalty.dtype is torch.float32
    between = layer.weight.detach().double()
    total = torch.zeros(8, 8).double()
    for row in range(6):
        for column in range(6):
            total[row : row + 3, column : column + 3] += between[0, 0]
    assert_close(penalty.double(), (total.norm() - 1).square(), rtol=1e-5, atol=1e-6)


def test_masked_cross_entropy_matches_its_definition():
    """Groups of 2 and 3 labels; unknown: the first clip's second group, the second clip's first."""
    logits = torch.tensor([[2.0, -1.0, 9.0, 9.0, 9.0], [7.0, 7.0, 0.0, 1.0, -2.0]])
    target = torch.tensor([[1.0, 0.0, -1.0, -1.0, -1.0], [-1.0, -1.0, 0.0, 1.0, 0.0]])

    def is_one(x):
        return math.log(1 + math.exp(-x))

    def is_zero(x):
        return math.log(1 + math.exp(x))

    by_hand = is_one(2) + is_zero(-1) + is_zero(0) + is_one(1) + is_zero(-2)
    assert_close(masked_cross_entropy(logits, target), torch.tensor(by_hand / 5))
    assert_close(masked_cross_entropy(logits, target, summed=True), torch.tensor(by_hand / 2))


def test_mean_over_known_labels_does_not_grow_with_the_labels_and_is_zero_without_any():
    assert_close(masked_cross_entropy(torch.zeros(2, 1476), torch.zeros(2, 1476)), torch.tensor(math.log(2)))
    assert masked_cross_entropy(torch.randn(2, 5), -torch.ones(2, 5)).item() == 0


def test_unknown_groups_receive_no_gradient():
    logits = torch.randn(1, 5, requires_grad=True)
    masked_cross_entropy(logits, torch.tensor([[0.0, 1.0, -1.0, -1.0, -1.0]])).backward()
    assert logits.grad[:, :2].all()
    assert not logits.grad[:, 2:].any()


def test_wasserstein_raises_real_scores_and_lowers_fake_ones():
    real, fake = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), 1.0)
    assert wasserstein(real, fake).item() == -2.0


def test_experiments_feature_matching_compares_clips_in_the_last_layer():
    real = [torch.zeros(2, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)]
    fake = [torch.ones(2, 1, requires_grad=True), torch.tensor([[4.0, 2.0], [3.0, 3.0]], requires_grad=True)]
    loss = feature_matching(real, fake)
    assert loss.item() == (9 + 0 + 0 + 1) / 4
    loss.backward()
    assert real[1].grad is None
    assert fake[0].grad is None
    assert fake[1].grad.any()
    swapped = [fake[0], real[1].detach().flip(0)]
    assert feature_matching(real, swapped) > 0 == mean_feature_matching(real[1:], swapped[1:])


def test_own_feature_matching_compares_batch_means():
    real = [torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), torch.zeros(2, 1)]
    fake = [torch.tensor([[4.0, 3.0], [2.0, 3.0]], requires_grad=True), torch.ones(2, 1)]
    loss = mean_feature_matching(real, fake)
    assert loss.item() == (((3 - 2) ** 2 + 0) / 2 + 1) / 2
    loss.backward()
    assert real[0].grad is None
    assert fake[0].grad.any()
