"""Cached generation equals the parallel network for every output, conditioning and sampling method."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from vocoders.wavenet import generation
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw, encode, predicted, silence
from vocoders.wavenet.generation import generate
from vocoders.wavenet.layers import ContextConfig
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig
from vocoders.wavenet.prediction import Predictor
from vocoders.wavenet.sampling import Draws, Sampler, draw, noise

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


def random_network(**options) -> WaveNet:
    network = WaveNet(replace(TINY, **options)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network.requires_grad_(False)


def inputs_of(network: WaveNet, batch: int = 2, n_samples: int = N) -> dict:
    config = network.config
    return {
        "local": torch.randn(batch, config.local.n, n_samples // config.local.hop) if config.local else None,
        "speaker": torch.arange(batch) if config.global_ else None,
    }


def delayed(output, wave):
    target = encode(output, wave)
    return torch.nn.functional.pad(target[..., :-1], (1, 0), value=silence(output))


@pytest.mark.parametrize("conditions", CONDITIONS, ids=lambda c: "+".join(c) or "none")
def test_samples_are_drawn_from_the_parallel_networks_outputs(conditions, monkeypatch):
    """For every output and conditioning: the outputs given the drawn samples, with the same uniforms."""
    monkeypatch.setattr(generation, "AT_ONCE", 32)  # blocks of two frames
    for number, output in enumerate(OUTPUTS):
        network = random_network(output=output, kernel=2 + number % 2, **conditions)
        if not isinstance(output, MuLaw):  # small scales, so that few samples are clipped
            network.last_conv_layers[3].bias[-output.n :] = -3.0
        features, uniforms = inputs_of(network), noise(output, Draws(4, 2).next(N))
        for backend in BACKENDS:
            wave = generate(network, **features, n_samples=N, n=2, seed=4, backend=backend)
            parameters = network(delayed(output, wave), **features)
            expected = [draw(output, parameters[..., t], uniforms[:, t], torch.ones(2)) for t in range(N)]
            samples = encode(output, wave) if isinstance(output, MuLaw) else wave[:, 0]
            off = (samples - torch.stack(expected, dim=1)).abs() > 1e-4
            assert off.sum() <= 2  # uniforms that rounding puts on the other side of a step
            assert isinstance(output, MuLaw) or (wave.abs() < 1).float().mean() > 0.2


@pytest.mark.parametrize("way", WAYS)
def test_backends_draw_the_same_samples(way):
    """For every output: equal classes, and amplitudes equal to rounding."""
    for output in OUTPUTS:
        network = random_network(output=output, **EVERYTHING)
        if not isinstance(output, MuLaw):  # else rounding errors grow by feedback
            network.last_conv_layers[3].parametrizations.weight.original0.data.mul_(0.05)
        voiced = torch.arange(10)[None].expand(2, -1) % 3 > 0 if WAYS[way].needs_voicing else None
        arguments = {**inputs_of(network, n_samples=80), "sampler": WAYS[way], "voiced": voiced, "seed": 3}
        torchs, compiled = (generate(network, **arguments, backend=backend) for backend in BACKENDS)
        assert_close(compiled, torchs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("output", OUTPUTS[:4], ids=str)
def test_argmax_samples_are_the_parallel_networks_likeliest(output):
    network = random_network(output=output, local=TRANSPOSED)
    features = inputs_of(network)
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
    network = random_network(local=local, output=MuLaw(levels=16), context=CONTEXT)
    features = inputs_of(network, n_samples=96)
    whole = generate(network, **features, seed=1, backend=backend)
    monkeypatch.setattr(generation, "AT_ONCE", 16)  # a frame for each of two rows
    assert (generate(network, **features, seed=1, backend=backend) == whole).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_rows_equal_single_rows(backend):
    network = random_network(local=TRANSPOSED, output=MuLaw(levels=16))
    local = inputs_of(network, batch=3)["local"]
    together = generate(network, local, seed=5, backend=backend)
    assert (together[:1] == generate(network, local[:1], seed=5, backend=backend)).all()
    assert (together[:2] == generate(network, local[:2], seed=5, backend=backend)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_prediction_is_added_to_the_means(backend):
    network = random_network(output=Gaussian())
    coefficients, ones = torch.randn(2, 3, 4) * 0.2, torch.ones(2, 1, 4)
    predictor, sampler = Predictor(coefficients, ones, N // 4), Sampler(way="argmax")
    wave = generate(network, n_samples=N, n=2, sampler=sampler, predictor=predictor, backend=backend)
    parameters = network(delayed(Gaussian(), wave))
    expected = torch.zeros(2, 1, N)
    for t in range(N):
        for k in range(min(3, t)):
            expected[:, 0, t] += coefficients[:, k, t // 10] * wave[:, 0, t - 1 - k]
    means = predicted(Gaussian(), parameters, expected, torch.ones_like(expected))[:, :1]
    assert_close(wave, means.clamp(-1, 1), atol=1e-5, rtol=0)


def test_voiced_argmax_is_argmax_only_in_voiced_frames():
    network = random_network(output=MuLaw(levels=16), local=REPETITION)
    features = inputs_of(network, batch=1)
    voiced = torch.tensor([[True, True, False, False, False]])
    sampler = Sampler(way="voiced_argmax")
    wave = generate(network, **features, sampler=sampler, voiced=voiced, backend="torch")
    likeliest = network(delayed(network.config.output, wave), **features).argmax(1)
    same = encode(network.config.output, wave) == likeliest
    assert same[:, :16].all()
    assert not same[:, 16:].all()
    with pytest.raises(UserError, match="voiced"):
        generate(network, **features, sampler=sampler)


def test_user_errors_are_refused():
    network = random_network(local=TRANSPOSED)
    with pytest.raises(UserError, match="needs local features"):
        generate(network, n_samples=8)
    with pytest.raises(UserError, match="channels"):
        generate(network, torch.zeros(1, 4, 5))
    with pytest.raises(UserError, match="empty"):
        generate(network, torch.zeros(1, 3, 0))
    with pytest.raises(UserError, match="speaker"):
        generate(network, torch.zeros(1, 3, 5), torch.tensor([0]))
