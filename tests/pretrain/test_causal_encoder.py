"""The causal content encoder: no look-ahead, chunks equal the whole, level and offset do not matter."""

import pytest
import torch
from torch.testing import assert_close

from pretrain.causal.encoder import CausalEncoder, CausalEncoderConfig

SMALL = CausalEncoderConfig(n_channels=16, n_blocks=3, dim=6, n_mels=20)
HOP = 160


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return CausalEncoder(SMALL, 16_000).eval()


@pytest.fixture
def wave():
    torch.manual_seed(1)
    envelope = 0.02 + torch.sin(torch.linspace(0, 12, 40 * HOP)).clamp_min(0.0)
    return 0.1 * torch.randn(2, 1, 40 * HOP) * envelope


@pytest.mark.parametrize("frame", [0, 7, 39])
def test_no_code_depends_on_the_future(encoder, wave, frame):
    wave = wave.requires_grad_()
    encoder(wave)[..., frame].sum().backward()
    assert not wave.grad[..., (frame + 1) * HOP :].any()
    assert wave.grad[..., frame * HOP : (frame + 1) * HOP].any()


def test_chunks_equal_the_whole(encoder, wave):
    state, parts = encoder.begin(2), []
    with torch.no_grad():
        whole = encoder.encode(wave)
        for chunk in wave.split([HOP, 5 * HOP, 2 * HOP, 32 * HOP], dim=-1):
            part, state = encoder.step(chunk, state)
            parts.append(part)
    for number, name in enumerate(whole._fields):
        assert_close(
            torch.cat([part[number] for part in parts], -1), whole[number], rtol=1e-4, atol=1e-5, msg=name
        )


@pytest.mark.parametrize(("gain_db", "offset"), [(-40.0, 0.0), (0.0, 0.003), (15.0, 0.05)])
def test_level_and_offset_do_not_matter(encoder, wave, gain_db, offset):
    with torch.no_grad():
        code = encoder(wave)
        moved = encoder(wave * 10 ** (gain_db / 20) + offset)
    # The first window still meets the offset's beginning.
    assert_close(moved[..., 4:], code[..., 4:], rtol=2e-2, atol=2e-2)
