"""Augmentation of a training step's rows (speed, level, windows), and the discriminator's outputs."""

from dataclasses import replace

import torch
from torch.testing import assert_close

from pretrain.pitch.tracker import PitchTracker
from w2w.cluit.adversary import Discriminator, DiscriminatorConfig
from w2w.cluit.rows import leveled, other_speeds, same_window

SIZES = DiscriminatorConfig(
    n_scales=2, n_channels=4, max_channels=8, n_strided=2, projection_dim=8, n_speakers=2
)


def test_played_clips_keep_their_length_and_get_another_f0(buzz):
    waves, speed = other_speeds((buzz(4000, (100.0,) * 40), buzz(3000, (100.0,) * 40)), (0.8, 1.0, 1.25))
    assert [wave.shape for wave in waves] == [(40, 1, 4000), (40, 1, 3000)]
    assert set(speed.tolist()) == {0, 1, 2}
    f0 = PitchTracker(16_000, 160)(waves[0][..., :3200]).log_f0[:, 0, -1].exp()
    assert_close(f0.float(), 100 * torch.tensor([0.8, 1.0, 1.25])[speed], rtol=0.05, atol=0)


def test_clips_are_levelled_with_random_sign():
    wave = torch.randn(200, 1, 3200) * torch.logspace(-3, 0, 200)[:, None, None]
    wave[..., :1600] *= 0.01  # a pause does not count
    changed = leveled(wave, -23.0)
    level_db = 10 * changed[..., 1600:].square().mean(-1).log10()
    assert_close(level_db, torch.full_like(level_db, -23.0), rtol=0, atol=1.0)
    assert 0.3 < ((changed * wave).sum(-1) > 0).float().mean() < 0.7


def test_same_window_cuts_all_waves_at_one_position():
    ramp = torch.arange(100.0)[None, None].expand(3, -1, -1)
    long, same, tail = same_window((ramp, ramp, ramp[..., :20]), 30)
    assert long.shape == same.shape == (3, 1, 30)
    assert torch.equal(long, same)
    assert tail.shape[-1] <= 20
    assert [wave.shape[-1] for wave in same_window((ramp, ramp), 400)] == [100, 100]


def test_discriminator_output_shapes():
    output = Discriminator(SIZES)(torch.randn(2, 1, 1024))
    assert [s.shape for s in output.scores] == [(2, 1, 64), (2, 1, 32)]
    assert len(output.features[0]) == SIZES.n_strided + 2
    assert_close(output.projection.norm(dim=-1), torch.ones(2))
    assert output.speakers.shape == (2, 2)
    nameless = Discriminator(replace(SIZES, n_speakers=0))
    assert nameless(torch.randn(1, 1, 1024)).speakers.shape == (1, 0)
