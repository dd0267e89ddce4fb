"""Streaming a two-stage converter at other rates and with a changing voice: exact for any chunks."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from vocoders.hifigan import V2_16K
from vocoders.vocoder import Vocoder, VocoderConfig
from w2w import Converter
from w2w.baselines.cluit_mel.network import CluitMelConfig, CluitMelNetwork
from w2w.baselines.two_stage import TwoStage


@pytest.fixture(scope="module")
def converter():
    """A tiny causal CLUIT on mels with a tiny HiFi-GAN."""
    torch.manual_seed(8)
    config = CluitMelConfig(n_channels=8, max_channels=16, style_dim=6, norm="frame", causal=True)
    vocoder = Vocoder(VocoderConfig(mel=config.mel, network=replace(V2_16K, channels=16))).eval()
    return Converter(TwoStage(CluitMelNetwork(config).eval(), vocoder))


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_chunks_equal_convert_at_any_rate(converter, buzz, rate):
    source, voice = buzz(9_001, f0=(130.0,), rate=rate), torch.randn(1, converter.network.voice_dim)
    live = converter.stream(voice, sample_rate=rate)
    made = torch.cat([*(live.push(chunk) for chunk in source.split(777, dim=-1)), live.flush()], dim=-1)
    assert made.shape == source.shape
    assert_close(made, converter.convert(source, voice, sample_rate=rate), rtol=0, atol=1e-5)


def test_voice_change_is_exact_for_any_chunks(converter, buzz):
    source, voices = buzz(16_000, f0=(130.0,)), torch.randn(2, 1, converter.network.voice_dim)
    results = []
    for chunk in (1_000, 4_000):
        live, parts = converter.stream(voices[0]), []
        for number, piece in enumerate(source.split(chunk, dim=-1)):
            if number == 4_000 // chunk:
                live.change(voices[1], over_ms=200.0)
            parts.append(live.push(piece))
        results.append(torch.cat([*parts, live.flush()], dim=-1))
    assert_close(*results, rtol=0, atol=1e-5)
    assert not torch.allclose(results[0], converter.convert(source, voices[0]), atol=1e-4)
