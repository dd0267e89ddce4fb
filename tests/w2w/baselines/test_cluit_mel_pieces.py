"""CLUIT on mels: losses, stores of negatives, augmentation and content loss against their definitions."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from data.frontends import NAMED
from engine.user_error import UserError
from w2w.baselines.cluit_mel import losses as content
from w2w.baselines.cluit_mel.augment import AugmentConfig, augmented
from w2w.baselines.cluit_mel.config import CluitMelTaskConfig, Weights
from w2w.baselines.cluit_mel.losses import MelContentLoss, Queue, SlotBank, gradient_penalty, loud_frames
from w2w.cluit.losses import info_nce

SPEECH = NAMED["speech16k"]


def unit(*values: float) -> torch.Tensor:
    return F.normalize(torch.tensor([values]), dim=-1)


def numbers(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_norm_loss_compares_log_frame_energies():
    source = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).log()  # sums 4 and 6
    converted = torch.tensor([[[1.0, 1.0], [1.0, 2.0]]]).log().requires_grad_()  # sums 2 and 3
    loss = content.norm_loss(converted, source)
    assert_close(loss.item(), math.log(2.0), rtol=1e-5, atol=0)
    loss.backward()
    assert_close(converted.grad[0], -torch.tensor([[0.5, 1 / 3], [0.5, 2 / 3]]) / 2)


def test_adversarial_losses_are_softplus():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 3.0])
    hand = (math.log(2) + math.log1p(math.exp(-2))) / 2
    hand += (math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 2
    assert_close(content.softplus_critic(real, fake).item(), hand)
    fooled = (math.log1p(math.exp(1)) + math.log1p(math.exp(-3))) / 2
    assert_close(content.softplus_generator(fake).item(), fooled)


def test_gradient_penalty_is_in_the_networks_units():
    mel = torch.randn(3, 4, 5)
    flat = mel.flatten(1)[:, None].requires_grad_()
    slope = torch.randn(4, 5)
    score = (flat.view_as(mel) * slope).sum((1, 2))
    assert_close(content.gradient_penalty(score, flat, 2.0), 4 * slope.square().sum())


def test_mel_distance_is_in_units_of_the_standard_deviation():
    assert_close(content.mel_distance(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), 2.0).item(), 0.5)


def test_slot_holds_the_running_mean_of_its_recordings_keys():
    bank = SlotBank(3, 2, n_drawn=8, momentum=0.5)
    assert bank.draw().keys.shape == (0, 2)
    bank.remember(unit(1.0, 0.0), numbers(4), numbers(1))
    assert_close(bank.draw().keys, unit(1.0, 0.0))  # the first key as it is
    bank.remember(unit(0.0, 3.0), numbers(4), numbers(1))
    assert_close(bank.draw().keys, unit(1.0, 1.0))
    bank.remember(unit(0.0, 1.0), numbers(4), numbers(1))
    middle = math.sqrt(0.5)
    assert_close(bank.draw().keys, unit(middle / 2, middle / 2 + 0.5))
    assert bank.draw().identity.tolist() == [4]


def test_repeated_recording_updates_its_slot_twice():
    twice, apart = (SlotBank(2, 2, n_drawn=8) for _ in range(2))
    keys = torch.cat([unit(1.0, 0.0), unit(0.0, 1.0)])
    twice.remember(keys, numbers(0, 0), numbers(1, 1))
    for key in keys:
        apart.remember(key[None], numbers(0), numbers(1))
    assert_close(twice.slots, apart.slots)


def test_used_slots_are_drawn_without_replacement():
    bank = SlotBank(50, 4, n_drawn=16)
    bank.remember(torch.randn(30, 4), torch.arange(30), torch.arange(30))
    drawn = [bank.draw().identity.tolist() for _ in range(20)]
    assert all(len(set(once)) == 16 for once in drawn)
    assert {whose for once in drawn for whose in once} == set(range(30))


def test_queue_is_first_in_first_out():
    queue = Queue(4, 2)
    for number in range(3):
        keys = torch.full((2, 2), float(number + 1)) * torch.tensor([1.0, -1.0])
        queue.remember(keys, numbers(2 * number, 2 * number + 1), numbers(9, 9))
    drawn = queue.draw()
    assert sorted(drawn.identity.tolist()) == [2, 3, 4, 5]
    assert_close(drawn.keys.norm(dim=-1), torch.ones(4))


def test_contrast_masks_the_querys_speaker_in_the_slots():
    bank = SlotBank(4, 2, n_drawn=8)
    keys = torch.cat([unit(1.0, 0.0), unit(0.0, 1.0), unit(-1.0, 0.0), unit(1.0, 1.0)])
    bank.remember(keys, numbers(0, 1, -5, 0), torch.arange(4))  # the third's speaker is not known
    drawn = bank.draw()
    query, positive = unit(1.0, 0.0), unit(3.0, 4.0)

    def loss(identity: int) -> float:
        labels = {"query_label": numbers(identity), "negative_label": drawn.identity}
        return info_nce(query, positive, drawn.keys, temperature=0.5, **labels).item()

    match, others = math.exp(0.6 / 0.5), [math.exp(c / 0.5) for c in (1.0, 0.0, -1.0, math.sqrt(0.5))]
    assert_close(loss(0), -math.log(match / (match + others[1] + others[2])), rtol=1e-4, atol=0)
    assert_close(loss(-5), -math.log(match / (match + sum(others) - others[2])), rtol=1e-4, atol=0)
    assert_close(loss(-9), -math.log(match / (match + sum(others))), rtol=1e-4, atol=0)


NONE = AugmentConfig(tempo=0.0, shift=False, gain_db=0.0, mask_frames=0, mask_bands=0)


def test_augmentation_of_strength_zero_is_the_identity():
    mel = torch.randn(2, 6, 16)
    assert_close(augmented(mel, NONE), mel)


def test_each_augmentation_changes_only_what_it_should():
    mel = torch.randn(64, 20, 32)
    louder = augmented(mel, replace(NONE, gain_db=6.0)) - mel
    assert_close(louder, louder[:, :1, :1].expand_as(louder), rtol=0, atol=1e-5)
    assert 0.5 < louder.abs().max() <= 6.0 * math.log(10) / 20 + 1e-5
    turned = augmented(mel, replace(NONE, shift=True))
    assert_close(turned.sort(-1).values, mel.sort(-1).values)
    assert not torch.equal(turned, mel)
    frames = (augmented(mel, replace(NONE, mask_frames=5)) != mel).any(1).sum(-1)
    bands = (augmented(mel, replace(NONE, mask_bands=3)) != mel).any(2).sum(-1)
    assert frames.max() == 5
    assert bands.max() == 3
    assert frames.min() == bands.min() == 0
    ramp = torch.arange(32.0).expand(64, 20, -1)
    steps = augmented(ramp, replace(NONE, tempo=0.2))[:, 0].diff()[:, :20]
    assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-3)
    assert steps.min() < 0.85
    assert steps.max() > 1.15


def test_content_loss_has_gradient_only_for_the_converted_mel():
    content = MelContentLoss(SPEECH)
    source, converted = (torch.randn(2, 80, 40).requires_grad_() for _ in range(2))
    content(converted, source).backward()
    assert source.grad is None
    assert converted.grad.abs().sum(-1).any()
    assert not any(p.requires_grad for p in content.parameters())
    assert_close(content(source, source).item(), 0.0, rtol=0, atol=1e-6)
    assert not content.train().training


def test_content_loss_ignores_level_and_spectral_tilt():
    content = MelContentLoss(SPEECH)
    mel = 3 * torch.randn(1, 80, 40).cumsum(-1).sub(20)
    coloured = mel + torch.linspace(-1, 1, 80)[:, None]
    other = mel.roll(13, -1)
    assert content(coloured, mel) < 0.5 * content(other, mel)


def test_content_loss_ignores_silence():
    mel = torch.full((1, 80, 8), -3.0)
    mel[..., 4:] = -11.0
    assert loud_frames(mel, 4, -40.0).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("changed", [{"hop": 320}, {"n_mels": 64}, {"f_max": 7000.0}, {"power": 2}])
def test_other_mels_than_the_recognisers_are_refused(changed):
    with pytest.raises(UserError, match="content loss needs mels of 80 bands"):
        MelContentLoss(replace(SPEECH, **changed))


@pytest.mark.parametrize(
    "wrong",
    [{"n_negatives": 0}, {"r1_every": 0}, {"bank_momentum": 1.0}, {"temperature": 0.0}, {"bank_slots": -1}],
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(UserError, match=f"task.{next(iter(wrong))}"):
        CluitMelTaskConfig(**wrong)
    with pytest.raises(UserError, match="cycle"):
        Weights(cycle=-1.0)


def test_gradient_penalty_of_a_quadratic_score():
    """For D(x) = w·x + a|x|² the gradient is w + 2ax."""
    w, a = torch.randn(1, 1, 50, requires_grad=True), 0.7
    flat = torch.randn(3, 1, 50, requires_grad=True)
    score = (w * flat + a * flat.square()).sum((1, 2))
    penalty = gradient_penalty(score, flat, 2.0)
    assert_close(penalty, 4 * (w + 2 * a * flat).square().sum((1, 2)).mean())
    (gradient,) = torch.autograd.grad(penalty, w)  # a second derivative
    assert_close(gradient, 8 * (w + 2 * a * flat).mean(0, keepdim=True).detach())
