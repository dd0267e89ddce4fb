"""StarGAN from wave to wave: any length, the source's level, voices from labels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from data.frontends import NAMED
from data.manifest import Row
from engine.config import from_json, to_json
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.hifigan import V2_16K
from vocoders.vocoder import Vocoder, VocoderConfig
from w2w import Converter
from w2w.baselines.stargan import converter as networks
from w2w.baselines.stargan.converter import StarGANNetwork, StarGANSpectrograms, StarGANUseConfig
from w2w.baselines.stargan.labels import LabelGroup, LabelsConfig, companions, named_voice, predicted_voice
from w2w.baselines.stargan.networks import StarGANConfig
from w2w.baselines.stargan.spectrogram import SpectrogramConfig, framed
from w2w.networks.wave_network import WaveNetwork
from w2w.stream import Stream

LABELS = LabelsConfig(
    first=LabelGroup(column="speaker", size=4, names=("ann", "bob", "cy")),
    second=LabelGroup(column="accent", size=0),
    third=LabelGroup(column="gender", size=2, names=("female", "male")),
)
SHAPE = StarGANConfig(
    spectrogram=SpectrogramConfig(n_fft=256, hop=64, n_frames=64, n_bins=64),
    labels=LABELS,
    n_channels=4,
    critic_channels=4,
    critic_layers=4,
    dilations=(1,),
)
USE = StarGANUseConfig(network=SHAPE, companions=((0, -1, 0), (1, -1, 1), (2, -1, -1)))
PHASES = VocoderConfig(mel=NAMED["speech16k"], network=GriffinLimConfig(iterations=2, block=128, overlap=16))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return StarGANNetwork(USE, Vocoder(PHASES)).eval()


def spoken(network: StarGANNetwork) -> StarGANNetwork:
    """The same network with a trainable vocoder."""
    small = replace(V2_16K, channels=16)
    other = StarGANNetwork(network.config, Vocoder(VocoderConfig(mel=NAMED["speech16k"], network=small)))
    other.mel_network.load_state_dict(network.mel_network.state_dict())
    return other.eval()


@pytest.mark.parametrize("samples", [1, 63, 4_096, 4_097, 6_401, 20_000])
@pytest.mark.parametrize("vocoder", [False, True])
def test_result_is_as_long_as_the_source(network, samples, vocoder):
    network = spoken(network) if vocoder else network
    source = 0.1 * torch.randn(1, 1, samples)
    converted = network(source, network.style(source))
    assert converted.shape == source.shape
    assert converted.isfinite().all()


@pytest.mark.parametrize("vocoder", [False, True])
def test_output_has_the_sources_level(network, vocoder):
    network = spoken(network) if vocoder else network
    source, voice = torch.randn(1, 1, 6_000), network.named_voice("ann")
    loud = network(source, voice)
    assert loud.abs().max() > 0
    assert_close(network(source / 50, voice), loud / 50, rtol=1e-3, atol=1e-5)
    assert not network(torch.zeros(1, 1, 6_000), voice).any()


def test_converted_mel_has_the_sources_level_and_timing(network):
    source, voice = torch.randn(1, 1, 6_400), network.named_voice("ann")
    loud, quiet = (spoken(network).converted_mel(wave, voice) for wave in (source, source / 2))
    assert loud.shape == (1, 80, 40)
    assert (loud - quiet).median() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-3)
    with pytest.raises(UserError, match="without a mel"):
        network.converted_mel(source, voice)


def test_batch_rows_are_independent(network):
    sources = torch.randn(2, 1, 9_000) * torch.tensor([[[1.0]], [[0.01]]])
    voices = torch.cat([network.named_voice("ann"), network.named_voice("bob")])
    both = network.mel_network.converted(sources, voices)
    spectrogram = torch.cat(list(both), dim=-1)
    for row in range(2):
        alone = network.mel_network.converted(sources[row : row + 1], voices[row : row + 1])
        assert_close(torch.cat(list(alone), dim=-1), spectrogram[row : row + 1], atol=1e-5, rtol=1e-4)


class Passing(torch.nn.Module):
    """The identity as generator."""

    def forward(self, spectrogram, voice):
        return spectrogram


@pytest.mark.parametrize("frames", [64, 65, 100, 112, 113, 500])
def test_windows_of_a_long_recording_are_joined(frames):
    network = StarGANSpectrograms(SHAPE)
    network.generator = Passing()
    wave = torch.randn(1, 1, 64 * frames - 7)
    joined = torch.cat(list(network.converted(wave, torch.zeros(1, LABELS.n_in))), dim=-1)
    assert joined.shape[-1] == frames
    own = framed(network.spectrogram, wave)
    inner = slice(2, -2)  # a wave that fills one window is repeated around its edges
    assert_close(joined[..., inner], own[..., inner], atol=1e-5, rtol=1e-5)


class Whole(torch.nn.Module):
    """A generator whose output is the number of its window."""

    def __init__(self):
        super().__init__()
        self.called = 0

    def forward(self, spectrogram, voice):
        self.called += 1
        return torch.full_like(spectrogram, float(self.called - 1))


def test_windows_are_cross_faded():
    network = StarGANSpectrograms(SHAPE)
    network.generator = Whole()
    joined = torch.cat(list(network.converted(torch.randn(1, 1, 64 * 300), torch.zeros(1, LABELS.n_in))), -1)
    value = joined[0, 0, 0]
    assert network.generator.called == len(network.starts(64 * 300)) > 3
    assert value.diff().min() >= 0
    assert value.diff().max() <= 1 / 8
    assert value[-1] == network.generator.called - 1


def test_memory_does_not_grow_with_the_recording(network, monkeypatch):
    heard = []
    monkeypatch.setattr(
        networks.StarGANSpectrograms,
        "_spectrogram",
        lambda self, wave, start: heard.append(start) or spectrogram,
    )
    spectrogram = torch.rand(1, 1, 64, 64)
    pieces = network.mel_network.converted(torch.zeros(1, 1, 64 * 3_000), network.named_voice("ann"))
    assert next(pieces).shape[-1] <= 64
    assert len(heard) == 1  # the rest is converted when it is asked for


def test_named_voice_includes_the_speakers_other_labels(network):
    assert_close(network.named_voice("bob"), torch.tensor([[0, 1, 0, 0, 0, 1, 1, 0, 1.0]]))
    assert_close(network.named_voice("cy"), torch.tensor([[0, 0, 1, 0, 0, 0, 1, 0, 0.0]]))
    assert_close(network.named_voice("male"), torch.tensor([[0, 0, 0, 0, 0, 1, 0, 0, 1.0]]))
    assert_close(named_voice("bob", LABELS), torch.tensor([[0, 1, 0, 0, 0, 0, 1, 0, 0.0]]))
    with pytest.raises(UserError, match=r"no voice 'an'.*ann"):
        network.named_voice("an")


def test_companions_are_the_most_frequent_labels():
    def row(speaker, gender):
        return Row(path=Path("a.wav"), speaker=speaker, gender=gender)

    rows = [row("ann", "female"), row("ann", "female"), row("ann", "male"), row("bob", None)]
    assert companions(rows, LABELS) == ((0, -1, 0), (1, -1, -1), (2, -1, -1))


def test_embedded_voice_has_a_named_label_in_every_group():
    logits = torch.tensor([[0.0, 2.0, 1.0, 9.0, -3.0, -2.0]])  # the fourth speaker has no name
    assert_close(predicted_voice(logits, LABELS), torch.tensor([[0, 1, 0, 0, 0, 1, 1, 0, 1.0]]))


def test_blend_of_voices_is_linear_in_the_merge(network):
    ann, bob = network.named_voice("ann"), network.named_voice("bob")
    blend = Converter.blend([ann, bob], [3.0, 1.0])
    merge = network.mel_network.generator.merge
    features = torch.randn(1, 16, 8, 8)
    added = [merge(features, voice) for voice in (ann, bob, blend)]
    assert_close(added[2], 0.75 * added[0] + 0.25 * added[1])


def test_converter_runs_stargan(network):
    assert isinstance(network, WaveNetwork)
    assert (network.streams, network.look_ahead, network.hop) == (False, 0, 64)
    converter, source = Converter(network), 0.1 * torch.randn(1, 1, 8_000)
    voice = converter.embed([source, torch.randn(1, 1, 4_000)])
    assert voice.shape == (1, network.voice_dim)
    assert converter.convert(source, voice).shape == source.shape
    with pytest.raises(UserError, match=r"needs 0.3 s at once"):
        converter.stream(voice)
    with pytest.raises(UserError, match=r"needs 0.3 s at once"):
        Stream(network, voice, 320)


def test_config_round_trips_through_json_and_weights_have_no_vocoder(network):
    assert from_json(StarGANUseConfig, to_json(USE), "config") == USE
    assert all(name.startswith(("generator.", "discriminator.")) for name in network.mel_network.state_dict())
