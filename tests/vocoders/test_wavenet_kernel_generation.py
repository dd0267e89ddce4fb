"""The compiled loop and plain torch draw the same samples from the same seed, by every way of sampling."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("numba")

from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.context import ContextConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw
from vocoders.wavenet.generation import generate, replay
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig
from vocoders.wavenet.sampling import Sampler

SMALL = WaveNetConfig(layers=4, stacks=2, residual=8, gate=12, skip=10, output=MuLaw(levels=64))
WAYS = {
    "random": Sampler(),
    "argmax": Sampler(way="argmax"),
    "voiced argmax": Sampler(way="voiced_argmax"),
    "mode": Sampler(way="mode"),
    "temperature": Sampler(temperature=0.7),
    "top-p": Sampler(temperature=1.2, top_p=0.8),
}
OUTPUTS = {
    "μ-law": MuLaw(levels=64),
    "logistics": MixtureOfLogistics(n=3),
    "gaussian": Gaussian(),
    "gaussians": Gaussian(n=2),
}


def alive(config: WaveNetConfig) -> WaveNet:
    """A network with weights large enough to tell things apart."""
    network = WaveNet(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4) if parameter.dim() == 1 else parameter.data.mul_(1.3)
    if not isinstance(config.output, MuLaw):  # or amplitudes feed back until roundings are heard: chaos
        network.last_conv_layers[3].parametrizations.weight.original0.data.mul_(0.05)
    return network


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_both_backends_draw_the_same_samples(output, way):
    n_samples = 1_000 if output == "μ-law" and way == "random" else 200
    network = alive(replace(SMALL, output=OUTPUTS[output]))
    voiced = torch.arange(10)[None].expand(2, -1) % 3 > 0 if WAYS[way].needs_voicing else None
    torchs, compiled = (
        generate(network, None, None, n_samples, WAYS[way], 1, backend, 2, voiced=voiced)
        for backend in ("torch", "numba")
    )
    assert_close(compiled, torchs, rtol=0, atol=0 if output == "μ-law" else 1e-5)


@pytest.mark.parametrize(
    "config",
    [
        replace(
            SMALL, local=LocalConfig(n=5, scales=(4, 5), pad=0), global_=GlobalConfig(n_speakers=2, dim=3)
        ),
        replace(SMALL, context=ContextConfig(factor=24, layers=3, residual=6)),
        replace(SMALL, kernel=2, output=Gaussian(), context=ContextConfig(factor=16, layers=2, residual=4)),
    ],
    ids=["conditioned", "context", "two taps, context"],
)
def test_what_conditions_the_network_reaches_the_compiled_loop(config):
    n_samples, network = 200, alive(config)
    local = torch.randn(2, 5, 10) if config.local else None
    speaker = torch.arange(2) if config.global_ else None
    torchs, compiled = (
        generate(network, local, speaker, n_samples, seed=2, backend=backend, n=2)
        for backend in ("torch", "numba")
    )
    assert_close(compiled, torchs, rtol=0, atol=1e-4)
    x = torch.randint(64, (2, n_samples)) if isinstance(config.output, MuLaw) else torch.rand(2, 1, n_samples)
    with torch.no_grad():
        assert_close(
            replay(network, x, local, speaker, "numba"), network(x, local, speaker), rtol=0, atol=1e-5
        )


def test_linear_prediction_reaches_the_compiled_loop():
    network, n_samples = alive(replace(SMALL, output=Gaussian())), 400
    filters = torch.empty(2, 6, 8).uniform_(-0.2, 0.2)
    torchs, compiled = (
        generate(network, None, None, n_samples, seed=3, backend=backend, n=2, prediction=filters)
        for backend in ("torch", "numba")
    )
    assert_close(compiled, torchs, rtol=0, atol=1e-4)
