"""The watermark command, and the watermark in conversions."""

import json

import numpy as np
import pytest
import soundfile
import torch

from data.audio import load, save
from engine.checkpoint import export
from w2w.convert import main as convert
from w2w.networks.network import ConverterNetwork
from w2w.watermark import Marker
from w2w.watermark.__main__ import main
from w2w.watermark.detection import detect


@pytest.fixture
def here(tmp_path, monkeypatch, buzz):
    """A folder with a marked and an unmarked recording."""
    monkeypatch.chdir(tmp_path)
    wave = buzz(48_000, f0=(120.0,), noise=0.02)
    save("plain.wav", wave, 16_000)
    save("in/marked.wav", Marker(16_000).mark(wave), 16_000)
    return tmp_path


def ends_with(line: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(line.split())
    return int(end.value.code or 0)


def test_command_distinguishes_marked_from_unmarked(here, capsys):
    assert ends_with("in/marked.wav") == 0
    assert ends_with("plain.wav in/marked.wav") == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == third
    assert first.startswith("in/marked.wav: marked, in 3 of 3.0 s, false alarm ")
    assert second.startswith("plain.wav: not marked, false alarm ")


def test_json_output_is_one_object_per_line(here, capsys):
    ends_with("in plain.wav --json")
    marked, plain = map(json.loads, capsys.readouterr().out.splitlines())
    assert marked["file"] == "in/marked.wav"
    assert (marked["marked"], plain["marked"]) == (True, False)
    assert marked["false_alarm"] < 1e-4 < plain["false_alarm"]
    assert set(marked) == {"file", "marked", "false_alarm", "seconds", "duration", "speed"}


def test_key_option_is_used(here, capsys):
    assert ends_with("in/marked.wav --key mine") == 1


def test_stereo_at_another_rate_is_mixed_and_resampled(here, capsys):
    wave = load("in/marked.wav", 44_100)[0, 0].numpy()
    soundfile.write("stereo.flac", np.stack([wave, 0.5 * wave], axis=1), 44_100)
    assert ends_with("stereo.flac") == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere.wav", "there is no file nowhere.wav"),
        ("text.wav", "is not audio"),
        ("plain.wav --false-alarm 2", "must lie between 0 and 1"),
        ("", "required"),
    ],
)
def test_mistakes_are_told_in_one_sentence(here, capsys, line, words):
    (here / "text.wav").write_text("This is a letter, not a recording. " * 20)
    assert ends_with(line) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_unreadable_files_are_listed_and_the_rest_checked(here, capsys):
    (here / "in/text.wav").write_text("This is a letter, not a recording. " * 20)
    assert ends_with("in nowhere.wav") == 2
    said = capsys.readouterr()
    assert said.out.startswith("in/marked.wav: marked")
    assert "1 checked, 2 left out:\n  there is no file nowhere.wav\n  in/text.wav is not audio" in said.err


def test_conversions_are_marked_unless_disabled(here, monkeypatch, tiny):
    torch.manual_seed(3)
    model = export(here / "model", tiny(), ConverterNetwork(tiny()))
    monkeypatch.setattr("w2w.weights.RELEASED", model)
    for name, flags in {"a": "", "b": "--no-watermark", "c": "--rate 44100"}.items():
        convert(f"plain.wav --reference in/marked.wav --out {name} {flags}".split())
    assert detect([load("a/plain.wav", 16_000)]).marked
    assert not detect([load("b/plain.wav", 16_000)]).marked
    assert detect([load("c/plain.wav", 16_000)]).marked
