"""The learned F0 tracker: causal, exact in chunks, trained on labels of non-causal trackers."""

import json
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.audio import save
from pretrain import f0
from pretrain.pitch import labels
from pretrain.pitch.labels import label
from pretrain.pitch.network import LearnedPitchTracker, PitchNetworkConfig, load_pitch_tracker

HOP = 160


@pytest.fixture
def tracker():
    torch.manual_seed(0)
    return LearnedPitchTracker(PitchNetworkConfig(n_channels=16, n_blocks=2)).double().eval()


def test_chunks_equal_the_whole(tracker, buzz):
    wave = torch.cat([buzz(3200), 0.05 * torch.randn(2, 1, 1600), buzz(1600, (90.0, 300.0))], dim=-1)
    state, parts = tracker.begin(2), []
    for start, stop in pairwise([0, HOP, 5 * HOP, 21 * HOP, wave.shape[-1]]):
        pitch, state = tracker.step(wave[..., start:stop], state)
        parts.append(torch.cat(pitch, dim=1))
    assert_close(torch.cat(parts, dim=-1), torch.cat(tracker(wave), dim=1), rtol=0, atol=1e-9)


def test_no_frame_depends_on_the_future(tracker, buzz):
    wave, frame = buzz(30 * HOP, (130.0,)), 17
    other = wave.clone()
    other[..., frame * HOP :] = torch.randn(1, 1, wave.shape[-1] - frame * HOP)
    a, b = (torch.cat(tracker(w), dim=1)[..., : frame + 1] for w in (wave, other))
    assert_close(a[..., :frame], b[..., :frame], rtol=0, atol=1e-9)
    assert not torch.equal(a[..., frame], b[..., frame])


def test_gradients_reach_the_network_but_not_the_wave(tracker, buzz):
    wave = buzz(3200).requires_grad_()
    logits, _ = tracker.logits(wave, tracker.begin(2))
    (logits.bins.logsumexp(1).sum() + logits.voicing.sum()).backward()
    assert wave.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tracker.parameters())


@pytest.mark.parametrize("f0", [80.0, 120.0, 200.0, 330.0])
@pytest.mark.parametrize("level_db", [0.0, -40.0])
def test_released_tracker_finds_f0_at_any_level(buzz, f0, level_db):
    tracker = load_pitch_tracker("released")
    pitch = tracker(10 ** (level_db / 20) * buzz(16_000, (f0,)))
    semitones = 12 * (pitch.log_f0[0, 0, 20:] - math.log(f0)) / math.log(2.0)
    assert semitones.median().abs() < 0.5
    assert (semitones.abs() < 1.0).float().mean() > 0.9


def test_released_tracker_finds_noise_and_silence_unvoiced():
    tracker = load_pitch_tracker("released")
    for wave in (torch.zeros(1, 1, 16_000), 0.1 * torch.randn(1, 1, 16_000)):
        assert (tracker(wave).voicing[..., 20:] > 0.5).float().mean() < 0.1


def test_labels_have_f0_weight_and_voicing(buzz):
    pytest.importorskip("pyworld", reason="pyworld is not installed: pip install 'timbre[pitch]'")
    pytest.importorskip("swift_f0", reason="swift-f0 is not installed: pip install 'timbre[pitch]'")
    wave = torch.cat([buzz(16_000, (150.0,), noise=0.001), 1e-4 * torch.randn(1, 1, 16_000)], dim=-1)
    log_f0, weight, voicing = label(wave[0, 0].numpy(), PitchNetworkConfig())
    assert log_f0.shape == (200,)
    assert np.abs(np.exp(log_f0[10:90]) / 150.0 - 1).max() < 0.06
    assert voicing[10:90].mean() > 0.8 > 0.3 > voicing[115:].mean()
    assert weight[10:90].mean() > 0.8


def fake_label(wave, network):
    """A constant F0."""
    n_frames = len(wave) // network.hop
    return np.stack([np.full(n_frames, math.log(140.0)), np.ones(n_frames), np.ones(n_frames)]).astype(
        np.float32
    )


class OneProcess:
    """A process pool that works in this process."""

    def __init__(self, **_):
        self.map = lambda f, items, chunksize: map(f, items)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def train_f0(tmp_path, buzz, monkeypatch):
    """Return a function that trains on two buzzes with constant labels and returns the run."""
    for name in ("a", "b"):
        save(tmp_path / "speech" / f"{name}.wav", buzz(16_000, (140.0,)), 16_000)
    monkeypatch.setattr(labels, "label", fake_label)
    monkeypatch.setattr(labels, "trackers", lambda: None)
    monkeypatch.setattr(labels, "ProcessPoolExecutor", OneProcess)

    def run(*options):
        words = f"f0.py --data.path {tmp_path / 'speech'} --loop.out {tmp_path / 'run'}".split()
        monkeypatch.setattr(sys, "argv", [*words, *options])
        f0.main()
        return tmp_path / "run"

    return run


def test_command_learns_and_exports_a_constant_pitch(train_f0, buzz):
    run = train_f0("--preset", "tiny", "--loop.steps", "60", "--optim.warmup-steps", "2", "--ema", "0.5")
    assert json.loads((run / "export" / "config.json").read_text())["kind"] == "pitch_tracker"
    found = load_pitch_tracker(run)(buzz(8_000, (140.0,))).log_f0[..., 20:].exp()
    assert (found / 140.0 - 1).abs().max() < 0.1


def test_labels_of_other_recordings_are_refused(train_f0, buzz, tmp_path, capsys):
    train_f0("--preset", "tiny")
    save(tmp_path / "speech" / "c.wav", buzz(8_000, (120.0,)), 16_000)
    with pytest.raises(SystemExit):
        train_f0("--preset", "tiny", "--loop.steps", "8")
    assert "labels of other recordings" in capsys.readouterr().err
