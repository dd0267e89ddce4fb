"""The compiled WaveNet says what the parallel network says, and draws what its distributions ask for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("numba")

from vocoders.cpu import wavenet as kernel
from vocoders.cpu.wavenet_packing import Packed, pack
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw, predicted, silence, split
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig

SMALL = WaveNetConfig(layers=6, stacks=2, residual=8, gate=12, skip=10, output=MuLaw(levels=32))
LOCAL = LocalConfig(n=5, scales=(2, 5), pad=0)
MANY = {
    "μ-law": SMALL,
    "two taps": replace(SMALL, kernel=2),
    "local": replace(SMALL, local=LOCAL),
    "global": replace(SMALL, global_=GlobalConfig(n_speakers=3, dim=4)),
    "both": replace(SMALL, local=LOCAL, global_=GlobalConfig(n_speakers=3, dim=4)),
    "logistics": replace(SMALL, output=MixtureOfLogistics(n=3)),
    "one logistic": replace(SMALL, output=MixtureOfLogistics(n=1)),
    "gaussian": replace(SMALL, output=Gaussian(), kernel=2, local=LOCAL),
    "gaussians": replace(SMALL, output=Gaussian(n=4)),
    "wide": replace(SMALL, layers=4, residual=40, gate=152, skip=64),
    "far apart": replace(SMALL, layers=6, stacks=1),
}


def packed(network: WaveNet) -> Packed:
    """The network's weights, folded or not."""

    def weight(name: str) -> np.ndarray:
        module, _, parameter = name.rpartition(".")
        return getattr(network.get_submodule(module), parameter).detach().numpy()

    classes = isinstance(network.config.output, MuLaw)
    return pack(weight, dilations=network.config.dilations, classes=classes)


class Given:
    """A network whose weights are alive, packed, and what conditions two utterances of it."""

    def __init__(self, config: WaveNetConfig, n_samples: int = 100, batch: int = 2) -> None:
        self.config, self.network = config, WaveNet(config).eval()
        for parameter in self.network.parameters():
            torch.nn.init.normal_(parameter, std=0.4) if parameter.dim() == 1 else parameter.data.mul_(1.5)
        self.packed = packed(self.network)
        self.local = torch.randn(batch, 5, n_samples // 10) if config.local else None
        self.speaker = torch.arange(batch) if config.global_ else None
        conditioning = self.network.conditioning(self.local, self.speaker, n_samples)
        self.conditioning = conditioning.expand(batch, -1, -1).mT.detach().numpy()
        self.classes = isinstance(config.output, MuLaw)

    def parallel(self, samples: np.ndarray) -> torch.Tensor:
        """The network's outputs, given all samples but the last as the past."""
        first = np.full_like(samples[:, :1], silence(self.config.output))
        x = torch.from_numpy(np.concatenate([first, samples[:, :-1]], axis=1))
        x = x.long() if self.classes else x[:, None]
        with torch.no_grad():
            return self.network(x, self.local, self.speaker)

    def begin(self, order: int = 0) -> kernel.State:
        return kernel.begin(self.packed, len(self.conditioning), silence(self.config.output), order)


def inputs_for(config: WaveNetConfig, batch: int, n_samples: int) -> np.ndarray:
    """Any past."""
    random = np.random.default_rng(1)
    if isinstance(config.output, MuLaw):
        return random.integers(config.output.levels, size=(batch, n_samples)).astype(np.float32)
    return random.uniform(-1, 1, (batch, n_samples)).astype(np.float32)


@pytest.mark.parametrize("name", MANY)
def test_outputs_equal_the_parallel_network(name):
    given = Given(MANY[name])
    past = inputs_for(given.config, 2, 100)
    state = given.begin()
    inputs = np.concatenate([state.previous[:, None], past[:, :-1]], axis=1)
    outputs, _ = kernel.logits(given.packed, given.conditioning, inputs, state)
    assert_close(torch.from_numpy(outputs).mT, given.parallel(past), rtol=0, atol=1e-5)


def noise_for(batch: int, n_samples: int, kind: str = "normal") -> np.ndarray:
    random = np.random.default_rng(2)
    uniform = random.random((batch, n_samples))
    other = random.logistic(size=uniform.shape) if kind == "logistic" else random.normal(size=uniform.shape)
    return np.stack([uniform, other], axis=-1).astype(np.float32)


def drawn(probabilities: torch.Tensor, uniform: np.ndarray) -> torch.Tensor:
    """The class where the distribution function passes the uniform."""
    passed = probabilities.cumsum(1) > torch.from_numpy(uniform)[:, None] * probabilities.sum(1, keepdim=True)
    return passed.int().argmax(1)


def kept(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The likeliest classes, until together they reach ``top_p``."""
    order = probabilities.sort(dim=1, descending=True)
    enough = order.values.cumsum(1) - order.values >= top_p
    return torch.zeros_like(probabilities).scatter(1, order.indices, order.values.where(~enough, 0.0))


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.0, 1.0), (0.7, 1.0), (1.3, 0.8), ("now and then", 1.0)]
)
def test_classes_are_where_the_distribution_function_passes_the_uniform(temperature, top_p):
    n_samples = 2_000
    given, noise = Given(SMALL, n_samples), noise_for(2, n_samples)
    heat = np.full((2, 1), temperature if isinstance(temperature, float) else 1, np.float32)
    if temperature == "now and then":
        heat = np.random.default_rng(3).integers(2, size=(2, n_samples)).astype(np.float32)
    choice = kernel.Choice(temperature=heat, sharpness=np.ones((2, 1), np.float32), top_p=top_p)
    samples, _ = kernel.generate(given.packed, given.conditioning, noise, given.begin(), choice)
    outputs = given.parallel(samples).double()
    probabilities = (outputs / torch.from_numpy(heat)[:, None].clamp_min(1e-6)).softmax(1)
    expected = drawn(kept(probabilities, top_p), noise[..., 0])
    assert torch.equal(expected, torch.from_numpy(samples).long())
    assert temperature == 0 or len(np.unique(samples)) > 5


@pytest.mark.parametrize("name", ["logistics", "one logistic", "gaussian", "gaussians"])
@pytest.mark.parametrize("predicting", [False, "plainly", "with a gain"])
def test_amplitudes_are_drawn_from_the_component_that_the_uniform_picks(name, predicting):
    n_samples, order, hop = 600, 4, 50
    given, noise = Given(MANY[name], n_samples), noise_for(2, n_samples)
    noise[..., 1] *= 0.3
    sharpness = np.random.default_rng(3).uniform(0.2, 1, (2, n_samples)).astype(np.float32)
    lowest = given.config.output.log_scale_min
    choice = kernel.Choice(
        temperature=np.full((2, 1), 0.8, np.float32), sharpness=sharpness, lowest_log_scale=lowest
    )
    random = np.random.default_rng(4)
    prediction = kernel.Prediction(
        coefficients=random.uniform(-0.2, 0.2, (2, n_samples // hop, order)).astype(np.float32),
        hop=hop,
    )
    gains = np.ones((2, n_samples // hop), np.float32)
    if predicting == "with a gain":
        gains = random.uniform(0.5, 1, (2, n_samples // hop)).astype(np.float32)
        prediction = replace(prediction, gain=gains)
    samples, _ = kernel.generate(
        given.packed,
        given.conditioning,
        noise,
        given.begin(order if predicting else 0),
        choice,
        prediction=prediction if predicting else None,
    )
    outputs = given.parallel(samples)
    if predicting:
        before = np.pad(samples, ((0, 0), (order, 0)))
        windows = np.stack(
            [before[:, order - 1 - k : order - 1 - k + n_samples] for k in range(order)], axis=-1
        )
        expectation = (windows * prediction.coefficients.repeat(hop, axis=1)).sum(-1)
        gain = torch.from_numpy(gains.repeat(hop, axis=1))[:, None]
        outputs = predicted(given.config.output, outputs, torch.from_numpy(expectation)[:, None], gain)
    logits, means, log_scales = split(given.config.output, outputs)
    which = drawn((logits.double() / 0.8).softmax(1), noise[..., 0])[:, None]
    mean, log_scale = means.gather(1, which)[:, 0], log_scales.gather(1, which)[:, 0]
    expected = (mean + log_scale.exp() * torch.from_numpy(sharpness * noise[..., 1])).clamp(-1, 1)
    assert_close(torch.from_numpy(samples), expected, rtol=0, atol=2e-5)
    assert (expected.abs() < 1).float().mean() > 0.1


def test_blocks_of_any_length_equal_the_whole():
    n_samples = 150
    given, noise = Given(MANY["both"], n_samples), noise_for(2, n_samples)
    whole, _ = kernel.generate(
        given.packed, given.conditioning, noise, given.begin(), kernel.Choice.random(2)
    )
    state, parts, start = given.begin(), [], 0
    for stop in (1, 2, 7, 31, 32, 64, 99, 150):
        part = slice(start, stop)
        block, state = kernel.generate(
            given.packed, given.conditioning[:, part], noise[:, part], state, kernel.Choice.random(2)
        )
        parts.append(block)
        start = stop
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_utterances_together_equal_each_alone_whatever_their_lengths():
    lengths, n_samples = np.array([120, 7, 64, 120, 99, 1, 118]), 120
    config = replace(SMALL, local=LOCAL)
    given, noise = Given(config, n_samples, batch=7), noise_for(7, n_samples)
    together, _ = kernel.generate(
        given.packed, given.conditioning, noise, given.begin(), kernel.Choice.random(7), lengths=lengths
    )
    for row, length in enumerate(lengths):
        state = kernel.begin(given.packed, 1, silence(config.output))
        some = slice(row, row + 1), slice(0, length)
        alone, _ = kernel.generate(
            given.packed, given.conditioning[some], noise[some], state, kernel.Choice.random(1)
        )
        assert np.array_equal(alone[0], together[row, :length])
        assert not together[row, length:].any()


def test_constant_conditioning_may_be_given_once():
    given, noise = Given(MANY["global"]), noise_for(2, 100)
    choice = kernel.Choice.random(2)
    whole, _ = kernel.generate(given.packed, given.conditioning, noise, given.begin(), choice)
    once, _ = kernel.generate(given.packed, given.conditioning[:, :1], noise, given.begin(), choice)
    assert np.array_equal(once, whole)


def test_weight_norm_folded_or_not_packs_alike():
    given = Given(SMALL)
    folded = packed(given.network.fold())
    assert np.array_equal(folded.current, given.packed.current)
    assert np.array_equal(folded.out_skip, given.packed.out_skip)


def test_gates_are_those_of_the_standard_functions():
    from vocoders.cpu.wavenet_step import gate

    a, b = (torch.linspace(-40, 40, 4_001)[torch.randperm(4_001)] for _ in range(2))
    near = torch.linspace(-2, 2, 4_001)
    for value, opening in ((a, b), (near, near.flip(0)), (a, near)):
        z, nothing = np.zeros(4_001, np.float32), np.zeros(8_002, np.float32)
        gate(z, torch.cat([value, opening]).numpy(), 4_001, nothing, 4_001)
        expected = value.double().tanh() * opening.double().sigmoid()
        assert (torch.from_numpy(z) - expected).abs().max() < 1e-6


def test_a_machine_without_room_for_a_cache_compiles_anew(monkeypatch):
    from numba.core.dispatcher import Dispatcher

    from vocoders.cpu.wavenet_loop import loop

    def refuse(self):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(Dispatcher, "enable_caching", refuse)
    assert loop.__wrapped__().stats.cache_path is None
