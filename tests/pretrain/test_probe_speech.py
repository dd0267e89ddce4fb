"""Probes of speech features: error rates with fractions of the labels, speakers, and keywords."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from data.manifest import Row, write_manifest
from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.probe.clips import clips_from
from pretrain.probe.embedders import speech_layers
from pretrain.probe.fitting import fit_linear
from pretrain.probe.harness import Embeddings
from pretrain.probe.speech_error import ARMS, speech_error
from pretrain.probe.speech_labels import chosen_words, keywords, speakers
from pretrain.speech.encoder import TINY, SpeechEncoder

PITCH = {"s": 5_000.0, "e": 2_500.0, "a": 900.0, "m": 300.0}


def tones(text: str, pitch: float = 1.0) -> np.ndarray:
    time = np.arange(1_600) / 16_000
    parts = [0.3 * np.sin(6.2832 * pitch * PITCH[c] * time) * np.hanning(1_600) for c in text]
    return np.concatenate(parts) + 0.001 * np.random.default_rng(len(text)).standard_normal(1_600 * len(text))


@pytest.fixture
def encoder(tmp_path) -> Path:
    return export(tmp_path / "encoder", TINY, SpeechEncoder(TINY))


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Return a manifest of three speakers of different pitch, with different words in each split."""
    said = {"train": ["sea", "mesa", "same", "ease"], "validation": ["seam"], "test": ["mass"]}
    rows = []
    for who, pitch in enumerate((0.7, 1.0, 1.4)):
        for split, texts in said.items():
            for text in texts:
                path = tmp_path / f"{who}_{text}.wav"
                soundfile.write(path, tones(text, pitch), 16_000)
                rows.append(Row(path=path, text=text, split=split, speaker=f"s{who}"))
    write_manifest(tmp_path / "metadata.csv", rows)
    return tmp_path / "metadata.csv"


def errors(encoder: Path, corpus: Path, out: Path, *more: str):
    args = ["--encoder", str(encoder), "--data", str(corpus), "--out", str(out), "--device", "cpu"]
    return speech_error([*args, "--steps", "4", "--precision", "no", "--seeds", "1", *more])


def test_every_recogniser_is_trained_once_scored_and_stored(encoder, corpus, tmp_path):
    results = errors(encoder, corpus, tmp_path, "--shares", "0.5", "1")
    assert {r.encoder for r in results} == set(ARMS)
    assert {r.data for r in results} == {"validation", "test"}
    assert {r.metric for r in results if r.encoder == "tuned"} == {
        f"{what} at {share}" for what in ("error rate", "relative gain over random") for share in ("0.5", "1")
    }
    assert all(r.n == 3 for r in results)
    assert (tmp_path / "speech_error.png").is_file()
    export = tmp_path / "speech_error/tuned_1_0/export/model.safetensors"
    before = load_file(export)
    curve = (tmp_path / "speech_error/tuned_1_0/curve.csv").read_text()
    again = errors(encoder, corpus, tmp_path, "--shares", "1", "--arms", "tuned")
    assert (tmp_path / "speech_error/tuned_1_0/curve.csv").read_text() == curve
    assert all(tensor.equal(before[name]) for name, tensor in load_file(export).items())
    known = {(r.data, r.metric): r.value for r in results if r.encoder == "tuned"}
    assert all(r.value == known[r.data, r.metric] for r in again)
    with pytest.raises(UserError, match="choose another --loop"):
        errors(encoder, corpus, tmp_path, "--shares", "1", "--arms", "tuned", "--precision", "bf16")


def test_speech_features_do_not_depend_on_other_files(corpus):
    embedder = speech_layers("tiny", SpeechEncoder(TINY))
    paths = sorted(corpus.parent.glob("*.wav"))
    together, alone = (Embeddings(embedder).of(some) for some in (paths, paths[2:3]))
    assert together.shape == (len(paths), 3 * 32)
    torch.testing.assert_close(together[2:3], alone)


def test_linear_classifier_finds_a_linear_boundary():
    x = torch.randn(60, 8)
    labels = (x[:, 0] + x[:, 1] > 0).long()
    fitted = fit_linear(x[:40], labels[:40])(x[40:])
    assert (fitted == labels[40:]).float().mean() > 0.85
    assert fit_linear(x[:40], labels[:40])(x[40:]).equal(fitted)


def test_speakers_are_classified_with_both_baselines(encoder, corpus, tmp_path):
    args = ["--encoder", str(encoder), "--data", str(corpus), "--out", str(tmp_path / "out")]
    results = speakers([*args, "--least", "2"])
    assert {r.encoder for r in results} == {"encoder", "random", "logmel"}
    layers = {f"accuracy, {layer}" for layer in ("projected", "layer 1", "layer 2")}
    assert {r.metric for r in results if r.encoder == "random"} == layers
    assert next(r.value for r in results if r.encoder == "logmel") == 1.0
    assert all(r.n == 3 for r in results)
    with pytest.raises(UserError, match="fewer than two speakers have 9"):
        speakers([*args, "--least", "9"])


def test_unreadable_recordings_are_skipped_and_named(encoder, corpus, tmp_path, capsys):
    (corpus.parent / "0_sea.wav").write_bytes(b"no sound")
    args = ["--encoder", str(encoder), "--data", str(corpus), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        speakers([*args, "--least", "2"])
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert "1 left out" in said
    assert "0_sea.wav" in said
    assert (tmp_path / "out/results.csv").is_file()


@pytest.fixture
def spoken(tmp_path) -> Path:
    """Return a folder of two words and background noise in Speech Commands' layout."""
    place = tmp_path / "commands"
    names = []
    for word, text in (("yes", "es"), ("no", "am")):
        (place / word).mkdir(parents=True)
        for i in range(8):
            soundfile.write(place / word / f"{i}_nohash_0.wav", tones(text, 1 + 0.02 * i), 16_000)
            names.append(f"{word}/{i}_nohash_0.wav")
    (place / "_background_noise_").mkdir()
    soundfile.write(place / "_background_noise_" / "tap.wav", tones("s"), 16_000)
    (place / "validation_list.txt").write_text("\n".join(n for n in names if "/0_" in n or "/1_" in n) + "\n")
    (place / "testing_list.txt").write_text("\n".join(n for n in names if "/2_" in n or "/3_" in n))
    return place


def test_keywords_use_the_official_lists(encoder, spoken, tmp_path):
    found = clips_from(spoken)
    assert {s: sum(one.split == s for one in found) for s in ("train", "validation", "test")} == {
        "train": 8, "validation": 4, "test": 4,
    }  # fmt: skip
    assert {one.labels[0] for one in found} == {"yes", "no"}
    results = keywords(
        ["--encoder", str(encoder), "--data", str(spoken), "--out", str(tmp_path / "out"), "--most", "3"]
    )
    assert [r.encoder for r in results] == ["encoder", "random", "logmel"]
    assert results[2].value == 1.0
    assert sum(one.split == "train" for one in chosen_words(found, [], 3)) == 6


def test_mistakes_in_speech_probes_are_refused(encoder, corpus, spoken, tmp_path):
    with pytest.raises(UserError, match="--encoder"):
        speech_error(["--data", str(corpus)])
    with pytest.raises(UserError, match="--steps once"):
        errors(encoder, corpus, tmp_path, "--steps", "1", "2", "3")
    with pytest.raises(UserError, match="no recording of 'maybe'"):
        keywords(["--data", str(spoken), "--words", "maybe"])
    (spoken / "testing_list.txt").unlink()
    with pytest.raises(UserError, match=r"lacks testing_list\.txt"):
        keywords(["--data", str(spoken)])
    with pytest.raises(UserError, match="random needs another encoder's architecture"):
        speakers(["--data", str(corpus), "--encoder", "random", "--least", "2"])
    with pytest.raises(UserError, match="there is no option"):
        speakers(["--data", str(corpus), "--lest", "2"])
