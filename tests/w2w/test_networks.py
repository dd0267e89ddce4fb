"""The converter's networks: exact streaming, causality, invariance of voices to level and sign."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.causal_mel import FLOOR, CausalLogMel, frame_energy
from engine.streaming import BLOCK, RunningMean
from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoderConfig
from pretrain.pitch.tracker import Pitch, PitchTracker
from w2w.networks.config import ConverterConfig
from w2w.networks.network import ConverterNetwork, shift_pitch
from w2w.networks.style import StyleEncoder

every_kind = pytest.mark.parametrize("kind", ["today", "earlier", "ahead", "f0_ahead"])


def voice(network, batch=2, seed=0):
    """Random voices with a mean F0 of 180 Hz."""
    rng = torch.Generator().manual_seed(seed)
    timbre = torch.randn(batch, network.config.style.voice_dim - 1, generator=rng)
    return torch.cat([timbre, torch.full((batch, 1), math.log(180.0))], dim=-1)


def frame_end(sample, config):
    """Return the end of the input that an output sample may depend on."""
    return ((sample + config.look_ahead) // config.hop + 1) * config.hop


@every_kind
def test_output_samples_depend_on_their_look_ahead_only(tiny, buzz, kind):
    config = tiny(kind)
    network, source = ConverterNetwork(config), buzz(3200).requires_grad_()
    out = network(source, voice(network))
    assert out.shape == source.shape
    for sample in (0, 33, 700, 1151, 1152, 1311, 1400, 2100):
        (heard,) = torch.autograd.grad(out[..., sample].sum(), source, retain_graph=True)
        end = frame_end(sample, config)
        assert not heard[..., end:].any()
        if (sample + config.look_ahead) % config.hop:  # a window that begins at 0 hears nothing new there
            assert heard[..., end - config.hop : end].any()


@every_kind
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_features_are_causal(tiny, buzz, kind, rate):
    """F0 and voicing have no gradient, so the future input is changed instead."""
    config = tiny(kind, sample_rate=rate)
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


@every_kind
@settings(deadline=None, max_examples=5)
@given(cuts=st.lists(st.integers(1, 30), max_size=6, unique=True), semitones=st.floats(-4, 4))
def test_chunks_equal_the_whole(tiny, buzz, kind, cuts, semitones):
    torch.manual_seed(0)
    network = ConverterNetwork(tiny(kind)).eval()
    source, hop = buzz(31 * 160 - 128), network.config.hop
    assert network.streams
    with torch.inference_mode():
        led = network.pad_look_ahead(source)
        state, parts = network.begin(2), []
        edges = [0, *sorted(cut * hop for cut in cuts), led.shape[-1]]
        for start, stop in pairwise(edges):
            part, state = network.step(led[..., start:stop], voice(network), state, semitones)
            assert part.shape[-1] == stop - start
            parts.append(part)
        live = torch.cat(parts, dim=-1)[..., network.config.look_ahead :][..., : source.shape[-1]]
        assert_close(live, network(source, voice(network), semitones), rtol=0, atol=1e-5)


@every_kind
def test_every_parameter_receives_a_gradient(tiny, buzz, kind):
    network, source = ConverterNetwork(tiny(kind)), buzz(3200)
    if network.decoder.refiner is not None:  # its gates begin closed
        torch.nn.init.normal_(network.decoder.refiner.gate.weight, std=0.1)
    target = torch.randn(source.shape)
    (network(source, network.style(source)) * target).sum().backward()
    # The pitch predictor has a loss of its own.
    learned = {n: p for n, p in network.named_parameters() if p.requires_grad and "pitch_pred" not in n}
    assert [name for name, p in learned.items() if p.grad is None or not p.grad.any()] == []


@settings(deadline=None, max_examples=8)
@given(samples=st.integers(1, 500), look_ahead_ms=st.sampled_from([0.0, 5.0, 8.0, 20.0]))
def test_result_is_as_long_as_the_source(tiny, samples, look_ahead_ms):
    network = ConverterNetwork(tiny(look_ahead_ms=look_ahead_ms))
    with torch.no_grad():
        assert network(torch.randn(1, 1, samples), voice(network, 1)).shape == (1, 1, samples)


def test_content_ahead_affects_only_the_codes(tiny, buzz):
    """The same codes, three frames ahead of energy, level and F0."""
    network, ahead = ConverterNetwork(tiny()).eval(), ConverterNetwork(tiny("ahead")).eval()
    ahead.load_state_dict(network.state_dict())
    assert ahead.look_ahead == network.look_ahead + 3 * network.hop
    source = torch.nn.functional.pad(buzz(8000), (500, 0))
    with torch.no_grad():
        one, other = (net.encode(*[net.pad_look_ahead(source)] * 2) for net in (network, ahead))
    n_frames = one.content.code.shape[-1]
    assert_close(other.content.code[..., :n_frames], one.content.code, rtol=0, atol=1e-5)
    for late, early in (
        *zip(other.content[1:], one.content[1:]),
        *zip(other.pitch, one.pitch),
        (other.mean_log_f0, one.mean_log_f0),
    ):
        assert_close(late[..., 3 : 3 + n_frames], early, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["f0_ahead", "offline"])
def test_f0_with_look_ahead_is_aligned(tiny, buzz, kind):
    """Without delay, F0 is the tracker's output three frames later."""
    network = ConverterNetwork(tiny(kind, pitch=tiny("f0_ahead").pitch)).eval()
    padded = network.pad_look_ahead(buzz(6400))
    with torch.no_grad():
        told = network.pitch(torch.nn.functional.pad(padded, (0, 3 * network.hop), mode="replicate"))
        in_place = Pitch(*(part[..., 3:] for part in told))
        late = in_place if kind == "offline" else Pitch(*(part[..., :-3] for part in told))
        assert_close(network.encode(padded, padded).pitch.voicing, late.voicing)
        style = network.style
        assert_close(style.mean_log_f0(padded), style.mean_log_f0(padded, in_place), rtol=0, atol=1e-6)
        assert network(padded, voice(network)).shape == padded.shape


def test_f0_moves_to_the_voices_mean(buzz):
    log_f0 = torch.log(torch.tensor([[[100.0, 110.0, 121.0]]])).double()
    pitch = Pitch(log_f0, torch.ones_like(log_f0))
    target = torch.tensor([[0.3, math.log(220.0)]])
    moved = shift_pitch(pitch, torch.full_like(log_f0, math.log(110.0)), target)
    assert_close(moved.log_f0.exp(), torch.tensor([[[200.0, 220.0, 242.0]]]).double(), rtol=1e-5, atol=0)
    higher = shift_pitch(pitch, torch.full_like(log_f0, math.log(110.0)), target, semitones=12.0)
    assert_close(higher.log_f0.exp(), torch.tensor([[[400.0, 440.0, 484.0]]]).double(), rtol=1e-5, atol=0)
    highest = shift_pitch(pitch, log_f0, target, semitones=60.0)
    assert_close(highest.log_f0.exp().max().item(), 600.0)


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="multiple of 8 kHz"):
        ConverterConfig(sample_rate=22_050)
    with pytest.raises(UserError, match="content_ahead_ms"):
        ConverterConfig(content_ahead_ms=-1.0)
    with pytest.raises(UserError, match="window_ms"):
        CausalEncoderConfig(window_ms=5.0)


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


def test_gradients_of_silence_are_finite(tiny):
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
    keep = 1.0 - 1.0 / constant
    for t in range(frames):
        total = total * keep + (x * weight)[..., t : t + 1]
        seen = seen * keep + weight[..., t : t + 1]
        expected.append(total / seen)
    assert_close(mean(x, weight), torch.cat(expected, dim=-1))
    if cut < frames:
        first, state = mean.step(x[..., :cut], weight[..., :cut], mean.begin(2))
        second, _ = mean.step(x[..., cut:], weight[..., cut:], state)
        assert_close(torch.cat([first, second], dim=-1), mean(x, weight))


def test_voice_consists_of_tokens_and_mean_f0(tiny, buzz):
    config = tiny()
    encoder = StyleEncoder(config.style, 16_000, 160, 512, 20, PitchTracker(16_000, 160)).eval()
    wave = buzz(16_000, (120.0, 210.0))
    found = encoder(wave)
    assert found.shape == (2, config.style.voice_dim)
    assert_close(found[:, -1].exp(), torch.tensor([120.0, 210.0]), rtol=0.02, atol=0)
    assert_close(encoder(-wave), found, rtol=1e-4, atol=1e-5)
    assert_close(encoder(0.5 * wave), found, rtol=0.02, atol=0.02)
    padded = torch.cat([wave, torch.zeros(2, 1, 16_000)], dim=-1)  # pauses do not speak
    assert (encoder(padded) - found).norm() < 0.2 * (found[0] - found[1]).norm()


def test_code_has_mean_square_one_and_is_short_in_silence(tiny, buzz):
    network = ConverterNetwork(tiny())
    content = network.content.encode(buzz(8000))
    power = content.code.square().mean(1)
    assert (power <= 1.0 + 1e-5).all()
    assert (power > 0.9).float().mean() > 0.8
    assert content.energy.shape == (2, 1, 50)


def test_fixed_equaliser_fades_from_the_code(tiny, buzz):
    """The running mean of the spectrum is subtracted, so a voice's or microphone's equalisation vanishes."""
    network = ConverterNetwork(tiny(content=replace(tiny().content, time_constant=50.0)))
    wave = buzz(32_000, (120.0,))
    duller = torch.nn.functional.conv1d(wave, torch.tensor([[[0.5, 0.5]]]), padding=1)[..., :-1]
    change = (network.content(wave) - network.content(duller)).square().mean((0, 1))
    assert change[150:].mean() < 0.5 * change[2:12].mean()
