"""The trunk, a pretrained speech encoder inside the converter: sizes, alignment of frames, playback speed."""

import math
from dataclasses import fields

import pytest
import torch
from tiny_encoders import TRUNK
from torch.testing import assert_close

from pretrain.speech.encoder import Encoded, SpeechEncoderConfig
from w2w.networks.config import TrunkConfig
from w2w.networks.trunk import Trunk, interpolated, played


def test_trunk_config_has_every_size_of_the_encoder():
    dropped = {"dropout", "attention_dropout", "feature_dropout"}
    sizes = {f.name for f in fields(TrunkConfig)} - {"layer"}
    assert {f.name for f in fields(SpeechEncoderConfig)} - dropped == sizes
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in Trunk(TRUNK, 1, 16_000, 160).modules())


@pytest.mark.parametrize(("rate", "look_ahead"), [(16_000, 128), (16_000, 0), (24_000, 192)])
@pytest.mark.parametrize("speed", [None, 0.8, 1.25])
def test_frames_are_aligned_with_the_decoded_samples(monkeypatch, rate, look_ahead, speed):
    """An encoder that outputs its frames' times gives each frame the time of the samples decoded from it."""
    hop = rate // 100
    trunk = Trunk(TRUNK, 1, rate, hop, look_ahead)
    seen = trunk.encoder.config

    def times(wave, n_samples=None):
        frames = seen.frames(wave.shape[-1])
        middle = torch.arange(frames) * float(seen.hop) + (seen.receptive_field - 1) / 2
        count = frames if n_samples is None else seen.frames(int(n_samples[0]))
        valid = torch.arange(frames)[None] < count
        return Encoded([middle[None, :, None]], middle[None, :, None], valid)

    monkeypatch.setattr(trunk.encoder, "forward", times)
    monkeypatch.setattr(trunk, "_mixed", lambda features: features[-1].transpose(1, 2))
    warp = None if speed is None else torch.tensor([speed])
    heard = trunk(torch.zeros(1, 1, rate), warp)[0, 0]
    assert heard.shape == (100,)
    middle = (torch.arange(100) * hop + (hop - 1) / 2 - look_ahead) * 16_000 / rate
    inside = slice(4, 94)  # before the first frame's middle and after the last one's there is nothing to hear
    assert_close(heard[inside] * (speed or 1.0), middle[inside], rtol=0, atol=1e-2)


def test_interpolation_is_linear_and_clamped_to_valid_frames():
    hidden = torch.tensor([[[0.0, 10.0, 20.0, 99.0]]])
    place = torch.tensor([[-1.0, 0.0, 0.25, 1.5, 2.0, 3.0]])
    found = interpolated(hidden, place, torch.tensor([3]))
    assert_close(found, torch.tensor([[[0.0, 0.0, 2.5, 15.0, 20.0, 20.0]]]))


def test_wave_played_faster_is_shorter_and_higher():
    time = torch.arange(16_000) / 16_000
    wave = torch.sin(2 * math.pi * 500 * time).repeat(2, 1)[:, None]
    waves, lengths, speed = played(wave, torch.tensor([1.25, 0.8]))
    assert lengths.tolist() == [12_800, 20_000]
    assert_close(speed, torch.tensor([1.25, 0.8]))
    assert not waves[0, :, 12_800:].any()
    for row, length, hertz in zip(waves[:, 0], lengths.tolist(), (625, 400)):
        ideal = torch.sin(2 * math.pi * hertz * torch.arange(length) / 16_000)
        assert_close(row[:length], ideal, rtol=0, atol=1e-3)
    alone = played(wave[:1], torch.ones(1))[0]
    assert_close(alone, wave[:1], rtol=0, atol=1e-5)
