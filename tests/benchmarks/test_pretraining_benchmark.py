"""The pretraining benchmarks run, and curves are interpolated correctly."""

import numpy as np
import pytest
import soundfile

from benchmarks import pretraining, pretraining_curve
from benchmarks.pretraining_curve import seconds_to
from engine.checkpoint import export
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig

SMALLEST = SpeechEncoderConfig(
    conv_dims=(8, 8),
    conv_kernels=(20, 16),
    conv_strides=(20, 16),
    hidden=32,
    layers=1,
    heads=2,
    ffn=32,
    position_layers=1,
    attention_dropout=0.0,
)


def test_seconds_to_loss_interpolates_the_curve():
    curve = [(0.0, 4.0), (10.0, 2.0), (20.0, 1.0)]
    assert seconds_to(curve, 5.0) == 0.0
    assert seconds_to(curve, 3.0) == pytest.approx(5.0)
    assert seconds_to(curve, 1.0) == pytest.approx(20.0)
    assert seconds_to(curve, 0.5) == float("inf")


def test_steps_command_prints_all_methods(monkeypatch, capsys):
    monkeypatch.setitem(pretraining.SIZES, "small", SMALLEST)
    pretraining.main(["steps", "--clips", "2", "--seconds", "2", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "Wav2Vec2ForPreTraining" in printed
    assert printed.count("| data2vec") == 2


def test_curve_command_prints_the_comparison(monkeypatch, capsys, tmp_path):
    for i in range(3):
        wave = 0.1 * np.random.default_rng(i).standard_normal(40_000)
        soundfile.write(tmp_path / f"{i}.wav", wave, 16_000)
    rows = [f"{i}.wav,{'validation' if i > 1 else 'train'}\n" for i in range(3)]
    (tmp_path / "list.csv").write_text("path,split\n" + "".join(rows))
    monkeypatch.setattr(pretraining_curve, "MODEL", SMALLEST)
    export(tmp_path / "teacher", SMALLEST, SpeechEncoder(SMALLEST))
    data = ["--teacher", str(tmp_path / "teacher"), "--data.paths", str(tmp_path / "list.csv")]
    pretraining.main(["curve", *data, *["--seconds", "0.1", "--every", "0.05", "--masks", "2"]])
    assert "Seconds to the same loss" in capsys.readouterr().out
