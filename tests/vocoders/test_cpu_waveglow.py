"""The CPU plan of WaveGlow equals the network for any length and number of threads."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vocoders import cpu
from vocoders.cpu.waveglow import gate_steps
from vocoders.waveglow import WaveGlow, WaveGlowConfig

CONFIG = WaveGlowConfig(n_mels=4, n_flows=2, n_early_every=1, n_layers=4, n_channels=8, hop=8, window=20)


def network(config: WaveGlowConfig = CONFIG) -> WaveGlow:
    flow = WaveGlow(config)
    for coupling in flow.couplings:
        torch.nn.init.normal_(coupling.end.weight, std=0.02)
    return flow


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({}, 1),
        ({}, 7),
        ({}, 1027),
        ({"n_layers": 10}, 3),
        ({"n_layers": 10}, 2055),
        ({"n_channels": 16}, 1030),
        ({"n_channels": 12, "n_mels": 3}, 37),
    ],
)
def test_plan_equals_inverse_at_any_length(changes, frames):
    flow = network(replace(CONFIG, **changes))
    mel, noise = torch.randn(1, flow.n_mels, frames), torch.randn(1, 8, frames)
    assert cpu.plan(flow, mel) is not None
    expected = flow.inverse(mel, noise)
    assert_close(cpu.generate(flow, mel, noise, temperature=1.0), expected, rtol=1e-5, atol=4e-5)


def test_output_does_not_depend_on_the_number_of_threads():
    flow, mel, noise = (
        network(replace(CONFIG, n_channels=16)),
        torch.randn(1, 4, 4_100),
        torch.randn(1, 8, 4_100),
    )
    expected, n_threads = cpu.generate(flow, mel, noise), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_close(cpu.generate(flow, mel, noise), expected, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(n_threads)


def test_unsupported_kernels_and_types_run_in_torch():
    mel, noise = torch.randn(1, 4, 5), torch.randn(1, 8, 5)
    assert cpu.plan(network(), mel.double()) is None
    other = network(replace(CONFIG, kernel=5))
    assert cpu.plan(other, mel) is None
    assert torch.equal(cpu.generate(other, mel, noise), other.inverse(mel, other.latent(mel, noise)))


def test_plans_are_cached_and_networks_stay_copyable():
    flow, mel = network(), torch.randn(1, 4, 5)
    plan = cpu.plan(flow, mel)
    assert cpu.plan(flow, mel) is plan
    assert cpu.plan(copy.deepcopy(flow), mel) is not plan
    flow.load_state_dict(network().state_dict())
    again = cpu.plan(flow, mel)
    assert again is not plan
    assert cpu.plan(flow.fold(), mel) is not again


def test_gates_equal_tanh_times_sigmoid():
    rng = np.random.default_rng(0)
    pre = np.concatenate([rng.normal(size=(500, 16)) * 3, rng.normal(size=(12, 16)) * 300]).astype(np.float32)
    nothing = tuple(np.zeros((256, 8), np.float32) for _ in range(7))
    out = np.empty((512, 8), np.float32)
    gate_steps(pre, nothing, out)
    exact = np.tanh(pre[:, :8].astype(float)) / (1 + np.exp(-pre[:, 8:].astype(float).clip(-700)))
    np.testing.assert_allclose(out, exact, atol=5e-6)
    assert math.isclose(np.abs(out).max(), 1.0, abs_tol=1e-6)
