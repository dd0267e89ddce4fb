"""The page without a browser: figure, scores, voice panel, live conversion."""

import asyncio
import xml.etree.ElementTree as ElementTree
from collections import deque
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app import live_tab, spectrograms
from app.conversions import Conversions
from app.page import build_page, card_text
from app.page_voice import NAMED, RECORDED, WORDS, Wanted, error_text, remarks, show_errors
from app.scores import Score, score, table
from data.audio import Writer, load
from engine.user_error import UserError
from eval.scoring import Judges
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork

RATE = 16_000


@pytest.fixture(scope="module")
def conversions(tiny, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("results")
    with Conversions(Converter(ConverterNetwork(tiny())), marked=False, folder=folder) as conversions:
        yield conversions


@pytest.fixture(scope="module")
def recordings(buzz, tmp_path_factory):
    """Files of a low and a high voice."""
    torch.manual_seed(0)
    folder, paths = tmp_path_factory.mktemp("secret"), []
    for name, row in zip(("low.wav", "high.wav"), buzz(RATE)):
        with Writer(folder / name, RATE) as writer:
            writer.write(row[None])
        paths.append(folder / name)
    return paths


def asked(*paths, **fields):
    return Wanted(reference=str(paths[0]), agreed=True, **fields)


def points(svg, kind):
    lines = [line for line in svg.iter("polyline") if line.get("class") == kind]
    return [tuple(map(float, point.split(","))) for line in lines for point in line.get("points").split()]


def test_figure_shows_the_pitch_as_curve_and_number(buzz):
    low, high = buzz(RATE, f0=(110.0, 220.0))
    figure: Any = ElementTree.fromstring(spectrograms.figure(low[None], high[None]))
    assert "source 110 Hz" in figure.findtext("figcaption")
    assert "converted 220 Hz" in figure.find("svg").get("aria-label")
    assert len([*figure.iter("image")]) == 2
    source, converted = (np.mean([y for _, y in points(figure, k)]) for k in ("source", "converted"))
    octave = spectrograms.F0_HEIGHT * np.log(2) / np.log(spectrograms.F_MAX / spectrograms.F_MIN)
    assert source - converted == pytest.approx(octave, rel=0.05)  # higher is further up


@pytest.mark.parametrize("samples", [1, 700, 31 * RATE])
def test_figure_is_drawn_for_any_length_and_for_silence(samples):
    wave = torch.zeros(1, 1, min(samples, round(spectrograms.LONGEST_S * RATE)))
    figure: Any = ElementTree.fromstring(spectrograms.figure(wave, wave))
    assert spectrograms.NO_PITCH in figure.findtext("figcaption")


def test_pitch_jumps_interrupt_the_curve():
    curve = np.array([100.0, 101, 102, 200, 202, np.nan, 150, np.nan, 90, 91])
    assert spectrograms.voiced_runs(curve) == [range(0, 3), range(3, 5), range(8, 10)]


class Judge:
    """A judge that returns the level and the number of samples."""

    name, english_only = "judge", False
    kind = "fake"

    def check(self):
        pass

    def __call__(self, wave):
        level = float(wave.square().mean())
        return {
            "embedding": np.array([level, 1.0 - level]),
            "texts": np.array(["hello there"] if level > 1e-3 else ["hello"]),
            "overall": np.array(3.21),
            "speech": np.array(3.0),
            "background": np.array(3.0),
            "f0": np.full(100, 100.0, np.float32),
            "bands": np.random.default_rng(0).normal(size=(100, 21)),
            "seconds": np.array(1.0),
        }


class Missing(Judge):
    def __call__(self, wave):
        raise UserError("this needs more: pip install more")


def test_scores_of_a_copy_show_no_change(recordings):
    low, high = recordings
    judges = Judges(voice=Judge(), recognisers=(Judge(),), melody=Judge(), sound=Judge())
    lines = {line.name: line.value for line in score(low, low, high, judges=judges)}
    assert lines["Similarity to the source's voice"] == "1.00"
    assert lines["Character error rate (CER)"] == "0.00"
    assert lines["Sound quality (DNSMOS)"] == "3.21"
    assert lines["Mean pitch"] == "100 Hz"
    assert lines["Recognised in the source"] == "hello there"


def test_missing_judge_names_its_install_command_and_others_still_score(recordings):
    judges = Judges(voice=Missing(), recognisers=(Judge(),), melody=Judge(), sound=Judge())
    lines = score(recordings[0], recordings[1], None, judges=judges)
    assert lines[0].meaning == "this needs more: pip install more"
    assert "3.21" in table(lines, 1.0)


def test_score_table_escapes_html():
    row = Score(name="Heard", value="<script>", meaning="a & b")
    shown = table([row], 99.0)
    assert "&lt;script&gt;" in shown
    assert "a &amp; b" in shown
    assert "the first 30 s" in shown


def test_blend_lies_between_its_voices(conversions, recordings):
    low, high = recordings
    pure = [asked(path).voice(conversions) for path in recordings]
    blended = asked(low, second=str(high), share=25.0).voice(conversions)
    torch.testing.assert_close(blended, 0.75 * pure[0] + 0.25 * pure[1])
    torch.testing.assert_close(asked(low, second=str(high), share=0.0).voice(conversions), pure[0])


def test_named_voice_needs_no_consent_but_a_second_voice_does(conversions, recordings):
    voice = Wanted(kind=NAMED, name="ada").voice(conversions)
    torch.testing.assert_close(voice, conversions.converter.voice("ada"))
    with pytest.raises(UserError, match="tick"):
        Wanted(kind=NAMED, name="ada", second=str(recordings[0])).voice(conversions)


def test_further_recordings_are_averaged(conversions, recordings):
    low, high = recordings
    expected = conversions.voice([low, high, high])
    torch.testing.assert_close(asked(low, further=(str(high),) * 2).voice(conversions), expected)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted(reference="a.wav"), "tick"),
        (Wanted(agreed=True), "choose or record"),
        (Wanted(kind=WORDS, agreed=True), "describe"),
    ],
)
def test_missing_input_is_requested(conversions, wanted, words):
    with pytest.raises(UserError, match=words):
        wanted.voice(conversions)


def test_fields_are_read_as_the_browser_sends_them():
    wanted = Wanted.from_values([RECORDED, None, "a.wav", None, None, None, 50, -3, True])
    assert wanted == Wanted(reference="a.wav", share=50.0, pitch=-3.0, agreed=True)


def test_page_errors_name_files_without_folders(tmp_path):
    bad = tmp_path / "<b>bad.wav"
    bad.write_bytes(b"nothing")
    with pytest.raises(gr.Error) as shown, show_errors("Not converted", [str(bad)]):
        load(bad)
    assert str(tmp_path) not in shown.value.message
    assert "&lt;b&gt;bad.wav" in shown.value.message


def test_inverted_channel_is_reported(recordings, tmp_path):
    wave = load(recordings[0])
    odd = tmp_path / "inverted.wav"
    with Writer(odd, RATE, channels=2) as writer:
        writer.write(torch.cat([wave, -wave], dim=1))
    with pytest.warns(UserWarning, match="cancel"):
        (told,) = remarks(odd)
    assert "only channel 1 is used" in told
    assert remarks(recordings[0]) == []


def test_deleted_recording_is_requested_again(tmp_path):
    assert "choose it again" in error_text(UserError("is no file"), [str(tmp_path / "gone.wav")])


@settings(deadline=None, max_examples=8)
@given(cuts=st.lists(st.integers(0, 5000), max_size=6))
def test_live_conversion_equals_offline_conversion(conversions, recordings, cuts):
    source, wanted = load(recordings[1])[..., :5000], asked(recordings[0], pitch=2.0)
    live = live_tab.begin(conversions, wanted, RATE)
    said = [live.convert(source[..., a:b]) for a, b in pairwise(sorted([0, 5000, *cuts]))]
    said.append(live.convert(source[..., :0], last=True))
    expected = conversions.converter.convert(source, wanted.voice(conversions), semitones=2.0)
    torch.testing.assert_close(torch.cat(said, dim=-1), expected, rtol=0, atol=1e-5)


def test_live_voice_change_glides(conversions, recordings):
    low, high = recordings
    source = load(low)
    live = live_tab.begin(conversions, asked(low), RATE)
    live.convert(source[..., :8000])
    live_tab.follow(conversions, live, asked(high))
    live.convert(source[..., 8000:])
    assert live.wanted == asked(high)
    torch.testing.assert_close(live.stream.state.ramp.end, asked(high).voice(conversions))


def test_refused_settings_keep_the_previous_voice(conversions, recordings):
    live, wish = live_tab.begin(conversions, asked(recordings[0]), RATE), Wanted()
    with pytest.raises(UserError, match="tick"):
        live_tab.follow(conversions, live, wish)
    live_tab.follow(conversions, live, wish)  # said once
    assert live.convert(load(recordings[1])).shape[-1]


def test_microphone_chunk_files_are_deleted(tmp_path, monkeypatch):
    paths = [tmp_path / str(n) / "audio.wav" for n in range(3)]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"")
    page = SimpleNamespace(temp_file_sets=[{str(path) for path in paths}])
    ages = dict(zip(paths, (live_tab.KEPT_S + 1, live_tab.KEPT_S - 1, 0.0)))
    monkeypatch.setattr(live_tab, "age", ages.__getitem__)
    pieces: Any = live_tab.ChunkFiles.__new__(live_tab.ChunkFiles)
    pieces.page, pieces.kept = page, deque()
    for path in paths:
        pieces.add(path)
    assert [path.exists() for path in paths] == [False, True, True]
    assert page.temp_file_sets == [{str(path) for path in paths[1:]}]
    assert not paths[0].parent.exists()


async def built(conversions):
    return build_page(conversions)  # while an event loop runs, or gradio makes one and leaves it open


def test_page_offers_only_supported_controls(tiny, tmp_path):
    network = ConverterNetwork(tiny())
    with Conversions(Converter(network), folder=tmp_path) as conversions:
        components = asyncio.run(built(conversions)).blocks.values()
    by_id: dict[str, Any] = {component.elem_id: component for component in components if component.elem_id}
    assert [kind for _, kind in by_id["kind"].choices] == [NAMED, RECORDED]  # not tied to words
    assert by_id["pitch"].visible == network.moves_pitch
    assert by_id["microphone"].streaming


def test_live_tab_uses_a_streaming_converter(tiny, tmp_path):
    """If the page's converter needs whole recordings, the live tab uses another converter and its voices."""
    with Conversions(Converter(ConverterNetwork(tiny("offline"))), folder=tmp_path) as conversions:
        components = asyncio.run(built(conversions)).blocks.values()
        assert any(component.elem_id == "microphone" for component in components)
        live, wanted = conversions.live, Wanted(kind=NAMED, name="ada", agreed=True)
        assert live.converter.network.streams
        assert live.jobs is conversions.jobs
        assert wanted.voice(live).shape == (1, live.converter.network.voice_dim)
        assert live_tab.begin(live, wanted, 16_000).convert(torch.randn(1, 1, 4_000)).shape[-1] > 2_000
    with Conversions(Converter(ConverterNetwork(tiny())), folder=tmp_path) as conversions:
        assert conversions.live is conversions


def test_missing_model_card_is_reported(tmp_path):
    assert "without a model card" in card_text(tmp_path / "README.md")
    assert "## Misuse" in card_text(None)
