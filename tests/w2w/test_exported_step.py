"""The step written as a graph is the network's step: every head, every frontend, any number of hops."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from w2w.exported.checking import MOST, difference, require_equal
from w2w.exported.spectra import inverse, transform
from w2w.exported.step_graph import StepGraph
from w2w.networks.network import ConverterNetwork


@pytest.fixture(autouse=True)
def _short_checks(monkeypatch):
    monkeypatch.setattr("w2w.exported.checking.SECONDS", 0.5)


@pytest.fixture
def built(tiny):
    """Build a tiny network whose weights are far enough from their start to matter."""

    def build(head="harmonic", frontend="mel", **changes) -> ConverterNetwork:
        torch.manual_seed(3)
        network = ConverterNetwork(tiny(head, frontend, **changes)).eval().requires_grad_(False)
        for parameter in network.content.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for parameter in network.decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        return network

    return build


def stepped(graph: StepGraph):
    """The graph as `difference` runs it."""

    def run(chunk, voice, semitones, state):
        wave, *after = graph(chunk, voice, semitones, *state.values())
        return wave, dict(zip(state, after))

    return run


@pytest.mark.parametrize("n_hops", [2, 5])
@pytest.mark.parametrize("head", ["harmonic", "istft", "transposed"])
def test_the_graph_is_the_network(built, head, n_hops):
    network = built(head)
    graph = StepGraph(network, n_hops)
    assert difference(network, stepped(graph), graph.begun, n_hops) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{"frontend": "conv"}, {"sample_rate": 24_000}, {"sample_rate": 8_000, "look_ahead_ms": 0.0}],
    ids=["convolutions on samples", "24 kHz", "8 kHz"],
)
def test_it_is_so_for_other_frontends_and_rates(built, changes):
    network = built(**changes)
    graph = StepGraph(network, 2)
    assert difference(network, stepped(graph), graph.begun, 2) < 1e-5


def test_it_is_so_without_a_mean(built, tiny):
    network = built(content=replace(tiny().content, time_constant=0.0))
    graph = StepGraph(network, 1)
    assert difference(network, stepped(graph), graph.begun, 1) < 1e-5


def test_a_wrong_weight_is_found_by_the_check(built):
    network = built()
    graph = StepGraph(network, 2)
    graph.speaking.blocks.widen_1.mul_(1.1)
    found = difference(network, stepped(graph), graph.begun, 2)
    assert found > MOST
    with pytest.raises(UserError, match="differs from the network"):
        require_equal(found, "the graph")


def test_no_number_is_the_worst_difference(built):
    network = built()
    graph = StepGraph(network, 2)
    graph.speaking.head.bands_bias.fill_(torch.nan)
    with pytest.raises(UserError, match="nothing was written"):
        require_equal(difference(network, stepped(graph), graph.begun, 2), "the graph")


@pytest.mark.parametrize(("n_samples", "n_fft"), [(512, 512), (160, 512), (3, 8)])
def test_matrices_transform_as_fft_does(n_samples, n_fft):
    rows = torch.randn(4, n_samples)
    spectrum = torch.fft.rfft(rows, n=n_fft)
    real, imaginary = (rows @ transform(n_samples, n_fft)).chunk(2, dim=1)
    assert_close(torch.complex(real, imaginary), spectrum, rtol=1e-4, atol=1e-4)
    back = torch.cat([real, imaginary], dim=1) @ inverse(n_fft)
    assert_close(back[:, :n_samples], rows, rtol=1e-4, atol=1e-5)


def test_what_has_no_step_is_refused_in_a_sentence(tiny):
    with pytest.raises(UserError, match="adain"):
        StepGraph(ConverterNetwork(tiny(norm="adain")), 1)
    with pytest.raises(UserError, match="at least 1"):
        StepGraph(ConverterNetwork(tiny()), 0)
