"""Discriminators and their losses equal the published ones; gradients reach every weight and stop at data."""

import pytest
import torch
from torch.testing import assert_close

from vocoders.discriminators import (
    Judgement,
    MelGANCriticConfig,
    MultiPeriodConfig,
    MultiScaleConfig,
    build_critic,
    halves,
)
from vocoders.losses import (
    feature_matching,
    hinge_critic,
    hinge_generator,
    least_squares_critic,
    least_squares_generator,
    melgan_feature_matching,
)


def fill_published(module, state):
    """Old-style weight and spectral norm become parametrisations."""
    renamed = {}
    for key, tensor in state.items():
        stem, _, kind = key.rpartition(".")
        spectral = f"{stem}.weight_orig" in state
        names = {"weight_g": "weight.original0", "weight_v": "weight.original1"}
        if spectral:
            names = {"weight_orig": "weight.original", "weight_u": "weight.0._u", "weight_v": "weight.0._v"}
        renamed[f"{stem}.parametrizations.{names[kind]}" if kind in names else key] = tensor
    module.load_state_dict(renamed)
    return module.eval()


TINY = {
    "hifigan_mpd_tiny": MultiPeriodConfig(channels=(4, 8, 16, 32, 32)),
    "hifigan_msd_tiny": MultiScaleConfig(channels=(16, 16, 32, 32, 64, 64, 64)),
    "melgan_discriminator_tiny": MelGANCriticConfig(channels=8, n_layers=3, max_channels=32),
}


@pytest.mark.parametrize("name", ["hifigan_mpd_tiny", "hifigan_msd_tiny"])
def test_hifigan_discriminators_equal_the_published(name, published):
    golden = published(name)
    critic = fill_published(build_critic(TINY[name]), golden["state_dict"])
    expected = golden["output"]
    with torch.no_grad():
        real, fake = critic(golden["input"]["y"]), critic(golden["input"]["y_hat"])
    for ours, scores, maps in (
        (real, expected["y_d_rs"], expected["fmap_rs"]),
        (fake, expected["y_d_gs"], expected["fmap_gs"]),
    ):
        for judgement, score, features in zip(ours, scores, maps, strict=True):
            assert_close(judgement.score, score, rtol=0, atol=1e-5)
            for a, b in zip(judgement.features, features, strict=True):
                assert_close(a, b, rtol=0, atol=1e-5)
    assert_close(least_squares_critic(real, fake), expected["discriminator_loss"], rtol=1e-5, atol=1e-5)
    assert_close(least_squares_generator(fake), expected["generator_loss"], rtol=1e-5, atol=1e-5)
    assert_close(2 * feature_matching(real, fake), expected["feature_loss"], rtol=1e-5, atol=1e-5)


def test_melgan_discriminator_equals_the_published(published):
    golden = published("melgan_discriminator_tiny")
    critic = fill_published(build_critic(TINY["melgan_discriminator_tiny"]), golden["state_dict"])
    with torch.no_grad():
        ours = critic(golden["input"])
    for judgement, layers in zip(ours, golden["output"], strict=True):
        for a, b in zip([*judgement.features, judgement.score], layers, strict=True):
            assert_close(a, b, rtol=0, atol=1e-5)


def test_published_sizes():
    """Parameters of the published discriminators at full width."""
    sizes = {
        config: sum(p.numel() for p in build_critic(config).parameters())
        for config in (MultiPeriodConfig(), MultiScaleConfig(), MelGANCriticConfig())
    }
    assert [round(n / 1e6, 1) for n in sizes.values()] == [41.1, 29.6, 16.9]


def judgements(*scores):
    return [Judgement(score, []) for score in scores]


def test_losses_against_closed_forms():
    real = judgements(torch.tensor([2.0, 0.5]), torch.tensor([1.0]))
    fake = judgements(torch.tensor([-2.0, 0.0]), torch.tensor([3.0]))
    assert_close(hinge_critic(real, fake), torch.tensor(0.25 + 0.5 + 0.0 + 4.0))
    assert_close(hinge_generator(fake), torch.tensor(1.0 - 3.0))
    assert_close(least_squares_critic(real, fake), torch.tensor(0.625 + 2.0 + 0.0 + 9.0))
    assert_close(least_squares_generator(fake), torch.tensor(5.0 + 4.0))


@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_all_weights_and_stop_at_data(name):
    torch.manual_seed(0)
    critic = build_critic(TINY[name])
    real, fake = (torch.randn(2, 1, 4096, requires_grad=True) for _ in range(2))
    feature_matching(critic(real), critic(fake)).backward()
    assert fake.grad is not None
    assert fake.grad.any()
    assert real.grad is None
    least_squares_critic(critic(real), critic(fake.detach())).backward()
    assert all(p.grad is not None and p.grad.any() for p in critic.parameters())


@pytest.mark.parametrize("name", TINY)
def test_two_batches_heard_as_one_are_judged_alike(name):
    torch.manual_seed(0)
    critic = build_critic(TINY[name]).eval()
    a, b = torch.randn(2, 2, 1, 4096)
    first, second = halves(critic(torch.cat([a, b])))
    for together, alone in ((first, critic(a)), (second, critic(b))):
        for x, y in zip(together, alone):
            assert_close(x.score, y.score, rtol=1e-4, atol=1e-5)
            assert_close(x.features, y.features, rtol=1e-4, atol=1e-5)
    assert_close(melgan_feature_matching(first, first), torch.tensor(0.0))
