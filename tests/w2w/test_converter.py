"""The public interface: voices, lengths of results, sources of weights."""

import math

import pytest
import torch
from torch.testing import assert_close

from engine.checkpoint import export
from engine.user_error import UserError
from w2w import Converter
from w2w.networks.network import ConverterNetwork
from w2w.recording import richest


@pytest.fixture(scope="module")
def converter(tiny):
    torch.manual_seed(1)
    return Converter(ConverterNetwork(tiny()))


@pytest.fixture(scope="module")
def voice(converter, buzz):
    return converter.embed(buzz(16_000, f0=(150.0,)))


@pytest.mark.parametrize("samples", [1, 127, 160, 161, 16_001])
def test_result_is_as_long_as_its_source(converter, voice, samples):
    assert converter.convert(torch.randn(1, 1, samples) * 0.1, voice).shape == (1, 1, samples)


def test_several_clips_give_the_mean_of_their_voices(converter, buzz):
    clips = [buzz(8_000, f0=(f0,)) for f0 in (110.0, 170.0, 220.0)]
    mean = torch.stack([converter.embed(clip) for clip in clips]).mean(0)
    assert_close(converter.embed(clips), mean)


def test_last_entry_of_a_voice_is_its_mean_log_f0(converter, buzz):
    assert float(converter.embed(buzz(32_000, f0=(180.0,)))[0, -1]) == pytest.approx(
        math.log(180.0), abs=0.02
    )


def test_long_clip_is_embedded_in_parts_without_its_pauses(converter, buzz, monkeypatch):
    monkeypatch.setattr("w2w.recording.LONGEST_S", 1.0)
    spoken = buzz(converter.sample_rate, f0=(140.0,))
    long = torch.cat([spoken, torch.zeros_like(spoken)], dim=-1)
    assert_close(converter.embed(long), converter.embed(spoken))


def test_click_before_a_long_silence_has_little_weight(converter, buzz, monkeypatch):
    monkeypatch.setattr("w2w.recording.LONGEST_S", 2.0)
    rate = converter.sample_rate
    spoken, quiet = 0.1 * buzz(2 * rate, f0=(140.0,)), torch.zeros(1, 1, 2 * rate)
    quiet[..., 100:110] = 0.9
    voice, heard = converter.embed(spoken), converter.embed(torch.cat([quiet, spoken], dim=-1))
    assert torch.cosine_similarity(heard[:, :-1], voice[:, :-1]) > 0.98
    assert abs(float(heard[0, -1] - voice[0, -1])) < 0.02


def test_fitting_uses_the_part_with_most_sound(converter, buzz):
    rate = converter.sample_rate
    spoken, silence = buzz(2 * rate, f0=(140.0,)), torch.zeros(1, 1, 3 * rate)
    found = richest(torch.cat([silence, spoken, silence], dim=-1), rate, 2.0)
    assert_close(found, spoken)
    assert richest(spoken, rate, 4.0) is spoken


def test_blend_is_the_normalised_weighted_mean(converter):
    one, other = torch.randn(2, 1, converter.config.style.voice_dim)
    blended = converter.blend([one, other], [3.0, 1.0])
    assert_close(blended, 0.75 * one + 0.25 * other)
    assert_close(converter.blend([one, other], [1.0, 0.0]), one)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -0.5], [math.nan, 1.0], [math.inf, 1.0]])
def test_impossible_blend_weights_are_refused(converter, weights):
    voices = list(torch.randn(2, 1, converter.config.style.voice_dim))
    with pytest.raises(UserError, match="blend"):
        converter.blend(voices, weights)


def test_semitones_shift_the_pitch_exactly(tiny, buzz):
    converter = Converter(ConverterNetwork(tiny()))
    # An untrained head is as much noise as voice: turn the noise off, that there be a pitch to find.
    noise = converter.network.decoder.head.bands.bias.chunk(2)[1]
    noise.fill_(-12.0)
    source = buzz(24_000, f0=(120.0,), noise=0.0)
    voice, track = converter.embed(source), converter.network.pitch
    moved = []
    for semitones in (0.0, 5.0):
        pitch = track(converter.convert(source, voice, semitones=semitones))
        moved.append(pitch.log_f0[pitch.voicing > 0.5].median())
    assert float(moved[1] - moved[0]) * 12 / math.log(2) == pytest.approx(5.0, abs=0.3)


def test_conversion_is_deterministic(converter, voice, buzz):
    source = buzz(5_000, f0=(200.0,))
    assert torch.equal(converter.convert(source, voice), converter.convert(source, voice))


def test_unusable_references_are_refused(converter):
    for clip, words in [
        (torch.zeros(1, 1, 16_000), "silent"),
        (torch.randn(1, 1, 1), "lasts"),
        (torch.full((1, 1, 16_000), math.nan), "NaN"),
        (torch.zeros(1, 1, 0), "empty"),
    ]:
        with pytest.raises(UserError, match=words):
            converter.embed(clip)
    with pytest.raises(UserError, match="no reference"):
        converter.embed([])
    with pytest.raises(UserError, match=r"her\.wav is silent"):
        converter.embed(torch.zeros(1, 1, 16_000), names=["her.wav"])


def test_offline_converter_converts_whole_and_says_that_it_cannot_stream(tiny, buzz):
    offline = Converter(ConverterNetwork(tiny("offline")))
    source = buzz(4_000, f0=(150.0,))
    voice = offline.embed(source)
    pieces = list(offline.pieces(source.split(1_000, dim=-1), voice))
    assert_close(torch.cat(pieces, dim=-1), offline.convert(source, voice))
    with pytest.raises(UserError, match="whole utterance"):
        offline.stream(voice)


def test_export_round_trips(converter, voice, buzz, tmp_path):
    export(tmp_path / "it", converter.config, converter.network)
    again = Converter.from_pretrained(tmp_path / "it")
    source = buzz(3_000, f0=(150.0,))
    assert torch.equal(again.convert(source, voice), converter.convert(source, voice))
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


def test_run_folder_resolves_to_its_export(converter, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "progress.json").write_text("{}")
    for where in (tmp_path / "run", checkpoint):
        with pytest.raises(UserError, match=r"python -m w2w\.export"):
            Converter.from_pretrained(where)
    export(tmp_path / "run" / "export", converter.config, converter.network)
    assert Converter.from_pretrained(tmp_path / "run").config == converter.config


def test_missing_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("w2w.weights._from_hub", lambda name: pytest.fail(f"the hub was asked for {name}"))
    for where in ("runs/voice", "rnus/voice", "./voice", "voice", str(tmp_path / "voice")):
        with pytest.raises(UserError, match="there is no folder"):
            Converter.from_pretrained(where)
    with pytest.raises(UserError, match="written hub:rnus/voice"):
        Converter.from_pretrained("rnus/voice")


def test_known_source_mean_gives_the_right_f0_from_the_start(converter, voice, buzz):
    """A source that is low at first and high later: only a stream misjudges its mean F0."""
    source = torch.cat([buzz(24_000, f0=(110.0,)), buzz(24_000, f0=(180.0,))], dim=-1)
    known = converter.source_log_f0(source)
    assert known == pytest.approx(math.log(math.sqrt(110.0 * 180.0)), abs=0.05)
    network = converter.network
    padded = network.pad_look_ahead(source)
    content = network.content.encode(padded)
    with torch.inference_mode():
        pitch = network.pitch(padded)
        streamed, _ = network.place_pitch(pitch, content, network.begin(1))
        informed, _ = network.place_pitch(pitch, content, network.begin(1, known))
    half = slice(50, 140)
    assert float((informed.mean_log_f0[..., half] - known).abs().max()) < 0.1
    assert float((streamed.mean_log_f0[..., half] - known).abs().min()) > 0.15
    assert not torch.allclose(
        converter.convert(source, voice), converter.convert(source, voice, source_log_f0=known), atol=1e-3
    )


def test_remainder_shorter_than_a_frame_is_ignored(converter, buzz):
    known = converter.source_log_f0(buzz(64_000)[:1])
    for rest in (1, 42, 159):
        assert converter.source_log_f0(buzz(64_000 + rest)[:1]) == pytest.approx(known, abs=1e-4)


def test_mean_f0_of_noise_is_unknown(converter):
    assert converter.source_log_f0(torch.randn(1, 1, 32_000) * 0.1) is None
    assert converter.source_log_f0(torch.zeros(1, 1, 32_000)) is None
