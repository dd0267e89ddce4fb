"""Discriminators and their losses equal the published ones; gradients reach every weight and stop at data."""

import pytest
import torch
from torch.testing import assert_close

from engine.gan_losses import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    least_squares_discriminator,
    least_squares_generator,
    melgan_feature_matching,
)
from vocoders.discriminators import (
    MelGANCriticConfig,
    MultiPeriodConfig,
    MultiScaleConfig,
    build_discriminator,
)
from vocoders.published.layout import from_published

TINY = {
    "hifigan_mpd_tiny": MultiPeriodConfig(channels=(4, 8, 16, 32, 32)),
    "hifigan_msd_tiny": MultiScaleConfig(channels=(16, 16, 32, 32, 64, 64, 64)),
    "melgan_discriminator_tiny": MelGANCriticConfig(channels=8, n_layers=3, max_channels=32),
}


@pytest.mark.parametrize("name", ["hifigan_mpd_tiny", "hifigan_msd_tiny"])
def test_hifigan_discriminators_equal_the_published(name, published):
    golden = published(name)
    discriminator = build_discriminator(TINY[name]).eval()
    discriminator.load_state_dict(from_published(golden["state_dict"]))
    expected = golden["output"]
    with torch.no_grad():
        real, fake = discriminator(golden["input"]["y"]), discriminator(golden["input"]["y_hat"])
    for ours, scores, maps in (
        (real, expected["y_d_rs"], expected["fmap_rs"]),
        (fake, expected["y_d_gs"], expected["fmap_gs"]),
    ):
        assert_close(ours.scores, scores, rtol=1e-5, atol=1e-5)
        assert_close(ours.features, maps, rtol=1e-5, atol=1e-5)
    ours = [
        least_squares_discriminator(real.scores, fake.scores),
        least_squares_generator(fake.scores),
        2 * feature_matching(real.features, fake.features),
    ]
    theirs = [expected[f"{name}_loss"] for name in ("discriminator", "generator", "feature")]
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_melgan_discriminator_equals_the_published(published):
    golden = published("melgan_discriminator_tiny")
    discriminator = build_discriminator(TINY["melgan_discriminator_tiny"]).eval()
    discriminator.load_state_dict(from_published(golden["state_dict"]))
    with torch.no_grad():
        ours = discriminator(golden["input"])
    layers = [[*features, score] for features, score in zip(*reversed(ours))]
    assert_close(layers, golden["output"], rtol=1e-5, atol=1e-5)


def test_published_sizes():
    """Parameters of the published discriminators at full width."""
    sizes = {
        config: sum(p.numel() for p in build_discriminator(config).parameters())
        for config in (MultiPeriodConfig(), MultiScaleConfig(), MelGANCriticConfig())
    }
    assert [round(n / 1e6, 1) for n in sizes.values()] == [41.1, 29.6, 16.9]


def test_losses_against_closed_forms():
    real = [torch.tensor([2.0, 0.5]), torch.tensor([1.0])]
    fake = [torch.tensor([-2.0, 0.0]), torch.tensor([3.0])]
    for loss, given, expected in (
        (hinge_discriminator, (real, fake), 0.25 + 0.5 + 0.0 + 4.0),
        (hinge_generator, (fake,), 1.0 - 3.0),
        (least_squares_discriminator, (real, fake), 0.625 + 2.0 + 0.0 + 9.0),
        (least_squares_generator, (fake,), 5.0 + 4.0),
        (feature_matching, ([real], [fake]), 2.25 + 2.0),
    ):
        assert_close(loss(*given), torch.tensor(expected))
        assert_close(loss(*given, mean=True), torch.tensor(expected / 2))
    assert_close(melgan_feature_matching([real], [fake]), torch.tensor(4 * (2.25 + 2.0)))


@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_all_weights_and_stop_at_data(name):
    torch.manual_seed(0)
    discriminator = build_discriminator(TINY[name])
    real, fake = (torch.randn(2, 1, 4096, requires_grad=True) for _ in range(2))
    feature_matching(discriminator(real).features, discriminator(fake).features).backward()
    assert fake.grad is not None
    assert fake.grad.any()
    assert real.grad is None
    least_squares_discriminator(discriminator(real).scores, discriminator(fake.detach()).scores).backward()
    assert all(p.grad is not None and p.grad.any() for p in discriminator.parameters())
