"""The released converters: their weights load and give the recorded output."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from engine.checkpoint import load_weights
from engine.config import from_json
from w2w import Converter
from w2w.networks.config import ConverterConfig
from w2w.networks.network import ConverterNetwork
from w2w.weights import RENAMED, upgraded_config, weights_folder

EXPECTED = {
    "released": (
        [-0.258471, -1.051275, -1.092789, -1.601276],
        [-0.00974, 0.021763, -0.081196, 0.020074, 0.120438, 0.035945, 0.132596],
    ),
    "released_live": (
        [-0.594687, -0.625459, -0.337407, -1.087148],
        [-0.071462, -0.032978, -0.036082, -0.04946, 0.022526, -0.05846, -0.044096],
    ),
}
"""First numbers of a voice, and every thousandth sample of a conversion."""


@pytest.mark.parametrize("name", EXPECTED)
def test_released_converters_give_the_recorded_output(name, buzz):
    """Up to the rounding of other processors."""
    converter = Converter.from_pretrained(name)
    numbers, samples = EXPECTED[name]
    voice = converter.embed(buzz(16_000, (210.0,), noise=0.0))
    converted = converter.convert(buzz(8_000, (120.0,), noise=0.0), voice)
    assert_close(voice[0, :4], torch.tensor(numbers), rtol=1e-3, atol=1e-3)
    assert_close(converted[0, 0, 1_000::1_000], torch.tensor(samples), rtol=1e-2, atol=2e-3)


def test_end_of_an_offset_gives_no_click(buzz):
    clip, offset = buzz(16_000, (210.0,)), torch.full((1, 1, 8_000), 0.3)
    whole, speaker = Converter.from_pretrained(), Converter.from_pretrained("released_live")
    live = speaker.stream(speaker.embed(clip), 320, engine="eager")
    for made in (
        whole.convert(offset, whole.embed(clip)),
        torch.cat([live.push(offset), live.flush()], dim=-1),
    ):
        assert float(made.unfold(-1, 1_600, 800).square().mean(-1).max()) < 10 ** (-60 / 10)


@pytest.mark.parametrize("name", EXPECTED)
def test_released_weights_fit_their_config(name, buzz):
    """The packaged weights have exactly the network's parameters."""
    converter = Converter.from_pretrained(name)
    assert converter.network.streams == (name == "released_live")
    if converter.network.streams:
        live = converter.stream(converter.embed(buzz(16_000, (210.0,))), 160, engine="eager")
        assert live.latency_ms == pytest.approx(18)
    path = weights_folder(name) / "model.safetensors"
    assert set(converter.network.state_dict()) == set(load_weights(path))
    assert path.stat().st_size < 16 * 2**20


def test_converter_with_absolute_levels_gives_the_recorded_output(buzz, tmp_path):
    """Exports from before levels were relative: other names, other sizes by default, codes of unit length."""
    earlier = {
        "frame_ms": 10.0,
        "n_mels": 20,
        "content": {"frontend": "mel", "n_channels": 8, "n_blocks": 2, "dim": 6},
        "style": {"n_channels": 8, "n_blocks": 1, "n_tokens": 2, "token_dim": 4},
        "decoder": {"head": "harmonic", "norm": "film", "n_channels": 16, "n_blocks": 2},
    }
    config = from_json(ConverterConfig, json.dumps(upgraded_config(earlier)), "earlier")
    network = ConverterNetwork(config).eval()
    state = network.state_dict()
    then = {name: tensor.clone() for name, tensor in state.items()}
    for before, now in RENAMED.items():
        moved = {before + name.removeprefix(now): then.pop(name) for name in state if name.startswith(now)}
        assert moved
        then |= moved
    then["decoder.stem.weight"][:, :6] *= 6**0.5
    save_file(then, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    converter, source = Converter.from_pretrained(tmp_path), buzz(8_000, (120.0,))
    voice = converter.embed(buzz(16_000, (210.0,)))
    with torch.inference_mode():
        assert_close(converter.convert(source, voice), network(source, voice), rtol=0, atol=1e-5)
