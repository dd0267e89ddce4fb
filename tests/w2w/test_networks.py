"""The converter's networks: exact live, blind to the future, level and sign mean nothing to a voice."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from w2w.networks.content import ContentConfig, factors

from data.causal_mel import FLOOR, CausalLogMel, frame_energy
from engine.running_mean import BLOCK, RunningMean
from engine.user_error import UserError
from w2w.converter import Converter
from w2w.networks.network import ConverterConfig, ConverterNetwork, move
from w2w.networks.pitch import Pitch
from w2w.networks.style import StyleEncoder

HEADS, FRONTENDS = ["harmonic", "istft", "transposed"], ["mel", "conv"]
every_kind = pytest.mark.parametrize("frontend", FRONTENDS)
every_head = pytest.mark.parametrize("head", HEADS)


def voice(network, batch=2, seed=0):
    """Make up voices, at 180 Hz."""
    rng = torch.Generator().manual_seed(seed)
    timbre = torch.randn(batch, network.config.style.voice_dim - 1, generator=rng)
    return torch.cat([timbre, torch.full((batch, 1), math.log(180.0))], dim=-1)


def frame_end(sample, config):
    """Return the input before which an output sample must have heard all it hears."""
    return ((sample + config.look_ahead) // config.hop + 1) * config.hop


@every_head
@every_kind
def test_no_sample_hears_beyond_its_frame(tiny, buzz, head, frontend):
    config = tiny(head, frontend)
    network, source = ConverterNetwork(config), buzz(2400).requires_grad_()
    out = network(source, voice(network))
    assert out.shape == source.shape
    for sample in (0, 33, 700, 1151, 1152, 1311, 1400, 2100):
        (heard,) = torch.autograd.grad(out[..., sample].sum(), source, retain_graph=True)
        end = frame_end(sample, config)
        assert not heard[..., end:].any()
        if (sample + config.look_ahead) % config.hop:  # a window that begins at 0 hears nothing new there
            assert heard[..., end - config.hop : end].any()


@every_head
@every_kind
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_no_frame_knows_what_comes(tiny, buzz, head, frontend, rate):
    """The gradient does not see F0 and voicing; another future does."""
    config = tiny(head, frontend, sample_rate=rate)
    network, source = ConverterNetwork(config).eval(), buzz(20 * config.hop + 77, rate=rate)
    cut = 12 * config.hop
    other = source.clone()
    other[..., cut:] = buzz(source.shape[-1], (300.0, 90.0), rate)[..., cut:]
    with torch.no_grad():
        a, b = network(source, voice(network)), network(other, voice(network))
    assert frame_end(cut - config.look_ahead - 1, config) == cut
    known = cut - config.look_ahead
    assert_close(a[..., :known], b[..., :known], rtol=0, atol=1e-6)
    assert not torch.allclose(a[..., known:], b[..., known:], rtol=0, atol=1e-5)


@every_head
@every_kind
@settings(deadline=None, max_examples=5)
@given(cuts=st.lists(st.integers(1, 30), max_size=6, unique=True), semitones=st.floats(-4, 4))
def test_chunks_equal_the_whole(tiny, buzz, head, frontend, cuts, semitones):
    torch.manual_seed(0)
    network = ConverterNetwork(tiny(head, frontend)).eval()
    source, hop = buzz(31 * 160 - 128), network.config.hop
    assert network.streams
    with torch.inference_mode():
        led = network.lead(source)
        state, parts = network.begin(2), []
        edges = [0, *sorted(cut * hop for cut in cuts), led.shape[-1]]
        for start, stop in pairwise(edges):
            part, state = network.step(led[..., start:stop], voice(network), state, semitones)
            assert part.shape[-1] == stop - start
            parts.append(part)
        live = torch.cat(parts, dim=-1)[..., network.config.look_ahead :][..., : source.shape[-1]]
        assert_close(live, network(source, voice(network), semitones), rtol=0, atol=1e-5)


def test_instance_norm_hears_the_whole_and_refuses_to_stream(tiny, buzz):
    network, source = ConverterNetwork(tiny(norm="adain")), buzz(3200, (150.0,)).requires_grad_()
    assert not network.streams
    out = network(source, voice(network, 1))
    (heard,) = torch.autograd.grad(out[..., 100].sum(), source)
    assert heard[..., 2500:].any()
    with pytest.raises(UserError, match="adain"):
        Converter(network).stream(voice(network, 1))


@every_head
@every_kind
@pytest.mark.parametrize("norm", ["film", "adain"])
def test_every_parameter_learns(tiny, buzz, head, frontend, norm):
    network, source = ConverterNetwork(tiny(head, frontend, norm)), buzz(3200)
    target = torch.randn(source.shape)
    (network(source, network.style(source)) * target).sum().backward()
    idle = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    still = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.any()]
    assert (idle, still) == ([], [])


@settings(deadline=None, max_examples=8)
@given(samples=st.integers(1, 500), look_ahead_ms=st.sampled_from([0.0, 5.0, 8.0, 20.0]))
def test_the_result_is_as_long_as_the_source(tiny, samples, look_ahead_ms):
    network = ConverterNetwork(tiny("istft", look_ahead_ms=look_ahead_ms))
    with torch.no_grad():
        assert network(torch.randn(1, 1, samples), voice(network, 1)).shape == (1, 1, samples)


def test_f0_moves_to_the_voices_mean(buzz):
    log_f0 = torch.log(torch.tensor([[[100.0, 110.0, 121.0]]])).double()
    pitch = Pitch(log_f0, torch.ones_like(log_f0))
    target = torch.tensor([[0.3, math.log(220.0)]])
    moved = move(pitch, torch.full_like(log_f0, math.log(110.0)), target)
    assert_close(moved.log_f0.exp(), torch.tensor([[[200.0, 220.0, 242.0]]]).double(), rtol=1e-5, atol=0)
    higher = move(pitch, torch.full_like(log_f0, math.log(110.0)), target, semitones=12.0)
    assert_close(higher.log_f0.exp(), torch.tensor([[[400.0, 440.0, 484.0]]]).double(), rtol=1e-5, atol=0)
    highest = move(pitch, log_f0, target, semitones=60.0)
    assert_close(highest.log_f0.exp().max().item(), 600.0)


def test_hops_split_into_four_strides():
    assert factors(160) == [2, 4, 4, 5]
    assert factors(240) == [3, 4, 4, 5]
    with pytest.raises(UserError, match="multiple of 8 kHz"):
        ConverterConfig(sample_rate=22_050)


def test_windows_shorter_than_a_hop_are_refused():
    with pytest.raises(UserError, match="window_ms"):
        ConverterConfig(window_ms=5.0)


def test_analysis_of_a_tone_peaks_in_its_band_and_nowhere_later():
    analysis = CausalLogMel(16_000, 160, 512, 40)
    time = torch.arange(3200) / 16_000
    wave = 0.5 * torch.sin(2 * math.pi * 1000 * time)[None, None]
    mels = analysis(wave)
    assert mels.shape == (1, 40, 20)
    centre = 2595 * math.log10(1 + 1000 / 700) / (2595 * math.log10(1 + 8000 / 700)) * 41 - 1
    assert abs(mels[0, :, 10].argmax().item() - centre) < 1
    late = torch.cat([torch.zeros(1, 1, 1600), wave], dim=-1)
    assert_close(analysis(late)[..., :10], torch.full((1, 40, 10), math.log(FLOOR)), rtol=0, atol=1e-4)


def test_warping_by_one_changes_nothing_and_by_more_moves_formants_up():
    analysis, wave = CausalLogMel(16_000, 160, 512, 40), torch.randn(2, 1, 1600) * 0.1
    assert_close(analysis(wave, torch.ones(2)), analysis(wave))
    for warp in (0.8, 1.0, 1.25):
        bands = analysis._bands(torch.tensor([warp]))[0]
        assert bands.shape == (257, 40)
        assert_close(bands.sum(0), torch.ones(40))  # each band is a mean, whatever its width
        assert bands[-1, -1] < 0.01  # the Nyquist frequency stays where it is
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(3200) / 16_000)[None, None]
    low, high = (analysis(tone, torch.tensor([w]))[0, :, 10].argmax() for w in (1.2, 0.8))
    assert low < high


def test_frame_energy_is_the_log_of_the_mean_magnitude():
    mels = torch.log(torch.tensor([[[1.0], [2.0], [3.0]]]))
    assert_close(frame_energy(mels), torch.log(torch.tensor([[[2.0]]])))


def test_silence_has_gradients_that_are_finite(tiny):
    network, source = ConverterNetwork(tiny()), torch.zeros(1, 1, 1600, requires_grad=True)
    network(source, network.style(source)).square().sum().backward()
    assert source.grad is not None
    assert torch.isfinite(source.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@settings(deadline=None, max_examples=15)
@given(frames=st.integers(1, 2 * BLOCK + 5), cut=st.integers(1, 2 * BLOCK), constant=st.floats(2.0, 500.0))
def test_running_mean_is_a_discounted_mean_in_any_pieces(frames, cut, constant):
    mean = RunningMean(3, time_constant=constant, prior_frames=2.0).double()
    torch.nn.init.normal_(mean.prior)
    x, weight = torch.randn(2, 3, frames).double(), torch.rand(2, 1, frames).double()
    total, seen, expected = mean.prior[None] * 2.0, torch.full((2, 1, 1), 2.0).double(), []
    for t in range(frames):
        total = total * mean.keep + (x * weight)[..., t : t + 1]
        seen = seen * mean.keep + weight[..., t : t + 1]
        expected.append(total / seen)
    assert_close(mean(x, weight), torch.cat(expected, dim=-1))
    if cut < frames:
        first, state = mean.step(x[..., :cut], weight[..., :cut], mean.begin(2))
        second, _ = mean.step(x[..., cut:], weight[..., cut:], state)
        assert_close(torch.cat([first, second], dim=-1), mean(x, weight))


def test_a_voice_is_its_tokens_and_its_mean_f0(tiny, buzz):
    config = tiny()
    encoder = StyleEncoder(config.style, 16_000, 160, 512, 20).eval()
    wave = buzz(16_000, (120.0, 210.0))
    found = encoder(wave)
    assert found.shape == (2, config.style.voice_dim)
    assert_close(found[:, -1].exp(), torch.tensor([120.0, 210.0]), rtol=0.02, atol=0)
    assert_close(encoder(-wave), found, rtol=1e-4, atol=1e-5)
    assert_close(encoder(0.5 * wave), found, rtol=0.02, atol=0.02)
    padded = torch.cat([wave, torch.zeros(2, 1, 16_000)], dim=-1)  # pauses do not speak
    assert (encoder(padded) - found).norm() < 0.2 * (found[0] - found[1]).norm()


def test_the_code_is_of_unit_length_and_silence_short(tiny, buzz):
    network = ConverterNetwork(tiny())
    content = network.content(buzz(8000))
    length = content.code.square().sum(1).sqrt()
    assert (length <= 1.0).all()
    assert (length > 0.9).float().mean() > 0.8
    assert content.energy.shape == (2, 1, 50)


def test_the_mean_spectrum_is_taken_away(tiny, buzz):
    """A fixed equaliser, which a voice or a microphone may be, fades from what the code hears."""
    kept = ContentConfig(n_channels=16, n_blocks=1, time_constant=0.0)
    taken = replace(kept, time_constant=50.0)
    wave, changes = buzz(16_000, (120.0,)), []
    duller = torch.nn.functional.conv1d(wave, torch.tensor([[[0.5, 0.5]]]), padding=1)[..., :-1]
    for config in (kept, taken):
        torch.manual_seed(0)
        network = ConverterNetwork(tiny(content=config))
        code, other = network.content(wave).code, network.content(duller).code
        changes.append((code - other)[..., 50:].square().mean())
    assert changes[1] < 0.5 * changes[0]
