"""WaveGlow's rearranged generation: its filters and gates, any length, without its compiler, rebuilt."""

import copy
import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vocoders.cpu import waveglow as waveglow_fast
from vocoders.waveglow import WaveGlow, WaveGlowConfig

pytest.importorskip("numba", reason="the rearranged generation needs numba")
from vocoders.cpu import gates as kernels

CONFIG = WaveGlowConfig(n_mels=4, n_flows=2, n_early_every=1, n_layers=4, n_channels=8, hop=8, window=20)


def network(config: WaveGlowConfig = CONFIG) -> WaveGlow:
    made = WaveGlow(config)
    for coupling in made.couplings:
        torch.nn.init.normal_(coupling.end.weight, std=0.02)
    return made


@pytest.mark.parametrize(("n_layers", "frames"), [(4, 1), (4, 2), (4, 7), (4, 1027), (10, 3), (10, 2055)])
def test_any_length_equals_the_plain_equations(n_layers, frames):
    made = network(replace(CONFIG, n_layers=n_layers))
    mel, noise = torch.randn(1, 4, frames), torch.randn(1, 8, frames)
    assert waveglow_fast.suits(made, mel)
    assert_close(made.generate(mel, noise, 1.0), made.inverse(mel, noise), rtol=0, atol=2e-5)


def test_other_kernels_and_no_compiler_take_the_plain_equations(monkeypatch):
    mel, noise = torch.randn(1, 4, 5), torch.randn(1, 8, 5)
    assert not waveglow_fast.suits(network(replace(CONFIG, kernel=5)), mel)
    made = network()
    assert not waveglow_fast.suits(made, mel.double())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not waveglow_fast.suits(made, mel)
    assert torch.equal(made.generate(mel, noise, 1.0), made.inverse(mel, noise))


def test_plans_are_kept_while_weights_stay_and_leave_networks_copyable():
    made, mel = network(), torch.randn(1, 4, 5)
    made.generate(mel)
    plan = waveglow_fast.plan(made)
    made.generate(mel)
    assert waveglow_fast.plan(made) is plan
    twin = copy.deepcopy(made)
    assert waveglow_fast.plan(twin) is not plan
    made.load_state_dict(network().state_dict())
    assert waveglow_fast.plan(made) is not plan
    made.fold()
    assert waveglow_fast.plan(made).stamp == waveglow_fast.stamp(made)


def test_the_filter_is_winograds():
    x, taps = np.random.default_rng(0).normal(size=(6,)), np.random.default_rng(1).normal(size=(3,))
    out = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
    filtered = out @ ((kernels.INPUT @ x) * (kernels.WEIGHT @ taps))
    np.testing.assert_allclose(filtered, np.correlate(x, taps), atol=1e-6)


@pytest.mark.parametrize(("n_steps", "dilation"), [(40, 1), (40, 2), (37, 4), (3, 8)])
def test_inputs_are_transformed_with_zeros_beyond_the_ends(n_steps, dilation):
    x = np.random.default_rng(0).normal(size=(n_steps, 5)).astype(np.float32)
    whole, rest = divmod(n_steps, 4 * dilation)
    n_tiles = whole * dilation + min(rest, dilation)
    out = np.empty((6, n_tiles, 4), np.float32)
    kernels.transform_inputs(x, dilation, 0, out)
    padded = np.pad(x[:, :4], ((dilation, 6 * dilation), (0, 0)))
    for tile in range(n_tiles):
        block, phase = divmod(tile, dilation)
        six = padded[4 * block * dilation + phase :: dilation][:6]
        np.testing.assert_allclose(out[:, tile], kernels.INPUT @ six, atol=1e-5)


def test_gates_equal_tanh_times_sigmoid_to_float32():
    rng = np.random.default_rng(0)
    pre = np.concatenate([rng.normal(size=(500, 16)) * 3, rng.normal(size=(12, 16)) * 300]).astype(np.float32)
    nothing = tuple(np.zeros((256, 8), np.float32) for _ in range(7))
    out = np.empty((512, 8), np.float32)
    kernels.gate(pre, nothing, np.zeros(16, np.float32), out)
    exact = np.tanh(pre[:, :8].astype(float)) / (1 + np.exp(-pre[:, 8:].astype(float).clip(-700)))
    np.testing.assert_allclose(out, exact, atol=6e-7)
    assert math.isclose(np.abs(out).max(), 1.0, abs_tol=1e-6)
