"""Losses, the memory bank and the loss balancer: known values, gradients, storing."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engine.gan_losses import feature_matching
from engine.user_error import UserError
from w2w.cluit.losses import (
    STRENGTH,
    LossBalancer,
    MemoryBank,
    SpectralDistance,
    Weights,
    energy_distance,
    info_nce,
    labelled_cross_entropy,
)


def test_feature_matching_is_a_mean_over_layers_without_gradient_to_real():
    real = [[torch.zeros(1, 2, 3), torch.ones(1, 2, 3)], [torch.zeros(1, 4, 2)]]
    fake = [[torch.ones(1, 2, 3), torch.ones(1, 2, 3)], [torch.full((1, 4, 2), -2.0)]]
    for f in (*real[0], *real[1], *fake[0], *fake[1]):
        f.requires_grad_()
    loss = feature_matching(real, fake, mean=True)
    assert_close(loss.item(), (1 + 0 + 2) / 3)
    loss.backward()
    assert fake[0][0].grad is not None
    assert all(f.grad is None for scale in real for f in scale)


def reference_info_nce(query, positive, negatives, temperature, query_label, negative_label):
    """Compute the loss item by item."""
    total = 0.0
    for i in range(len(query)):
        match = F.cosine_similarity(query[i], positive[i], dim=0) / temperature
        others = [
            F.cosine_similarity(query[i], key, dim=0) / temperature
            for key, label in zip(negatives, negative_label)
            if query_label[i] == -1 or label != query_label[i]
        ]
        total += torch.logsumexp(torch.stack([match, *others]), 0) - match
    return total / len(query)


labels = st.integers(-1, 2)


@settings(deadline=None, max_examples=20)
@given(mine=st.lists(labels, min_size=1, max_size=4), theirs=st.lists(labels, max_size=6))
def test_info_nce_masks_the_querys_own_speaker_and_nothing_unknown(mine, theirs):
    query, positive = torch.randn(2, len(mine), 5)
    negatives = 3 * torch.randn(len(theirs), 5)
    ours, other = torch.tensor(mine), torch.tensor(theirs, dtype=torch.long)
    found = info_nce(query, positive, negatives, temperature=0.2, query_label=ours, negative_label=other)
    assert_close(found, reference_info_nce(query, positive, negatives, 0.2, ours, other))


def test_info_nce_extremes():
    one, two = torch.eye(4)[:1], torch.eye(4)[1:2]
    assert info_nce(one, one, two) < 1e-5
    assert_close(info_nce(one, one, one).item(), math.log(2))  # cannot tell two that are alike
    assert info_nce(one, one, torch.zeros(0, 4)) == 0.0
    known = torch.tensor([3])
    assert info_nce(one, two, one, query_label=known, negative_label=known) == 0.0
    unknown = torch.tensor([-1])
    assert info_nce(one, two, one, query_label=unknown, negative_label=unknown) > 10.0


def test_info_nce_gives_the_bank_no_gradient():
    query, positive, bank = (torch.randn(3, 4, requires_grad=True) for _ in range(3))
    info_nce(query, positive, bank).backward()
    assert query.grad is not None
    assert positive.grad is not None
    assert bank.grad is None


def test_unlabelled_items_are_ignored():
    logits = torch.randn(4, 3, requires_grad=True)
    some = labelled_cross_entropy(logits, torch.tensor([2, -1, 0, -1]))
    assert_close(some, F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0])))
    none = labelled_cross_entropy(logits, torch.full((4,), -1))
    assert none == 0.0
    none.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("rate", [16_000, 24_000])
@pytest.mark.filterwarnings("error")
def test_spectral_distance(buzz, rate):
    distance, wave = SpectralDistance(rate), buzz(rate // 2, (120.0, 200.0), rate)
    assert distance(wave, wave) == 0.0
    assert_close(distance(-wave, wave).item(), 0.0, rtol=0, atol=1e-5)  # magnitudes have no sign
    assert distance(1.1 * wave, wave) < distance(2 * wave, wave) < distance(8 * wave, wave)
    quiet = 1e-5 * torch.randn(wave.shape)
    assert distance(quiet, torch.zeros_like(wave)) < 0.02  # nothing is learned from silence
    fake, real = wave.clone().requires_grad_(), (0.5 * wave).requires_grad_()
    distance(fake, real).backward()
    assert fake.grad is not None
    assert torch.isfinite(fake.grad).all()
    assert real.grad is None
    silent = torch.zeros_like(wave, requires_grad=True)
    distance(silent, wave).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def test_energy_distance_ignores_silence_and_has_no_gradient_to_the_source():
    converted = torch.tensor([[[-2.0, -5.0, -9.0]]], requires_grad=True)
    source = torch.tensor([[[-1.0, -8.0, -4.0]]], requires_grad=True)
    loss = energy_distance(converted, source)
    assert_close(loss.item(), 2 / 3)
    loss.backward()
    assert source.grad is None
    assert converted.grad is not None
    assert (converted.grad != 0).tolist() == [[[True, False, False]]]


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 7), pushes=st.lists(st.integers(0, 9), max_size=8))
def test_newest_keys_stay_for_any_push_sizes(size, pushes):
    bank, history, number = MemoryBank(size, 2), [], 0
    for count in pushes:
        keys = torch.arange(number, number + count).float()[:, None].expand(-1, 2)
        bank.push(keys, torch.arange(number, number + count))
        history += range(number, number + count)
        number += count
        assert sorted(bank.labels.tolist()) == history[-size:]
        assert_close(bank.keys[:, 0], bank.labels.float())  # a key and its speaker move together


def test_empty_bank_has_no_keys():
    bank = MemoryBank(4, 3)
    assert bank.keys.shape == (0, 3)
    assert bank.labels.shape == (0,)


def test_oldest_key_is_replaced_first():
    bank = MemoryBank(3, 1)
    bank.push(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 2]))
    bank.push(torch.tensor([[3.0], [4.0]]), torch.tensor([3, -1]))
    assert bank.keys[:, 0].tolist() == [4.0, 2.0, 3.0]
    assert bank.labels.tolist() == [-1, 2, 3]


def test_keys_have_no_gradient():
    bank, key = MemoryBank(3, 2), torch.randn(2, 2, requires_grad=True)
    bank.push(key, torch.tensor([0, 1]))
    assert not bank.keys.requires_grad
    assert not list(bank.parameters())


def test_stored_bank_continues():
    bank, copy = MemoryBank(5, 2), MemoryBank(5, 2)
    bank.push(torch.randn(7, 2), torch.arange(7))
    copy.load_state_dict(bank.state_dict())
    for each in (bank, copy):
        each.push(torch.ones(1, 2), torch.tensor([9]))
    assert_close(dict(copy.state_dict()), dict(bank.state_dict()), rtol=0, atol=0)


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


def test_negative_weight_is_refused():
    with pytest.raises(UserError, match=r"weights\.norm=-1\.0 must be 0 or more"):
        Weights(norm=-1.0)
