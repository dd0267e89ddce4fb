"""The harmonic-plus-noise head: exact in pieces, no latency, pulses at F0, position-addressed noise."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from w2w.networks.heads import Excitation, HarmonicNoiseHead, minimum_phase, overlap_add, white_noise

WIDTH, FRAMES = 32, 14


def curve(frames=FRAMES, batch=2, f0=150.0):
    return torch.full((batch, 1, frames), math.log(f0), dtype=torch.float64)


@pytest.mark.parametrize("rate", [16_000, 24_000])
@settings(deadline=None, max_examples=4)
@given(cuts=st.lists(st.integers(1, FRAMES - 1), unique=True, max_size=5))
def test_pieces_equal_the_whole(rate, cuts):
    hop = rate // 100
    layer = HarmonicNoiseHead(WIDTH, rate, hop).eval()
    features = torch.randn(2, WIDTH, FRAMES)
    log_f0 = curve() + 0.1 * torch.randn(2, 1, FRAMES).cumsum(-1)
    with torch.no_grad():
        whole, _ = layer.step(features, log_f0, layer.begin(2))
        assert whole.shape == (2, 1, FRAMES * hop)
        state, parts = layer.begin(2), []
        for start, stop in pairwise([0, *sorted(cuts), FRAMES]):
            part, state = layer.step(features[..., start:stop], log_f0[..., start:stop], state)
            parts.append(part)
    assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-5)


def test_head_is_causal_and_adds_no_latency():
    layer = HarmonicNoiseHead(WIDTH, 16_000, 160)
    features = torch.randn(1, WIDTH, FRAMES, requires_grad=True)
    wave, _ = layer.step(features, curve(batch=1), layer.begin(1))
    for frame in (0, 5, FRAMES - 1):
        block = wave[..., frame * 160 : (frame + 1) * 160]
        (heard,) = torch.autograd.grad(block.square().sum(), features, retain_graph=True)
        assert heard[..., frame].any()
        assert not heard[..., frame + 1 :].any()


def test_sharpness_deepens_formants_only_in_conversion_and_keeps_the_tilt():
    flat, sharp = (minimum_phase(80, 512, 16_000, share).chunk(2, dim=-1)[0].double() for share in (0.0, 0.5))
    place = torch.arange(80) / 79
    formants, tilt = torch.cos(2 * math.pi * 12 * place), 2.0 * torch.cos(math.pi * place)
    depth = [float((formants.double() @ spread).std()) for spread in (flat, sharp)]
    assert depth[1] > 1.15 * depth[0]
    assert_close(tilt.double() @ sharp, tilt.double() @ flat, rtol=0, atol=0.1)
    head = HarmonicNoiseHead(WIDTH, 16_000, 160, sharpness=0.5)
    plain = HarmonicNoiseHead(WIDTH, 16_000, 160)
    plain.load_state_dict(head.state_dict())
    features = torch.randn(1, WIDTH, FRAMES)
    learned, _ = head.step(features, curve(batch=1), head.begin(1))
    assert_close(learned, plain.step(features, curve(batch=1), plain.begin(1))[0], rtol=0, atol=0)
    converted, _ = head.step(features, curve(batch=1), head.begin(1), sharpen=True)
    assert (converted - learned).abs().max() > 1e-3


def test_flat_filters_pass_pulses_and_noise_unchanged():
    """With all gains 1, the head's output is the sum of pulses and noise, without delay."""
    head = HarmonicNoiseHead(WIDTH, 16_000, 160)
    torch.nn.init.zeros_(head.bands.weight)
    for gain in (1.0, 0.5):
        torch.nn.init.constant_(head.bands.bias, math.log(gain))
        wave, _ = head.step(torch.randn(1, WIDTH, FRAMES), curve(batch=1), head.begin(1))
        pulses, noise, _ = head.excitation.step(curve(batch=1), head.excitation.begin(1))
        expected = gain * (pulses + noise).flatten(1)
        # The first block fades in from silence.
        assert_close(wave[0, :, 160:], expected[:, 160:], rtol=0, atol=1e-3)


def test_filters_have_the_given_magnitudes_and_are_minimum_phase():
    n_bands, n_fft = 80, 512
    frequency = torch.linspace(0, 3, n_bands)
    drawn = torch.sin(frequency) - 0.5 * torch.cos(2 * frequency)
    log_gain, angle = (drawn @ minimum_phase(n_bands, n_fft, 16_000)).chunk(2)
    impulse = torch.fft.irfft(torch.polar(log_gain.exp(), angle), n=n_fft)
    energy = impulse.square()
    assert energy[:32].sum() > 0.99 * energy.sum()
    assert energy[n_fft // 2 :].sum() < 1e-3 * energy.sum()  # nothing before time zero, which would wrap
    assert_close(log_gain[0], drawn[0], rtol=0, atol=0.15)
    assert_close(log_gain[-1], drawn[-1], rtol=0, atol=0.15)
    assert (log_gain.max() - drawn.max()).abs() < 0.1


@settings(deadline=None, max_examples=12)
@given(f0=st.floats(55.0, 590.0), rate=st.sampled_from([16_000, 24_000]))
def test_pulses_have_unit_power_at_multiples_of_f0(f0, rate):
    excitation = Excitation(rate, rate // 100)
    log_f0 = curve(200, 1, f0)
    _, _, state = excitation.step(log_f0[..., :1], excitation.begin(1))  # gliding from 150 Hz ends here
    pulses, noise, _ = excitation.step(log_f0, state)
    wave = pulses.flatten().double()
    assert abs(wave.square().mean().item() - 1.0) < 0.1
    assert abs(wave.mean().item()) < 0.05
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave)).double()).abs()
    places = torch.fft.rfftfreq(len(wave), 1 / rate)
    distance = (places / f0 - (places / f0).round()).abs() * f0
    assert spectrum[distance < 3].square().sum() > 0.99 * spectrum.square().sum()
    assert abs(noise.square().mean().item() - 1.0) < 0.05


def test_noise_is_white_and_a_function_of_position():
    noise = white_noise(torch.arange(50_000)[None])[0]
    assert_close(white_noise(torch.tensor([[7, 40_000]]))[0], noise[[7, 40_000]])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.square().mean() - 1) < 0.02
    for lag in (1, 2, 160):
        assert abs((noise[lag:] * noise[:-lag]).mean()) < 0.02
    far = white_noise(torch.arange(2**40, 2**40 + 10)[None])
    assert torch.isfinite(far).all()


def test_training_randomises_phases_and_noise():
    head = HarmonicNoiseHead(WIDTH, 16_000, 160)
    features = torch.randn(1, WIDTH, FRAMES).expand(3, -1, -1)
    waves, _ = head.step(features, curve(batch=3), head.begin(3, random=True))
    assert not torch.allclose(waves[0], waves[1], atol=1e-4)
    again, _ = head.step(features, curve(batch=3), head.begin(3))
    assert_close(again[0], again[1])


@settings(deadline=None, max_examples=15)
@given(frames=st.integers(1, 6), hop=st.integers(1, 8), times=st.integers(1, 4))
def test_overlap_add_is_the_plain_sum(frames, hop, times):
    n_fft = hop * times
    blocks, tail = torch.randn(2, frames, n_fft), torch.randn(2, n_fft - hop)
    expected = torch.zeros(2, (frames - 1) * hop + n_fft)
    expected[:, : n_fft - hop] += tail
    for frame in range(frames):
        expected[:, frame * hop : frame * hop + n_fft] += blocks[:, frame]
    ready, rest = overlap_add(blocks, hop, tail)
    assert_close(torch.cat([ready[:, 0], rest], dim=-1), expected)
    assert ready.shape == (2, 1, frames * hop)
