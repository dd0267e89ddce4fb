"""The released converter: whatever the code becomes, its weights load and speak as they did."""

import json

import torch
from torch.testing import assert_close

from engine.checkpoint import load_weights
from w2w import Converter
from w2w.earlier_format import upgraded_state
from w2w.weights import RELEASED

VOICE = [-0.19126485288143158, 2.5831055641174316, -2.133028507232666, -5.019944190979004]
SAMPLES = [
    -0.00537950498983264,
    0.01271467749029398,
    -0.00352752348408103,
    0.03134133666753769,
    0.0357186496257782,
    0.05511803925037384,
    0.05151691287755966,
]


def test_the_released_converter_speaks_as_it_did(buzz):
    """To the bit where it was written down; other processors round otherwise."""
    converter = Converter.from_pretrained()
    voice = converter.embed(buzz(16_000, (210.0,), noise=0.0))
    converted = converter.convert(buzz(8_000, (120.0,), noise=0.0), voice)
    assert_close(voice[0, :4], torch.tensor(VOICE), rtol=1e-4, atol=1e-4)
    assert_close(converted[0, 0, 1_000::1_000], torch.tensor(SAMPLES), rtol=1e-3, atol=1e-4)


def test_what_came_later_is_absent_from_it():
    """A new part of a network must not demand weights, nor settings, of a converter that never had it."""
    converter = Converter.from_pretrained()
    assert converter.network.streams
    stored = upgraded_state(load_weights(RELEASED / "model.safetensors"), converter.config.content.dim)
    assert set(converter.network.state_dict()) == set(stored)
    assert "trunk" not in json.loads((RELEASED / "config.json").read_text())["content"]
