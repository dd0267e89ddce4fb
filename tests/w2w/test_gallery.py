"""Named voices: credits, use by any converter, the user's own voices."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from data.audio import info, load, save
from engine.checkpoint import export
from engine.user_error import UserError
from w2w import Converter
from w2w.convert import main as convert
from w2w.gallery import __main__ as command
from w2w.gallery.named import PACKAGED, find, gallery, read, sentences
from w2w.networks.network import ConverterNetwork

PEOPLE = [voice for voice in read(PACKAGED).voices if not voice.blend and not voice.words]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny) -> Path:
    torch.manual_seed(3)
    config = tiny()
    return export(tmp_path_factory.mktemp("model"), config, ConverterNetwork(config))


@pytest.fixture
def here(tmp_path, monkeypatch, buzz, model):
    """The working folder, without voices of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIMBRE_VOICES", str(tmp_path / "mine"))
    monkeypatch.setattr("w2w.weights.RELEASED", model)
    save("me.wav", buzz(12_345, f0=(120.0,)), 16_000)
    save("her.wav", buzz(9_000, f0=(200.0,)), 16_000)
    return tmp_path


def test_every_recording_has_source_and_licence_and_the_gallery_is_small():
    for one in (*PEOPLE, *sentences().values()):
        assert one.licence in ("CC BY 4.0", "public domain")
        assert "https://" in one.source
    assert (PACKAGED / "README.md").read_text(encoding="utf-8") == command.page()
    assert sum(path.stat().st_size for path in PACKAGED.rglob("*") if path.is_file()) < 1 << 20
    for voice in gallery().values():
        assert voice.portrait is not None
        assert voice.portrait.is_file()


def test_sentences_are_by_other_speakers_than_the_voices():
    readers = {voice.source.rsplit(", ", 1)[0] for voice in PEOPLE}
    assert not readers & {one.source.rsplit(", ", 1)[0] for one in sentences().values()}


def test_named_voice_is_its_recordings_mean_or_its_blend(here):
    converter = Converter.from_pretrained()
    ada = find("Ada")
    expected = converter.embed(load(ada.recordings[0], converter.sample_rate))
    assert_close(converter.voice("ADA"), expected)
    parts = [converter.voice("cora"), converter.voice("leo")]
    assert_close(converter.voice("noor"), torch.stack(parts).mean(0))
    with pytest.raises(UserError, match=r"did you mean ada.*timbre voices"):
        converter.voice("adda")


def test_convert_accepts_names_alone_and_in_blends(here):
    convert(["me.wav", "--voice", "ada", "--out", "a.wav"])
    convert(["me.wav", "--blend", "ada:1", "her.wav:0", "--out", "b.wav"])
    assert_close(load("a.wav"), load("b.wav"))
    assert info(Path("a.wav")).samples == 12_345


def test_own_voice_can_be_added_used_and_removed(here, capsys):
    command.main(["add", "Mum", "her.wav", "--about", "my mother"])
    (here / "her.wav").rename(here / "gone.wav")
    command.main([])
    assert "my mother" in capsys.readouterr().out
    converter = Converter.from_pretrained()
    theirs = converter.embed(load("gone.wav", converter.sample_rate))
    assert_close(converter.voice("mum"), theirs, rtol=1e-3, atol=1e-3)
    command.main(["remove", "mum"])
    assert json.loads((here / "mine/voices.json").read_text()) == {"voices": []}
    assert not [*(here / "mine").rglob("mum*")]


def test_preview_writes_audio_and_picture_of_each_voice(here):
    command.main(["preview", "ada", "noor", "--out", "tried"])
    made = {path.name for path in (here / "tried").iterdir()}
    assert made == {"ada.wav", "ada.png", "noor.wav", "noor.png"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("add mum", "add needs a name and recordings"),
        ("add ada her.wav", "has a voice 'ada' already"),
        ("add ../mum her.wav", "cannot be called"),
        ("add mum none.wav", "none.wav does not exist"),
        ("remove ada", "not one of your own voices"),
        ("preview ada", "needs --out"),
        ("preview nobody --out o", "there is no voice 'nobody'"),
        ("preview ada --sentence what --out o", "choose from night"),
    ],
)
def test_mistakes_are_told_in_one_sentence(here, capsys, line, words):
    with pytest.raises(SystemExit) as end:
        command.main(line.split())
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert not (here / "mine").exists()
