"""A frozen recogniser in place of the content encoder's mels."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from engine.checkpoint import export, save_weights
from engine.user_error import UserError
from pretrain.moonshine import MoonshineConfig, MoonshineEncoder, load_moonshine
from w2w.converter import Converter
from w2w.networks import whole_content
from w2w.networks.network import ConverterNetwork
from w2w.networks.whole_content import conditioned, frozen_recogniser
from w2w.pretrained import PretrainedConfig, with_encoders
from w2w.train import build
from w2w.train_config import TINY

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "encoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Moonshine with random weights, laid out as the published one."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("moonshine")
    config = SIZES | {"model_type": "moonshine", "partial_rotary_factor": 0.9, "rope_theta": 10_000.0}
    (folder / "config.json").write_text(json.dumps(config))
    encoder = MoonshineEncoder(MoonshineConfig.from_published(config))
    save_weights(encoder.state_dict(), folder / "encoder.safetensors")
    return folder


@pytest.fixture
def network(tiny, folder):
    return ConverterNetwork(tiny(recogniser=str(folder))).eval()


def test_codes_depend_only_on_the_recogniser(network, buzz):
    """Energy and level come from mels, codes from the frozen states at each frame's middle."""
    wave = buzz(16_000)
    with torch.no_grad():
        hidden = network.content.hidden(wave)
        states = network.content.frozen[0](conditioned(wave, 16_000))
    assert hidden.shape == (2, 24, 100)
    # Frame t stands for the samples before (t + 1) hops, less 8 ms: states every 384 samples from 447 on.
    place = ((50 * 160 + 79.5 - 128) - 447) / 384
    low, share = int(place), place - int(place)
    expected = states[..., low] * (1 - share) + states[..., low + 1] * share
    assert_close(hidden[..., 50], expected, rtol=0, atol=1e-4)
    assert not any("frozen" in name or "encoder." in name for name in network.state_dict())


def test_gradients_reach_the_code_and_not_the_recogniser(network, buzz):
    network.requires_grad_().train()
    wave = buzz(6_400)
    content = network.encode(wave, wave).content
    content.code.square().sum().backward()
    assert network.content.stem.weight.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in network.content.frozen[0].parameters())


def test_encoder_uses_the_whole_utterance_and_does_not_stream(network, buzz):
    assert not network.streams
    source = buzz(8_000)
    other = torch.cat([source[..., :4_000], buzz(4_000, (90.0, 300.0))], dim=-1)
    with torch.no_grad():
        code, changed = (network.content.encode(wave).code[..., :20] for wave in (source, other))
    assert not torch.allclose(code, changed, atol=1e-3)
    converter = Converter(network)
    with pytest.raises(UserError, match="released_live"):
        converter.stream(converter.embed(source[:1]))


@pytest.mark.parametrize("db", [-50.0, -20.0, 0.0])
def test_level_and_offset_do_not_change_the_states(network, buzz, db):
    wave = buzz(16_000, (120.0,))
    with torch.no_grad():
        code = network.content.encode(wave).code
        changed = network.content.encode(10 ** (db / 20) * wave + 0.2).code
    assert torch.nn.functional.cosine_similarity(code, changed, dim=1)[:, 5:-5].min() > 0.98
    level = conditioned(wave, 16_000).square().mean().sqrt()
    assert -25 < 20 * math.log10(float(level)) < -22


def test_pieces_equal_the_whole_and_are_lazy(network, buzz, monkeypatch):
    converter, source = Converter(network), buzz(16_000 * 5, (130.0,))
    voice = converter.embed(source)
    pieces = list(converter.pieces(source.split(7_000, dim=-1), voice))
    assert len(pieces) > 1
    assert_close(torch.cat(pieces, dim=-1), converter.convert(source, voice))
    assert sum(piece.shape[-1] for piece in pieces) == source.shape[-1]
    monkeypatch.setattr(whole_content, "WHOLE_S", 2.0)
    monkeypatch.setattr(whole_content, "PIECE_S", 1.5)
    monkeypatch.setattr(whole_content, "CONTEXT_S", 0.5)
    assert converter.convert(source, voice).shape == source.shape


@pytest.mark.parametrize(("rate", "samples"), [(8_000, 12_345), (44_100, 30_001), (48_000, 50_000)])
def test_result_is_as_long_as_the_source_at_any_rate(network, buzz, rate, samples):
    converter = Converter(network)
    source, voice = buzz(samples, (130.0,), rate), converter.embed(buzz(16_000, (130.0,)))
    assert converter.convert(source, voice, sample_rate=rate).shape == source.shape


def test_mean_f0_is_known_from_the_start(network, buzz):
    """A source that is low at first and high later is shifted by its overall mean from the start."""
    low, high = buzz(24_000, (110.0,)), buzz(24_000, (180.0,))
    converter = Converter(network)
    voice = converter.embed(high)
    source = torch.cat([low, high], dim=-1)
    known = converter.source_log_f0(source)
    assert known is not None
    assert_close(converter.convert(source, voice), converter.convert(source, voice, source_log_f0=known))
    assert not torch.allclose(
        converter.convert(source, voice)[..., :20_000],
        converter.convert(source, voice, source_log_f0=known + 0.3)[..., :20_000],
        atol=1e-3,
    )


def test_long_initial_silence_does_not_hide_the_mean_f0(network, buzz):
    converter, speech = Converter(network), buzz(32_000, (180.0,))
    late = torch.cat([torch.zeros(1, 1, 70 * 16_000), speech], dim=-1)
    known = converter.source_log_f0(late)
    assert known == pytest.approx(converter.source_log_f0(speech), abs=0.02)


def test_recogniser_is_loaded_from_the_configured_folder(network, folder, tmp_path, buzz):
    export(tmp_path / "mine", network.config, network)
    loaded = Converter.from_pretrained(tmp_path / "mine")
    source = buzz(8_000, (130.0,))
    voice = loaded.embed(source)
    assert_close(loaded.convert(source, voice), Converter(network).convert(source, voice))
    config = json.loads((tmp_path / "mine/config.json").read_text())
    (tmp_path / "mine/config.json").write_text(json.dumps(config | {"recogniser": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="gone"):
        Converter.from_pretrained(tmp_path / "mine")


def test_conflicting_encoders_are_refused(tiny):
    with pytest.raises(UserError, match="not both"):
        tiny("offline", recogniser="moonshine")
    with pytest.raises(UserError, match="content_ahead_ms"):
        tiny("ahead", recogniser="moonshine")
    with pytest.raises(UserError, match=r"recogniser_layers=\[1\] needs a recogniser"):
        tiny(recogniser_layers=(1,))
    with pytest.raises(UserError, match=r"pretrained\.student"):
        with_encoders(tiny(recogniser="moonshine"), PretrainedConfig(student="released"))


def test_moonshine_needs_no_transformers(folder, monkeypatch):
    for name in ("transformers", "pretrain.teachers"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it now says that there is none
    assert frozen_recogniser(str(folder)).dim == SIZES["hidden_size"]


def test_states_equal_the_teachers(folder, buzz):
    from pretrain.teachers import load_teacher

    wave = buzz(8_000)
    assert_close(load_moonshine(folder)(wave), load_teacher(folder)(wave))


def test_earlier_layers_follow_the_last_states(folder, tiny, buzz):
    wave, network = buzz(8_000), ConverterNetwork(tiny(recogniser=str(folder), recogniser_layers=(1,)))
    last, both = load_moonshine(folder)(wave), load_moonshine(folder, (1,))(wave)
    assert both.shape[1] == 48
    assert_close(both[:, :24], last)
    encoder = load_moonshine(folder).network
    encoder.layers, encoder.layer_norm = encoder.layers[:1], torch.nn.Identity()
    first = torch.nn.functional.layer_norm(encoder(wave[:, 0]), (24,))
    assert_close(both[:, 24:], first.transpose(1, 2))
    assert_close(network.content.frozen[0](wave), both)


def test_layers_that_do_not_exist_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"layers 1 to 2.*\[0, 3\]"):
        frozen_recogniser(str(folder), (0, 3))
    with pytest.raises(UserError, match="recogniser_layers must be empty"):
        frozen_recogniser(str(tmp_path), (1,))


def test_training_begins_with_added_layers_without_effect(folder, tiny, tmp_path, buzz):
    """Further layers do not change a stored converter's output at first, and are trained."""
    stored = ConverterNetwork(tiny(recogniser=str(folder))).eval()
    export(tmp_path, stored.config, stored)

    def task(*layers):
        config = replace(TINY, teacher="", converter=tiny(recogniser=str(folder), recogniser_layers=layers))
        task = build(replace(config, init=str(tmp_path), loop=replace(config.loop, out=tmp_path / "run")))
        return task.converter

    wider, wave = task(1).train(), buzz(8_000)
    code = wider.encode(wave, wave).content.code
    assert_close(code, stored.encode(wave, wave).content.code)
    code.square().mul(torch.rand_like(code)).sum().backward()
    assert wider.content.stem.weight.grad[:, 24:].abs().max() > 0
    export(tmp_path, wider.config, wider)
    with pytest.raises(UserError, match=r"encodes the layers \[1\].*is \[2, 1\]"):
        task(2, 1)
