"""Cached generation is the parallel network, whatever the output, the conditioning, the way of sampling."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from vocoders.wavenet import generation
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw, encode, predicted, silence
from vocoders.wavenet.generation import generate, replay
from vocoders.wavenet.layers import ContextConfig
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig
from vocoders.wavenet.sampling import Sampler

TINY = WaveNetConfig(layers=4, stacks=2, residual=8, gate=12, skip=6)
TRANSPOSED = LocalConfig(n=3, scales=(2, 4), pad=1)
REPETITION = LocalConfig(n=3, upsampling="repetition", scales=(8,), pad=1)
SPEAKERS = GlobalConfig(n_speakers=4, dim=5)
CONTEXT = ContextConfig(factor=6, layers=2, residual=4)
OUTPUTS = [MuLaw(levels=16), MixtureOfLogistics(n=1), MixtureOfLogistics(n=3), Gaussian(), Gaussian(n=2)]
EVERYTHING = {"local": TRANSPOSED, "global_": SPEAKERS, "context": CONTEXT}
CONDITIONS = [
    {},
    {"local": TRANSPOSED},
    {"local": REPETITION, "global_": SPEAKERS},
    {"global_": SPEAKERS, "context": CONTEXT},
    EVERYTHING,
]
WAYS = {
    "random": Sampler(),
    "argmax": Sampler(way="argmax"),
    "voiced argmax": Sampler(way="voiced_argmax"),
    "mode": Sampler(way="mode"),
    "temperature": Sampler(temperature=0.7),
    "top-p": Sampler(temperature=1.2, top_p=0.8),
}
BACKENDS = ["torch", "numba"]
N = 40


def made(**options) -> WaveNet:
    network = WaveNet(replace(TINY, **options)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network.requires_grad_(False)


def given(network: WaveNet, batch: int = 2, n_samples: int = N) -> dict:
    config = network.config
    return {
        "local": torch.randn(batch, config.local.n, n_samples // config.local.hop) if config.local else None,
        "speaker": torch.arange(batch) if config.global_ else None,
    }


def delayed(output, wave):
    target = encode(output, wave)
    return torch.nn.functional.pad(target[..., :-1], (1, 0), value=silence(output))


@pytest.mark.parametrize("conditions", CONDITIONS, ids=lambda c: "+".join(c) or "none")
def test_cached_outputs_equal_the_parallel_ones(conditions, monkeypatch):
    monkeypatch.setattr(generation, "AT_ONCE", 32)  # blocks of two frames
    for number, output in enumerate(OUTPUTS):
        network = made(output=output, kernel=2 + number % 2, **conditions)
        x, features = delayed(output, torch.rand(2, 1, N) * 2 - 1), given(network)
        expected = network(x, **features)
        for backend in BACKENDS:
            assert_close(replay(network, x, **features, backend=backend), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_backends_draw_the_same_samples(way):
    """By every way of sampling, of every output: the same classes, and amplitudes but for rounding."""
    for output in OUTPUTS:
        network = made(output=output, **EVERYTHING)
        if not isinstance(output, MuLaw):  # or amplitudes feed back until roundings are heard: chaos
            network.last_conv_layers[3].parametrizations.weight.original0.data.mul_(0.05)
        voiced = torch.arange(10)[None].expand(2, -1) % 3 > 0 if WAYS[way].needs_voicing else None
        asked = {**given(network, n_samples=80), "sampler": WAYS[way], "voiced": voiced, "seed": 3}
        torchs, compiled = (generate(network, **asked, backend=backend) for backend in BACKENDS)
        assert_close(compiled, torchs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("output", OUTPUTS[:4], ids=str)
def test_generated_samples_are_those_the_parallel_network_would_draw(output):
    network = made(output=output, local=TRANSPOSED)
    features = given(network)
    wave = generate(network, **features, sampler=Sampler(way="argmax"), backend="torch")
    parameters = network(delayed(output, wave), **features)
    if isinstance(output, MuLaw):
        assert (encode(output, wave) == parameters.argmax(1)).all()
        return
    logits = parameters[:, : output.n] if output.n > 1 else torch.zeros(2, 1, N)
    means = parameters[:, -2 * output.n : -output.n].gather(1, logits.argmax(1, keepdim=True))
    assert_close(wave, means.clamp(-1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("local", [TRANSPOSED, REPETITION], ids=["transposed", "repetition"])
def test_blocks_equal_the_whole(local, backend, monkeypatch):
    network = made(local=local, output=MuLaw(levels=16), context=CONTEXT)
    features = given(network, n_samples=96)
    whole = generate(network, **features, seed=1, backend=backend)
    monkeypatch.setattr(generation, "AT_ONCE", 16)  # a frame for each of two rows
    assert (generate(network, **features, seed=1, backend=backend) == whole).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_batch_are_as_alone(backend):
    network = made(local=TRANSPOSED, output=MuLaw(levels=16))
    local = given(network, batch=3)["local"]
    together = generate(network, local, seed=5, backend=backend)
    assert (together[:1] == generate(network, local[:1], seed=5, backend=backend)).all()
    assert (together[:2] == generate(network, local[:2], seed=5, backend=backend)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_prediction_is_added_to_the_means(backend):
    network = made(output=Gaussian())
    coefficients = torch.randn(2, 3, 4) * 0.2
    wave = generate(
        network, n_samples=N, n=2, sampler=Sampler(way="argmax"), prediction=coefficients, backend=backend
    )
    parameters = network(delayed(Gaussian(), wave))
    expected = torch.zeros(2, 1, N)
    for t in range(N):
        for k in range(min(3, t)):
            expected[:, 0, t] += coefficients[:, k, t // 10] * wave[:, 0, t - 1 - k]
    means = predicted(Gaussian(), parameters, expected)[:, :1]
    assert_close(wave, means.clamp(-1, 1), atol=1e-5, rtol=0)


def test_voiced_samples_are_the_likeliest_and_others_random():
    network = made(output=MuLaw(levels=16), local=REPETITION)
    features = given(network, batch=1)
    voiced = torch.tensor([[True, True, False, False, False]])
    sampler = Sampler(way="voiced_argmax")
    wave = generate(network, **features, sampler=sampler, voiced=voiced, backend="torch")
    likeliest = network(delayed(network.config.output, wave), **features).argmax(1)
    same = encode(network.config.output, wave) == likeliest
    assert same[:, :16].all()
    assert not same[:, 16:].all()
    with pytest.raises(UserError, match="voiced"):
        generate(network, **features, sampler=sampler)


def test_mistakes_are_told():
    network = made(local=TRANSPOSED)
    with pytest.raises(UserError, match="needs local features"):
        generate(network, n_samples=8)
    with pytest.raises(UserError, match="channels"):
        generate(network, torch.zeros(1, 4, 5))
    with pytest.raises(UserError, match="empty"):
        generate(network, torch.zeros(1, 3, 0))
    with pytest.raises(UserError, match="speaker"):
        generate(network, torch.zeros(1, 3, 5), torch.tensor([0]))
