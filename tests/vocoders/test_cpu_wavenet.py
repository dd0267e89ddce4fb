"""WaveNet's compiled loop draws from the parallel network's distributions, in blocks of any length."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from vocoders import cpu
from vocoders.cpu import compiling
from vocoders.cpu.wavenet import pack
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw, predicted, silence, split
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig
from vocoders.wavenet.prediction import Predictor

SMALL = WaveNetConfig(layers=6, stacks=2, residual=8, gate=12, skip=10, output=MuLaw(levels=32))
LOCAL = LocalConfig(n=5, scales=(2, 5), pad=0)
BOTH = replace(SMALL, local=LOCAL, global_=GlobalConfig(n_speakers=7, dim=4))


class Given:
    """A network with large random weights, and the conditioning of some utterances."""

    def __init__(self, config: WaveNetConfig, n_samples: int = 100, batch: int = 2) -> None:
        self.config, self.network, self.batch = config, WaveNet(config).eval().requires_grad_(False), batch
        for parameter in self.network.parameters():
            torch.nn.init.normal_(parameter, std=0.4) if parameter.dim() == 1 else parameter.data.mul_(1.5)
        self.local = torch.randn(batch, 5, n_samples // 10) if config.local else None
        self.speaker = torch.arange(batch) if config.global_ else None
        static = self.network.static_gates(self.speaker, batch)[:, None]
        features = self.network.local_features(self.local, n_samples)
        if features is not None:
            weights = torch.cat([layer.conv1x1c.weight for layer in self.network.layers]).squeeze(-1)
            static = static + features.transpose(1, 2) @ weights.T
        self.conditioning = static.contiguous()

    def parallel(self, samples: Tensor) -> Tensor:
        """The network's outputs, given all samples but the last as the past."""
        x = torch.nn.functional.pad(samples[:, :-1], (1, 0), value=silence(self.config.output))
        return self.network(
            x if isinstance(self.config.output, MuLaw) else x[:, None], self.local, self.speaker
        )

    def draw(self, noise: Tensor, temperature: Tensor | None = None, top_p: float = 1.0, **options) -> Tensor:
        loop = cpu.sample_loop(self.network, self.batch, **options)
        temperatures = torch.ones(self.batch, 1) if temperature is None else temperature
        return loop.run(self.conditioning, noise, temperatures, top_p)


def noise_for(batch: int, n_samples: int, size: float = 1.0) -> Tensor:
    random = np.random.default_rng(2)
    uniform = random.random((batch, n_samples))
    return torch.from_numpy(np.stack([uniform, size * random.normal(size=uniform.shape)], axis=-1)).float()


def drawn(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The class where the distribution function passes the uniform."""
    passed = probabilities.cumsum(1) > uniform[:, None] * probabilities.sum(1, keepdim=True)
    return passed.int().argmax(1)


def kept(probabilities: Tensor, top_p: float) -> Tensor:
    """The likeliest classes, until together they reach ``top_p``."""
    order = probabilities.sort(dim=1, descending=True)
    enough = order.values.cumsum(1) - order.values >= top_p
    return torch.zeros_like(probabilities).scatter(1, order.indices, order.values.where(~enough, 0.0))


@pytest.mark.parametrize(
    ("changes", "temperature", "top_p"),
    [
        ({}, 1.0, 1.0),
        ({}, 0.0, 1.0),
        ({}, 0.7, 1.0),
        ({}, 1.3, 0.8),
        ({}, "alternating", 1.0),
        ({"layers": 4, "residual": 40, "gate": 152, "skip": 64}, 1.0, 1.0),
        ({"stacks": 1}, 1.0, 1.0),
        ({"kernel": 2, "gate": 130}, 1.0, 1.0),
    ],
)
def test_classes_are_drawn_by_inverting_the_parallel_networks_distribution(changes, temperature, top_p):
    n_samples = 2_000
    given, noise = Given(replace(SMALL, **changes), n_samples), noise_for(2, n_samples)
    temperatures = torch.full((2, 1), temperature if isinstance(temperature, float) else 1.0)
    if temperature == "alternating":
        temperatures = torch.randint(2, (2, n_samples)).float()
    samples = given.draw(noise, temperatures, top_p)
    probabilities = (given.parallel(samples).double() / temperatures[:, None].clamp_min(1e-6)).softmax(1)
    expected = drawn(kept(probabilities, top_p), noise[..., 0].double())
    assert (expected != samples).sum() <= 2  # a uniform that rounding puts on the other side of a step
    assert temperature == 0 or len(samples.unique()) > 5


@pytest.mark.parametrize("predicting", [False, True])
@pytest.mark.parametrize(
    "output", [MixtureOfLogistics(n=3), MixtureOfLogistics(n=1), Gaussian(), Gaussian(n=4)], ids=str
)
def test_amplitudes_are_drawn_from_the_component_that_the_uniform_picks(output, predicting):
    n_samples, order, hop = 600, 4, 50
    given, noise = Given(replace(SMALL, output=output), n_samples), noise_for(2, n_samples, size=0.3)
    temperatures = torch.rand(2, n_samples) * 0.8 + 0.2
    filters = torch.rand(2, order, n_samples // hop) * 0.4 - 0.2
    gains = torch.rand(2, 1, n_samples // hop) * 0.5 + 0.5
    samples = given.draw(
        noise, temperatures, predictor=Predictor(filters, gains, hop) if predicting else None
    )
    outputs = given.parallel(samples)
    if predicting:
        before = torch.nn.functional.pad(samples, (order, 0))
        windows = torch.stack([before[:, order - 1 - k :][:, :n_samples] for k in range(order)], dim=1)
        expectation = (windows * filters.repeat_interleave(hop, dim=-1)).sum(1, keepdim=True)
        outputs = predicted(output, outputs, expectation, gains.repeat_interleave(hop, dim=-1))
    logits, means, log_scales = split(output, outputs)
    which = drawn((logits.double() / temperatures[:, None]).softmax(1), noise[..., 0].double())[:, None]
    mean, log_scale = means.gather(1, which)[:, 0], log_scales.gather(1, which)[:, 0]
    expected = (mean + log_scale.exp() * temperatures * noise[..., 1]).clamp(-1, 1)
    off = (samples - expected).abs() > 1e-4  # but for uniforms on the border of two components
    assert off.sum() <= 2
    assert (expected.abs() < 1).float().mean() > 0.1


def test_blocks_of_any_length_equal_the_whole():
    n_samples, temperatures = 150, torch.ones(2, 1)
    given, noise = Given(BOTH, n_samples), noise_for(2, n_samples)
    loop, parts, cuts = cpu.sample_loop(given.network, 2), [], (0, 1, 2, 7, 31, 32, 64, 99, 150)
    for part in (slice(*cut) for cut in pairwise(cuts)):
        parts.append(loop.run(given.conditioning[:, part], noise[:, part], temperatures, 1.0))
    assert torch.equal(torch.cat(parts, dim=1), given.draw(noise))


def test_batch_rows_equal_single_utterances():
    given, noise = Given(BOTH, 120, batch=7), noise_for(7, 120)
    together = given.draw(noise)
    for row in range(7):
        some = slice(row, row + 1)
        loop = cpu.sample_loop(given.network, 1)
        alone = loop.run(given.conditioning[some].contiguous(), noise[some], torch.ones(1, 1), 1.0)
        assert torch.equal(alone, together[some])


def test_constant_conditioning_can_be_a_single_step():
    given, noise = Given(SMALL), noise_for(2, 100)
    once = given.draw(noise)
    given.conditioning = given.conditioning.expand(-1, 100, -1)
    assert torch.equal(given.draw(noise), once)


def test_packed_weights_do_not_depend_on_weight_norm():
    network = Given(SMALL).network
    before, after = pack(network), pack(network.fold())
    np.testing.assert_allclose(after.current, before.current, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.out_skip, before.out_skip, rtol=1e-5, atol=1e-6)


def test_kernels_compile_without_a_writable_cache(monkeypatch):
    from numba.core.dispatcher import Dispatcher

    def refuse(self):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(Dispatcher, "enable_caching", refuse)
    double = compiling.cached(lambda version: lambda x: 2 * x + 0 * version)
    assert double.stats.cache_path is None
    assert double(3) == 6
