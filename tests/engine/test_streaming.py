"""Streaming layers: chunks equal the whole, and outputs do not depend on the future."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close

from engine.streaming import CausalConv1d
from w2w.baselines.cluit_mel.blocks import CausalTransposedConv1d

TIME = 60
sizes = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 7),
        "dilation": st.integers(1, 4),
        "stride": st.integers(1, 5),
        "groups": st.sampled_from([1, 2]),
        "normed": st.booleans(),
    }
)


def build(kind, kernel, dilation, stride, groups, normed):
    if kind == "down":
        span = (kernel - 1) * dilation + 1
        layer = CausalConv1d(2, 4, kernel, min(stride, span), dilation=dilation, groups=groups)
    else:
        layer = CausalTransposedConv1d(2, 4, max(kernel, stride), stride)
    return weight_norm(layer) if normed else layer


@pytest.mark.parametrize("kind", ["down", "up"])
@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(0, TIME), max_size=12), size=sizes, length=st.integers(0, TIME))
def test_chunks_equal_the_whole(kind, cuts, size, length):
    layer, wave = build(kind, **size), torch.randn(2, 2, length)
    edges = sorted([0, *(min(c, length) for c in cuts), length])  # repeated edges make empty chunks
    past, parts = layer.begin(batch=2), []
    for start, stop in pairwise(edges):
        out, past = layer.step(wave[..., start:stop], past)
        parts.append(out)
    assert_close(torch.cat(parts, dim=-1), layer(wave), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["down", "up"])
@settings(deadline=None, max_examples=40)
@given(t=st.integers(0, 9), size=sizes)
def test_outputs_do_not_depend_on_the_future(kind, t, size):
    layer, wave = build(kind, **size), torch.randn(1, 2, TIME, requires_grad=True)
    out = layer(wave)
    out[..., t].square().sum().backward()
    last = {"down": (t + 1) * layer.stride[0] - 1, "up": t // layer.stride[0]}[kind]
    assert wave.grad is not None
    assert not wave.grad[..., last + 1 :].any()
    assert wave.grad[..., : last + 1].any()


@settings(deadline=None, max_examples=30)
@given(size=sizes, length=st.integers(1, TIME))
def test_output_length_is_the_number_of_complete_blocks(size, length):
    wave = torch.randn(1, 2, length)
    down, up = build("down", **size), build("up", **size)
    assert down(wave).shape[-1] == length // down.stride[0]
    assert up(wave).shape[-1] == length * up.stride[0]


def test_layers_that_would_skip_input_are_refused():
    with pytest.raises(ValueError, match="skip"):
        CausalConv1d(1, 1, 2, 3)
    with pytest.raises(ValueError, match="gaps"):
        CausalTransposedConv1d(1, 1, 2, 3)


def test_gradients_pass_through_the_state():
    conv, wave = CausalConv1d(1, 1, 3), torch.randn(1, 1, 8, requires_grad=True)
    _, past = conv.step(wave[..., :4], conv.begin(1))
    conv.step(wave[..., 4:], past)[0].sum().backward()
    assert wave.grad is not None
    assert wave.grad[..., 2:].all()
    assert not wave.grad[..., :2].any()
