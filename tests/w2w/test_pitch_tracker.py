"""The F0 tracker: known pitches, silence, exact streaming, causality."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pretrain.pitch.tracker import DECAY, QUIET, PitchTracker, fading_peak, hold

HOP = 160


@pytest.mark.parametrize("rate", [16_000, 24_000])
@pytest.mark.parametrize("f0", [75.0, 110.0, 180.0, 260.0, 400.0])
def test_f0_is_found(buzz, f0, rate):
    pitch = PitchTracker(rate, rate // 100)(buzz(rate, (f0,), rate))
    settled = pitch.log_f0[0, 0, 10:]
    semitones = 12 * (settled - math.log(f0)) / math.log(2.0)
    assert semitones.abs().max() < 0.9  # the vibrato alone is half of one
    assert semitones.mean().abs() < 0.15
    assert (pitch.voicing[0, 0, 10:] > 0.5).all()


def test_f0_glide_is_tracked(buzz):
    time = torch.arange(24_000).double() / 16_000
    f0 = 100 * 2 ** (time / 1.5)  # an octave
    phase = 2 * math.pi * (f0 / 16_000).cumsum(0)
    wave = sum(torch.sin(k * phase + k) / k for k in range(1, 9))[None, None].float() * 0.1
    found = PitchTracker(16_000, HOP)(wave).log_f0[0, 0, 15:]
    # A frame's F0 is that of its window, which ends at the frame's end.
    expected = f0[HOP - 1 :: HOP].log()[15:]
    assert (12 * (found - expected) / math.log(2.0)).abs().max() < 0.6


@pytest.mark.parametrize("gain", [0.02, 0.3, 3.0])
def test_f0_does_not_depend_on_level(buzz, gain):
    wave, tracker = buzz(8000, (140.0,), noise=0.0), PitchTracker(16_000, HOP)
    assert_close(tracker(gain * wave).log_f0[..., 10:], tracker(wave).log_f0[..., 10:], rtol=0, atol=0.03)


def test_noise_and_silence_have_no_pitch(buzz):
    tracker = PitchTracker(16_000, HOP)
    noise = tracker(torch.randn(1, 1, 16_000) * 0.1)
    assert (noise.voicing > 0.5).float().mean() < 0.1
    silence = tracker(torch.zeros(1, 1, 16_000))
    assert (silence.voicing < 0.5).all()
    assert_close(silence.log_f0, torch.full_like(silence.log_f0, math.log(150.0)))
    hum = torch.cat([buzz(8000, (200.0,)), 0.002 * buzz(8000, (100.0,), noise=0.0)], dim=-1)
    pitch = tracker(hum)  # a faint hum in a pause: the last voiced value is held
    assert (pitch.voicing[..., 60:] < 0.5).all()
    assert (pitch.log_f0[..., 60:] - math.log(200.0)).abs().max() < 0.1


@settings(deadline=None, max_examples=12)
@given(cuts=st.lists(st.integers(1, 39), unique=True, max_size=10))
def test_pieces_equal_the_whole(buzz, cuts):
    torch.manual_seed(0)
    tracker = PitchTracker(16_000, HOP)
    wave = torch.cat([buzz(3200), 0.05 * torch.randn(2, 1, 1600), buzz(1600, (90.0, 300.0))], dim=-1)
    state, f0, voicing = tracker.begin(2), [], []
    for start, stop in pairwise([0, *(cut * HOP for cut in sorted(cuts)), wave.shape[-1]]):
        pitch, state = tracker.step(wave[..., start:stop], state)
        f0.append(pitch.log_f0)
        voicing.append(pitch.voicing)
    whole = tracker(wave)
    assert_close(torch.cat(f0, dim=-1), whole.log_f0, rtol=0, atol=1e-9)
    assert_close(torch.cat(voicing, dim=-1), whole.voicing, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=10)
@given(frame=st.integers(1, 29))
def test_tracker_is_causal(buzz, frame):
    tracker, wave = PitchTracker(16_000, HOP), buzz(30 * HOP, (130.0,))
    other = wave.clone()
    other[..., frame * HOP :] = torch.randn(1, 1, wave.shape[-1] - frame * HOP)
    a, b = tracker(wave), tracker(other)
    assert_close(a.log_f0[..., :frame], b.log_f0[..., :frame], rtol=0, atol=1e-9)
    assert_close(a.voicing[..., :frame], b.voicing[..., :frame], rtol=0, atol=1e-9)


def test_no_gradient_and_no_parameters(buzz):
    tracker = PitchTracker(16_000, HOP)
    assert not list(tracker.parameters())
    assert not tracker.state_dict()
    assert not tracker(buzz(1600).requires_grad_()).log_f0.requires_grad


@settings(deadline=None, max_examples=25)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_last_known_f0_is_held(known):
    values = torch.randn(1, len(known)).double()
    newest, expected = -7.0, []
    for value, sure in zip(values[0].tolist(), known):
        newest = value if sure else newest
        expected.append(newest)
    held = hold(values, torch.tensor([known]), torch.full((1, 1), -7.0).double())
    assert held[0].tolist() == expected


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(QUIET, 1))
def test_running_loudness_decays_slowly(power, before):
    loudest, expected = before, []
    for value in power:
        loudest = max(value, loudest * DECAY, QUIET)
        expected.append(loudest)
    found = fading_peak(torch.tensor([power]).double(), torch.tensor([[before]]).double())
    assert_close(found[0], torch.tensor(expected).double())


def test_real_speech_agrees_with_a_published_tracker(speech_pack):
    pyworld = pytest.importorskip("pyworld", reason="pyworld is not installed: pip install 'timbre[eval]'")
    from data.audio import audio_files, load

    files = audio_files(speech_pack)
    apart, agreed = [], []
    for path in files[:: max(1, len(files) // 3)][:3]:
        wave = load(path, 16_000)[..., : 3 * 16_000]
        f0, _ = pyworld.dio(wave[0, 0].double().numpy(), 16_000, f0_floor=60.0, f0_ceil=500.0)
        pitch = PitchTracker(16_000, HOP)(wave[..., : wave.shape[-1] // HOP * HOP])
        # Ours stands for the window before the frame's end, about 20 ms earlier at its middle.
        frames = torch.arange(pitch.log_f0.shape[-1])
        theirs = torch.from_numpy(f0)[((frames * 2) - 2).clamp(0, len(f0) - 1)]
        both = (theirs > 0) & (pitch.voicing[0, 0] > 0.5)
        apart.append((pitch.log_f0[0, 0] - theirs.clamp_min(1).log())[both].abs() * 12 / math.log(2.0))
        agreed.append((theirs > 0) == (pitch.voicing[0, 0] > 0.5))
    assert torch.cat(apart).median() < 0.5
    assert (torch.cat(apart) < 1.5).float().mean() > 0.85
    assert torch.cat(agreed).float().mean() > 0.7
