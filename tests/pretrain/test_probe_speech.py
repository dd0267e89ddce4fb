"""Probes of speech features: errors by shares of the labels, speakers, keywords."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from data.manifest import Row, write_manifest
from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.probe import keywords, speakers, speech_error
from pretrain.probe.__main__ import TASKS
from pretrain.probe.speaking import classify, layer_means
from pretrain.probe.speech_error_run import outcome_of
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
    """Three speakers, of other pitches, who say other words in each split."""
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
    words = ["--encoder", str(encoder), "--data", str(corpus), "--out", str(out), "--cpu", "--curve", "2"]
    fast = ["--steps", "4", "--batch-seconds", "1", "--precision", "no", "--seeds", "1", *more]
    return speech_error.main([*words, *fast])


def test_every_arm_is_scored_and_stored(encoder, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    first = errors(encoder, corpus, out, "--shares", "0.5", "1")
    assert {(o.arm, o.share) for o in first} == {(a, s) for a in speech_error.ARMS for s in (0.5, 1.0)}
    assert all(len(o.splits["test"].edits) == 3 for o in first)
    assert first[0].labelled_seconds < first[-1].labelled_seconds
    with (out / "speech_error.csv").open() as file:
        metrics = {(r["encoder"], r["metric"], r["data"]) for r in csv.DictReader(file)}
    assert ("tuned", "character error rate at 0.5", "test") in metrics
    assert ("tuned", "relative gain over random at 1", "validation") in metrics
    assert (out / "curves.csv").read_text().count("\n") == 1 + 2 * len(first)
    assert (out / "speech_error.png").is_file()
    assert "gain of tuned over random" in capsys.readouterr().out


def test_a_second_call_makes_only_what_is_missing(encoder, corpus, tmp_path):
    out = tmp_path / "out"
    once = errors(encoder, corpus, out, "--arms", "tuned", "--shares", "1")
    stored = out / "tuned_1_0" / "result.json"
    made = json.loads(stored.read_text())
    made["outcome"]["splits"]["test"]["edits"] = [7, 7, 7]
    stored.write_text(json.dumps(made))
    again = errors(encoder, corpus, out, "--arms", "tuned", "frozen", "--shares", "1")
    assert again[0].splits["test"].edits == [7, 7, 7]
    assert again[0].splits["validation"] == once[0].splits["validation"]
    assert not (out / "tuned_1_0" / "checkpoints").exists()
    with pytest.raises(UserError, match=r"another optim\.lr: choose another --out"):
        errors(encoder, corpus, out, "--arms", "tuned", "--shares", "1", "--lr", "0.1")
    state = load_file(encoder / "model.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in state.items()}, encoder / "model.safetensors")
    with pytest.raises(UserError, match="another encoder"):
        errors(encoder, corpus, out, "--arms", "tuned", "--shares", "1")


def test_a_run_that_was_stopped_ends_as_if_it_had_not(encoder, corpus, tmp_path, monkeypatch):
    whole = errors(encoder, corpus, tmp_path / "a", "--arms", "tuned", "--shares", "1")[0]
    plan = speech_error.planned
    stops = []

    def halfway(words):
        first = plan(words)[0]
        loop = replace(first.config.loop, steps=2)
        stops.append(first._replace(config=replace(first.config, loop=loop)))
        return stops

    monkeypatch.setattr(speech_error, "planned", halfway)
    errors(encoder, corpus, tmp_path / "b", "--arms", "tuned", "--shares", "1")
    assert stops
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"another loop\.steps"):
        errors(encoder, corpus, tmp_path / "b", "--arms", "tuned", "--shares", "1")
    assert whole.splits["test"].units == [4, 4, 4]


def test_features_do_not_depend_on_files_beside_them(encoder, corpus):
    network = SpeechEncoder(TINY).eval()
    paths = sorted(corpus.parent.glob("*.wav"))
    together, alone = layer_means(network, paths), layer_means(network, paths[2:3])
    assert list(together) == ["projected", "layer 1", "layer 2"]
    torch.testing.assert_close(together["layer 2"][2:3], alone["layer 2"])


def test_a_linear_classifier_finds_a_linear_boundary():
    x = torch.randn(60, 8)
    labels = (x[:, 0] + x[:, 1] > 0).long()
    fitted = classify(x[:40], labels[:40], x[40:], 2)
    assert (fitted.argmax(1) == labels[40:]).float().mean() > 0.85
    assert classify(x[:40], labels[:40], x[40:], 2).equal(fitted)


def test_speakers_are_named_with_both_baselines(encoder, corpus, tmp_path):
    words = ["--encoder", str(encoder), "--data", str(corpus), "--out", str(tmp_path / "out")]
    results = speakers.main([*words, "--least", "2"])
    assert {r.encoder for r in results} == {"encoder", "random", "logmel"}
    assert {r.metric for r in results if r.encoder == "random"} == {"projected", "layer 1", "layer 2"}
    assert next(r.value for r in results if r.encoder == "logmel") == 1.0
    assert all(r.n == 3 for r in results)
    with pytest.raises(UserError, match="fewer than two speakers have 9"):
        speakers.main([*words, "--least", "9"])


@pytest.fixture
def spoken(tmp_path) -> Path:
    """Two words as Speech Commands lays them out, and background noise."""
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


def test_keywords_follow_the_official_lists(encoder, spoken, tmp_path):
    found = keywords.spoken_in(spoken)
    assert {s: sum(one.split == s for one in found) for s in ("train", "validation", "test")} == {
        "train": 8, "validation": 4, "test": 4,
    }  # fmt: skip
    assert {one.word for one in found} == {"yes", "no"}
    results = keywords.main(
        ["--encoder", str(encoder), "--data", str(spoken), "--out", str(tmp_path / "out"), "--most", "3"]
    )
    assert [r.encoder for r in results] == ["encoder", "random", "logmel"]
    assert results[2].value == 1.0
    assert sum(one.split == "train" for one in keywords.chosen_words(found, [], 3)) == 6


def test_mistakes_are_named(encoder, corpus, spoken, tmp_path):
    with pytest.raises(UserError, match="--encoder"):
        speech_error.main(["--data", str(corpus)])
    with pytest.raises(UserError, match="--steps once"):
        errors(encoder, corpus, tmp_path, "--steps", "1", "2", "3")
    with pytest.raises(UserError, match="no recording says 'maybe'"):
        keywords.main(["--data", str(spoken), "--words", "maybe"])
    (spoken / "testing_list.txt").unlink()
    with pytest.raises(UserError, match=r"lacks testing_list\.txt"):
        keywords.main(["--data", str(spoken)])
    with pytest.raises(UserError, match="random has the shape of another"):
        speakers.main(["--data", str(corpus), "--encoder", "random", "--least", "2"])
    with pytest.raises(UserError, match="there is no option"):
        speakers.main(["--data", str(corpus), "--lest", "2"])


def test_probes_are_listed():
    assert {"speech_error", "speakers", "keywords"} <= set(TASKS)
    assert callable(outcome_of)
