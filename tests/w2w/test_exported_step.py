"""The exported step and the ONNX engine equal the network's step for any chunks."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from engine.user_error import UserError
from w2w.converter import Converter
from w2w.exported.engine import OnnxEngine, network_key, open_engine
from w2w.exported.session import flat, nested
from w2w.exported.step import (
    MOST,
    ConvolutionsAsProducts,
    Step,
    checked,
    difference,
    require_equal,
)
from w2w.networks.network import ConverterNetwork

pytestmark = pytest.mark.usefixtures("graphs_made_once")
KINDS = ["today", "earlier"]


@pytest.mark.parametrize(("kind", "n_hops"), [("today", 2), ("earlier", 5), ("ahead", 2)])
def test_exported_step_equals_the_networks_step(built, kind, n_hops):
    step = Step(built(kind), n_hops)
    assert difference(step, step) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_graph_is_exact_over_speech_silence_and_clipping(built, graphs, kind, monkeypatch):
    """The graph uses float64 where the network does: an error in the last bit of F0 adds up in the phase."""
    network = built(kind)
    OnnxEngine(network, (2,))  # makes the graph
    monkeypatch.setattr("w2w.exported.step.SECONDS", 1.5)
    assert checked(Step(network, 2), (graphs / f"{network_key(network)}-2.onnx").read_bytes()) < 1e-5


def test_no_state_changes_its_shape_or_type(built):
    network = built()
    begun = network.begin(1)
    _, after = network.step(torch.randn(1, 1, 320), torch.zeros(1, network.voice_dim), begun)
    kinds = [{name: (t.shape, t.dtype) for name, t in flat(state).items()} for state in (begun, after)]
    assert kinds[0] == kinds[1]
    assert flat(nested(begun, flat(after))).keys() == flat(after).keys()


@pytest.mark.parametrize(
    "options",
    [
        {"weight": (6, 4, 1)},
        {"weight": (6, 4, 5), "dilation": (3,)},
        {"weight": (6, 4, 8), "stride": (4,)},
        {"weight": (4, 1, 5), "dilation": (2,), "groups": 4},
    ],
    ids=["points", "dilated", "strided", "each channel"],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_as_products_are_convolutions(options, bias):
    x, weight = torch.randn(2, 4, 23), torch.randn(options["weight"])
    rest = {name: value for name, value in options.items() if name != "weight"}
    arguments = (x, weight, torch.randn(len(weight)) if bias else None)
    with ConvolutionsAsProducts():
        product = F.conv1d(*arguments, **rest)
    assert_close(product, F.conv1d(*arguments, **rest), rtol=1e-4, atol=1e-5)


def test_check_detects_a_wrong_weight(built):
    step = Step(built(), 2)
    wrong = copy.deepcopy(step)
    assert wrong.network.decoder.head.bands.bias is not None
    wrong.network.decoder.head.bands.bias.mul_(1.1)
    found = difference(step, wrong)
    assert found > MOST
    with pytest.raises(UserError, match="differs from the network"):
        require_equal(found, "the graph")
    with pytest.raises(UserError, match="nothing was written"):
        require_equal(math.inf, "the graph")  # what no number counts as


@pytest.mark.parametrize("kind", KINDS)
def test_engine_equals_the_network_for_any_step_sizes(built, buzz, kind):
    network = built(kind)
    engine, wave = OnnxEngine(network, (2,)), buzz(160 * 14)[:1]  # what is left over is the network's own
    voice, state, parts, start = network.style(wave), engine.begin(1), [], 0
    for hops in (2, 1, 5, 0, 4, 2):
        made, state = engine.step(wave[..., start : start + 160 * hops], voice, state, 2.0)
        parts.append(made)
        start += 160 * hops
    with torch.no_grad():  # in the graph's precision
        plain, after = network.step(wave, voice, network.begin(1), 2.0)
    assert_close(torch.cat(parts, dim=-1), plain, rtol=0, atol=1e-5)
    for name, tensor in flat(after).items():
        assert_close(torch.from_numpy(state[name]), tensor, rtol=1e-4, atol=1e-4)


def test_batches_and_gradients_use_the_network_itself(built, buzz):
    network = built()
    engine, waves = OnnxEngine(network, (2,)), buzz(640)
    voices = network.style(buzz(8_000))
    made, _ = engine.step(waves, voices, engine.begin(2))
    assert_close(made, network.step(waves, voices, network.begin(2))[0], rtol=0, atol=1e-5)
    source = waves[:1].clone().requires_grad_()
    engine.step(source, voices[:1], engine.begin(1))[0].sum().backward()
    assert source.grad is not None


def test_graphs_of_two_sizes_agree_for_seconds(built, buzz):
    """Float32 rounding that depends on the number of frames must not reach the pitch."""
    network, wave = built(), buzz(16_000 * 6, noise=0.01)[:1]
    voice, made = network.style(wave[..., :16_000]), []
    for size in (1, 2):
        engine = OnnxEngine(network, (size,))
        made.append(engine.step(wave, voice, engine.begin(1))[0])
    assert_close(*made, rtol=0, atol=1e-5)


def test_stream_by_graphs_equals_the_whole_while_the_voice_and_pitch_change(built, buzz):
    converter, wave = Converter(built()), buzz(16_000)[:1]
    hers, his = (converter.embed(buzz(8_000)[n : n + 1]) for n in (0, 1))
    made = []
    for engine in ("onnx", "eager"):
        live, parts = converter.stream(hers, 320, engine=engine), []
        for number, chunk in enumerate(wave.split(301, dim=-1)):
            if number == 11:
                live.change(his, semitones=3.0, over_ms=45.0)
            parts.append(live.push(chunk))
        made.append(torch.cat([*parts, live.flush()], dim=-1))
    assert_close(*made, rtol=0, atol=1e-5)


def test_state_can_be_resumed_and_does_not_grow(built, buzz):
    network, wave = built(), buzz(480)[:1]
    engine, voice = OnnxEngine(network, (1,)), network.style(buzz(8_000)[:1])
    begun = engine.begin(1)
    _, kept = engine.step(wave[..., :160], voice, begun)
    first, after = engine.step(wave[..., 160:320], voice, kept)
    engine.step(wave[..., 320:], voice, kept)
    again, _ = engine.step(wave[..., 160:320], voice, kept)
    assert torch.equal(again, first)
    assert {n: a.nbytes for n, a in after.items()} == {n: a.nbytes for n, a in begun.items()}
    assert all(isinstance(array, np.ndarray) for array in after.values())


def test_networks_without_an_exportable_step_are_refused(tiny, built):
    with pytest.raises(UserError, match="whole utterance"):
        Step(ConverterNetwork(tiny("offline")), 1)
    with pytest.raises(UserError, match="at least 1"):
        Step(built(), 0)
    assert open_engine(built(), "eager", (2,)) is built()
    with pytest.raises(UserError, match="choose eager or onnx"):
        open_engine(built(), "tensorrt", (2,))
