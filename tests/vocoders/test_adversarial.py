"""The adversarial task: update orders, gradients, presets, and learning one batch."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from engine.optim import OptimConfig
from engine.user_error import UserError
from vocoders.tasks.adversarial import Adversarial, AdversarialConfig
from vocoders.tasks.presets import PRESETS

TINY = PRESETS["tiny"]
assert isinstance(TINY.task, AdversarialConfig)


class WaveBatch(NamedTuple):
    """A batch."""

    wave: Tensor


@pytest.fixture
def batch(hum):
    return WaveBatch(hum(3_200))


def task(**changes) -> Adversarial:
    torch.manual_seed(0)
    return Adversarial(replace(TINY.task, **{"adversary_from": 0, **changes}), TINY.mel)


def weights(module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_only_the_generator_is_updated_before_adversary_from(batch):
    trained = task(adversary_from=1)
    network, critics = weights(trained.network), weights(trained.discriminators)
    scalars = trained.update(batch, 0)
    assert "loss/critic/adversarial" not in scalars
    assert_close(weights(trained.discriminators), critics, rtol=0, atol=0)
    assert any((weights(trained.network)[name] != tensor).any() for name, tensor in network.items())
    assert "loss/critic/adversarial" in trained.update(batch, 1)
    assert any((weights(trained.discriminators)[name] != tensor).any() for name, tensor in critics.items())


def test_first_discriminator_step_is_equal_in_every_order(batch):
    """From equal weights, the discriminators' first step does not depend on the order."""
    moved = {}
    for order in ("alternating", "kept", "simultaneous"):
        trained = task(order=order)
        trained.update(batch, 0)
        moved[order] = weights(trained.discriminators)
    assert_close(moved["kept"], moved["alternating"], rtol=0, atol=0)
    assert_close(moved["simultaneous"], moved["alternating"], rtol=1e-4, atol=1e-6)


def test_alternating_order_equals_a_plain_implementation(batch):
    """Compared with plain backward passes and AdamW: the generator's loss uses the updated discriminators."""
    plain = OptimConfig(lr=1e-3, betas=(0.8, 0.99))
    ours = task(generator=plain, critic=plain, stft=0.0)
    theirs = task(generator=plain, critic=plain, stft=0.0)
    scalars = ours.update(batch, 0)
    optim_g, optim_d = (
        torch.optim.AdamW(m.parameters(), 1e-3, (0.8, 0.99), 1e-8, 0.0)
        for m in (theirs.network, theirs.discriminators)
    )
    fake = theirs.network(theirs.log_mel(batch.wave))
    loss = theirs._discriminator_loss(theirs.discriminate(batch.wave), theirs.discriminate(fake.detach()), {})
    optim_d.zero_grad()
    loss.backward()
    optim_d.step()
    mel = (theirs.full_band_mel(fake) - theirs.full_band_mel(batch.wave)).abs().mean()
    fool = theirs._generator_loss(theirs.discriminate(batch.wave), theirs.discriminate(fake), {})
    optim_g.zero_grad()
    (fool + 45.0 * mel).backward()
    optim_g.step()
    assert_close(scalars["loss/generator/mel"], mel)
    assert_close(weights(ours.discriminators), weights(theirs.discriminators), rtol=1e-4, atol=1e-6)
    assert_close(weights(ours.network), weights(theirs.network), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["least_squares", "hinge"])
def test_one_batch_can_be_learned(hum, loss):
    batch = WaveBatch(hum(1_600, (150.0,)))
    fast = OptimConfig(lr=2e-3, betas=(0.8, 0.99))
    trained = task(generator=fast, critic=OptimConfig(lr=1e-4), loss=loss, order="simultaneous", stft=0.0)
    first = float(trained.update(batch, 0)["loss/generator/mel"].detach())
    for step in range(1, 50):
        last = float(trained.update(batch, step)["loss/generator/mel"].detach())
    assert last < 0.5 * first


def test_generator_with_other_mel_definition_is_refused():
    with pytest.raises(UserError, match=r"the network has hop 160 and 80 bands"):
        Adversarial(TINY.task, replace(TINY.mel, n_mels=40))


def test_config_without_discriminators_is_refused():
    with pytest.raises(UserError, match="needs a discriminator"):
        AdversarialConfig(periods=None, scales=None)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_hops_bands_and_crops_are_consistent(name):
    """Crops are whole hops, and networks have the mel's hop and bands."""
    config = PRESETS[name]
    assert config.data.crop_samples % config.mel.hop == 0
    if isinstance(config.task, AdversarialConfig):
        assert (config.task.network.hop, config.task.network.n_mels) == (config.mel.hop, config.mel.n_mels)
