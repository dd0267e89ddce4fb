"""Pretrained encoders inside the converter: alignment, frozen or fine-tuned, export."""

from dataclasses import replace

import pytest
import torch
from tiny_encoders import CLIP, SPEECH, TRUNK
from torch.testing import assert_close

from data.batches import Batch
from data.pairs import HumanAndPairs
from engine.checkpoint import export
from engine.optim import OptimConfig, Player
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoder
from pretrain.speech.encoder import SpeechEncoder
from w2w.converter import Converter
from w2w.networks import network as network_module
from w2w.networks import whole_content
from w2w.networks.network import ConverterNetwork
from w2w.networks.style import StyleConfig
from w2w.networks.trunk import PretrainedContent
from w2w.pretrained import GentlePlayer, PretrainedConfig, begin, with_encoders
from w2w.train import build
from w2w.train_config import TINY


@pytest.fixture(scope="module")
def ears(tmp_path_factory):
    """A speech encoder's export, with random weights."""
    torch.manual_seed(3)
    return str(export(tmp_path_factory.mktemp("ears"), SPEECH, SpeechEncoder(SPEECH)))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An audio encoder's export, with random weights and statistics."""
    torch.manual_seed(4)
    encoder = AudioEncoder(CLIP)
    for name, buffer in encoder.named_buffers():
        if "running_var" in name:
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return str(export(tmp_path_factory.mktemp("clip"), CLIP, encoder))


@pytest.fixture
def hearing(tiny):
    """A tiny converter's config with a speech encoder in it."""

    def config(layer=0, **changes):
        return tiny(trunk=replace(TRUNK, layer=layer), **changes)

    return config


def speech_of(network):
    """The speech encoder in a converter."""
    assert isinstance(network.content, PretrainedContent)
    return network.content.trunk.encoder


def clip_of(network):
    """The audio encoder in a converter."""
    assert network.style.audio is not None
    return network.style.audio


def a_batch(buzz):
    """Two clips and others of the same voices."""
    speaker = torch.arange(2)
    return HumanAndPairs(Batch(wave=buzz(6_400), other=buzz(8_000), speaker=speaker, utterance=speaker), None)


def task(pretrained, **changes):
    """The tiny trainer's task, with conversions from the first step."""
    config = replace(TINY, pretrained=pretrained, converter=with_encoders(TINY.converter, pretrained))
    return build(replace(config, cluit=replace(config.cluit, convert_from=0), **changes))


def test_rows_at_other_speeds_are_independent(hearing, buzz):
    encoder, wave = ConverterNetwork(hearing()).content.eval(), buzz(4_800)
    together = encoder(wave, torch.tensor([0.85, 1.15]))
    alone = encoder(wave[:1], torch.tensor([0.85]))
    assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:1], encoder(wave[:1]), atol=1e-3)


@pytest.mark.parametrize("layer", [0, 1])
def test_encoder_uses_the_whole_utterance_and_does_not_stream(hearing, buzz, layer):
    network, wave = ConverterNetwork(hearing(layer)), buzz(3_333).requires_grad_()
    assert not network.streams
    assert "pretrained" in network.needs_whole
    out = network(wave, network.style(wave))
    assert out.shape == wave.shape
    (heard,) = torch.autograd.grad(out[..., 500].sum(), wave)
    assert heard[..., 2_500:].any()
    converter = Converter(network)
    with pytest.raises(UserError, match="whole utterance"):
        converter.stream(converter.embed(buzz(8_000, (200.0,))))


def test_long_waves_are_encoded_and_decoded_in_pieces(hearing, buzz, monkeypatch):
    network, wave = ConverterNetwork(hearing()).eval(), buzz(16_000 * 3)
    voice = network.style(wave)
    with torch.no_grad():
        whole, code = network(wave, voice), network.content(network.pad_look_ahead(wave))
        monkeypatch.setattr(network_module, "PIECE_FRAMES", 70)
        assert_close(network(wave, voice), whole, rtol=0, atol=1e-5)
        monkeypatch.setattr(whole_content, "WHOLE_S", 1.5)
        monkeypatch.setattr(whole_content, "PIECE_S", 1.0)
        monkeypatch.setattr(whole_content, "CONTEXT_S", 0.6)
        longest = []
        heard = speech_of(network).forward
        monkeypatch.setattr(
            speech_of(network),
            "forward",
            lambda wave, n=None: longest.append(wave.shape[-1]) or heard(wave, n),
        )
        pieces = network.content(network.pad_look_ahead(wave))
        assert network(wave, voice).shape == wave.shape
    assert max(longest) <= 2.2 * 16_000
    assert pieces.shape == code.shape
    alike = torch.nn.functional.cosine_similarity(pieces, code, dim=1)
    assert alike.mean() > 0.95  # other context and level: nearly the same


@pytest.mark.parametrize("use", ["frozen", "fine_tuned", "random"])
def test_only_fine_tuned_parameters_change(ears, buzz, use):
    run = task(PretrainedConfig(content=ears, use=use))
    content = run.converter.content
    assert isinstance(content, PretrainedContent)
    trunk = content.trunk
    own = trunk.encoder.state_dict()
    stored = speech_of(begin(ConverterNetwork(run.converter.config), PretrainedConfig(content=ears)))
    same = all(torch.equal(own[name], tensor) for name, tensor in stored.state_dict().items())
    assert same == (use != "random")
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    for step in range(2):
        run.update(a_batch(buzz), step)
    moved = {n for n, t in trunk.state_dict().items() if not torch.equal(t, before[n])}
    inner = {n for n in before if n.startswith("encoder.") and "masked_spec_embed" not in n}
    assert "mix" in moved
    assert moved - {"mix"} == (set() if use == "frozen" else inner)
    assert all(p.grad is None for p in trunk.parameters() if not p.requires_grad)


def test_gradients_reach_tuned_parameters_and_pass_through_frozen_ones(hearing, ears, buzz):
    for use in ("frozen", "fine_tuned"):
        network, wave = (
            begin(ConverterNetwork(hearing()), PretrainedConfig(content=ears, use=use)),
            buzz(3_200),
        )
        wave.requires_grad_()
        if network.decoder.refiner is not None:  # its gates begin closed
            torch.nn.init.normal_(network.decoder.refiner.gate.weight, std=0.1)
        (network(wave, network.style(wave)) * torch.randn(wave.shape)).sum().backward()
        assert wave.grad is not None
        assert wave.grad.any()
        for name, parameter in network.named_parameters():
            if name.startswith("pitch_predictor"):  # has a loss of its own
                continue
            tuned = parameter.requires_grad
            assert tuned == (parameter.grad is not None and bool(parameter.grad.any())), name
            if name.startswith("content.trunk.encoder.") and "masked_spec_embed" not in name:
                assert tuned == (use == "fine_tuned")


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_gentle_parameters_equal_a_player_with_a_reduced_rate(rate):
    """Two players with their own rates and one gentle player take the same steps."""
    runs = []
    for kind in ("apart", "gentle"):
        torch.manual_seed(0)
        fast, slow = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        optim = OptimConfig(lr=1e-2, weight_decay=0.1)
        if kind == "apart":
            players = [Player(fast, optim), Player(slow, replace(optim, lr=rate * optim.lr))]
        else:
            players = [GentlePlayer([fast, slow], optim, "both", gentle=slow.parameters(), rate=rate)]
        for step in range(4):
            torch.manual_seed(step)
            loss = slow(fast(torch.randn(5, 3))).square().mean()
            for player in players:
                player.step(loss, retain_graph=True)
        runs.append([*fast.parameters(), *slow.parameters()])
    for apart, gentle in zip(*runs):
        assert_close(apart, gentle, rtol=1e-4, atol=1e-6)


def test_gentle_parameters_are_frozen_in_the_first_updates():
    fast, slow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    player = GentlePlayer(
        [fast, slow], OptimConfig(lr=0.1), "both", gentle=slow.parameters(), rate=0.5, frozen_updates=2
    )
    start = [p.detach().clone() for p in slow.parameters()]
    for step in range(3):
        player.step(slow(fast(torch.randn(4, 2))).square().mean())
        stayed = all(torch.equal(p, q) for p, q in zip(slow.parameters(), start))
        assert stayed == (step < 2)


def test_layers_above_the_chosen_one_are_dropped(ears, buzz):
    config = with_encoders(TINY.converter, PretrainedConfig(content=ears, layer=1))
    network = begin(ConverterNetwork(config), PretrainedConfig(content=ears, layer=1))
    assert isinstance(network.content, PretrainedContent)
    trunk = network.content.trunk
    assert len(trunk.encoder.trunk.encoder.layers) == 1
    assert trunk.mix is None
    with pytest.raises(UserError, match="has 2 layers"):
        with_encoders(TINY.converter, PretrainedConfig(content=ears, layer=3))


def test_wav2clip_voices_do_not_depend_on_the_batch(tiny, clip, buzz):
    pretrained = PretrainedConfig(style=clip)
    config = with_encoders(tiny(), pretrained)
    assert config.style.encoder == "wav2clip"
    network, wave = begin(ConverterNetwork(config), pretrained).train(), buzz(16_000)
    together, alone = network.style(wave), network.style(wave[:1])
    assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)
    assert together.shape == (2, config.style.voice_dim)
    other = begin(ConverterNetwork(config), pretrained)
    for name, tensor in clip_of(other).state_dict().items():
        assert torch.equal(tensor, clip_of(network).state_dict()[name])
    together.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in clip_of(network).parameters())


@pytest.mark.parametrize("style_use", ["frozen", "fine_tuned"])
def test_wav2clip_changes_only_if_fine_tuned(clip, buzz, style_use):
    run = task(PretrainedConfig(style=clip, style_use=style_use, rate=1.0))
    before = {name: tensor.clone() for name, tensor in clip_of(run.converter).state_dict().items()}
    for step in range(2):
        run.update(a_batch(buzz), step)
    moved = {n for n, t in clip_of(run.converter).state_dict().items() if not torch.equal(t, before[n])}
    assert bool(moved) == (style_use == "fine_tuned")
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_export_with_encoders_is_self_contained(hearing, ears, clip, buzz, tmp_path):
    pretrained = PretrainedConfig(content=ears, style=clip)
    config = with_encoders(hearing(), pretrained)
    network = begin(ConverterNetwork(config), pretrained)
    converter = Converter(network)
    again = Converter.from_pretrained(export(tmp_path / "export", config, network))
    wave, reference = buzz(5_000, (120.0,)), buzz(9_000, (200.0,))
    voice = converter.embed(reference)
    assert torch.equal(again.embed(reference), voice)
    assert torch.equal(again.convert(wave, voice), converter.convert(wave, voice))
    assert {p.name for p in (tmp_path / "export").iterdir()} == {"config.json", "model.safetensors"}


def test_mistakes_are_told_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"--pretrained\.style"):
        StyleConfig(encoder="wav2clip")
    with pytest.raises(UserError, match="rate"):
        PretrainedConfig(rate=0.0)
    with pytest.raises(UserError, match="speech encoder"):
        with_encoders(TINY.converter, PretrainedConfig(content=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="audio encoder"):
        with_encoders(TINY.converter, PretrainedConfig(style=str(tmp_path / "nothing")))
