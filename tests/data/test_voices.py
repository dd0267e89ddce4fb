"""Synthetic voices: deterministic and distinct, with texts, phonemes and disjoint splits."""

import sys
from collections import defaultdict
from itertools import combinations, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.audio import info, load
from data.manifest import read_manifest
from data.synthetic.sentences import sentences
from data.voices import VOICES, Corpus, main, make_corpus, phonemize, speak
from engine.user_error import UserError

TEXT = "We were away a year ago."
SMALL = Corpus(voices=4)


@pytest.fixture
def espeak() -> None:
    pytest.importorskip("espeakng_loader", reason="voices need the extra 'synth'")


def test_sentences_are_distinct_and_well_formed():
    texts = list(islice(sentences(), 1000))
    assert len(set(texts)) == 1000
    assert texts == list(islice(sentences(), 1000))
    assert texts != list(islice(sentences(seed=1), 1000))
    words = {word.strip(".,?!").lower() for text in texts for word in text.split()}
    assert len(words) > 400
    for text in texts:
        assert text[0].isupper()
        assert text[-1] in ".?!"
        assert 4 <= len(text.split()) <= 20
        assert not any(word.isupper() and len(word) > 1 for word in text.split())
        assert not any(f" a {vowel}" in text for vowel in "aeiou")


@pytest.mark.usefixtures("espeak")
def test_sentences_cover_the_sounds_of_english():
    sounds = set(" ".join(phonemize(list(islice(sentences(), 600)))).split())
    consonants = "p b t d k ɡ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w tʃ dʒ"
    vowels = "iː ɪ eɪ ɛ æ ɑː ɔː oʊ ʊ uː ʌ ɜː ə ɚ aɪ aʊ ɔɪ"
    assert not set(f"{consonants} {vowels}".split()) - sounds


@pytest.mark.usefixtures("espeak")
def test_phonemes_of_known_texts():
    assert phonemize(["The boy, away.", "", "..."]) == ["ð ə | b ɔɪ | ɐ w eɪ", "", ""]
    assert phonemize(["water"], "en-gb-x-rp") != phonemize(["water"])
    with pytest.raises(UserError, match="no voice 'zz'"):
        phonemize(["water"], "zz")


@pytest.mark.usefixtures("espeak")
def test_speech_is_a_function_of_its_arguments():
    first, _ = speak(TEXT, VOICES[0])
    speak("Something else altogether.", VOICES[3])
    again, _ = speak(TEXT, VOICES[0])
    assert_close(first, again, rtol=0, atol=0)
    other, _ = speak(TEXT, VOICES[2])
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.usefixtures("espeak")
@pytest.mark.parametrize("voice", VOICES[::5], ids=lambda voice: voice.name)
def test_phonemes_have_times_and_waves_the_target_level(voice):
    wave, phonemes = speak(TEXT, voice)
    assert wave.shape[:2] == (1, 1)
    assert wave.dtype == torch.float32
    assert wave.abs().max() <= 1
    assert 20 * wave.square().mean().sqrt().log10() == pytest.approx(-25, abs=1.5)
    for before, after in pairwise(phonemes):
        assert before.start < before.end == pytest.approx(after.start)
    assert phonemes[-1].end <= wave.shape[-1] / 16_000 + 0.01
    spoken = "".join(phoneme.symbol for phoneme in phonemes)
    assert spoken == phonemize([TEXT], voice.accent)[0].replace(" ", "").replace("|", "")


@pytest.mark.usefixtures("espeak")
def test_voices_differ_in_pitch_or_timbre():
    pytest.importorskip("pyworld")
    from data.frontends import LogMel, named_mel
    from vocoders.wavenet.spoken import f0_pyworld

    mel, pitch, colour = LogMel(named_mel("speech16k")), {}, {}
    for voice in VOICES:
        wave, _ = speak("Many girls were away a year ago.", voice)
        f0 = f0_pyworld(wave, 16_000)
        pitch[voice.name] = f0[f0 > 0].log2().mean().item() * 12
        frames = mel(wave)[0]
        colour[voice.name] = frames[:, frames.mean(0) > frames.mean()].mean(1)
    for one, two in combinations(VOICES, 2):
        semitones = abs(pitch[one.name] - pitch[two.name])
        envelope = (colour[one.name] - colour[two.name]).abs().mean().item()
        assert semitones > 0.5 or envelope > 0.4, (one.name, two.name, semitones, envelope)
    women, men = ([pitch[v.name] for v in VOICES if v.gender == gender] for gender in "FM")
    assert min(women) > max(men)
    assert len(women) == len(men) >= 12
    for group in (women, men):
        assert np.ptp(group) > 7


@pytest.mark.usefixtures("espeak")
def test_corpus_has_minutes_splits_texts_and_phonemes(tmp_path):
    manifest = make_corpus(tmp_path / "corpus", 0.7, SMALL)
    rows = read_manifest(manifest)
    assert sum(row.duration or 0 for row in rows) >= 0.7 * 60
    splits, texts = defaultdict(set), defaultdict(set)
    for row in rows:
        splits[row.split].add(row.speaker)
        texts[row.split].add(row.text)
        assert info(row.path).sample_rate == 16_000
        assert info(row.path).duration == pytest.approx(row.duration, abs=1e-4)
        assert row.extra["phonemes"]
    assert len({row.text for row in rows}) == len(rows)
    assert splits["train"] == splits["validation"] == {"f01", "m01"}
    assert splits["test"] == {"f02", "m02"}
    assert not texts["test"] & (texts["train"] | texts["validation"])
    assert not texts["validation"] & texts["train"]
    assert {row.gender for row in rows} == {"F", "M"}


@pytest.mark.usefixtures("espeak")
def test_voices_of_a_parallel_corpus_share_sentences(tmp_path):
    rows = read_manifest(make_corpus(tmp_path, 0.1, Corpus(voices=6, parallel=True)))
    said = defaultdict(list)
    for row in rows:
        said[row.speaker].append(row.text)
    assert said["f01"] == said["m01"] == said["f03"]
    assert said["f02"] == said["m02"]
    assert not set(said["f01"]) & set(said["f02"])


@pytest.mark.usefixtures("espeak")
def test_interrupted_corpus_is_completed_identically(tmp_path):
    whole = make_corpus(tmp_path / "whole", 0.3, SMALL)
    again = make_corpus(tmp_path / "again", 0.1, SMALL)
    again.unlink()
    (again.parent / "f01" / "0001.flac").unlink()
    kept = (again.parent / "m01" / "0000.flac").stat().st_mtime_ns
    make_corpus(again.parent, 0.3, SMALL)
    assert again.read_text() == whole.read_text()
    assert (again.parent / "m01" / "0000.flac").stat().st_mtime_ns == kept
    assert_close(load(again.parent / "f01/0001.flac"), load(whole.parent / "f01/0001.flac"), rtol=0, atol=0)


@pytest.mark.usefixtures("espeak")
def test_other_corpora_and_files_are_not_overwritten(tmp_path):
    make_corpus(tmp_path / "a", 0.01, SMALL)
    with pytest.raises(UserError, match="other options"):
        make_corpus(tmp_path / "a", 0.01, Corpus(voices=4, seed=1))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty"):
        make_corpus(tmp_path / "b", 0.01, SMALL)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--voices", "2"], "voices=2"),
        (["--voices", "99"], "voices=99"),
        (["--minutes", "-1"], "minutes=-1"),
        (["--sample-rate", "1"], "sample_rate=1"),
        (["--voice", "8"], "--voices"),
    ],
)
def test_command_refuses_in_one_sentence(argv, words, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "corpus"), *argv])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "corpus").exists()


@pytest.mark.usefixtures("espeak")
def test_command_makes_a_corpus(tmp_path, capsys):
    main([str(tmp_path / "corpus"), "--minutes", "0.01", "--voices", "4", "--sample-rate", "24000"])
    assert "4 voices" in capsys.readouterr().out
    assert info(tmp_path / "corpus/f01/0000.flac").sample_rate == 24_000


def test_missing_espeak_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install 'timbre\[synth\]'"):
        phonemize(["hello"])
