"""Losses: known values, and where their gradients flow."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engine.gan_losses import feature_matching
from w2w.cluit.losses import (
    SpectralDistance,
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
