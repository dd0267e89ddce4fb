"""Training with pretrained encoders by the command line, with exact resuming."""

import sys
from dataclasses import replace

import pytest
from tiny_encoders import CLIP, SPEECH

from data.pairs import PairConfig, batches_together
from engine.checkpoint import export, newest_checkpoint
from engine.loop import fit
from pretrain.clip.audio_encoder import AudioEncoder
from pretrain.speech.encoder import SpeechEncoder
from w2w import train as entry
from w2w.converter import Converter
from w2w.pretrained import PretrainedConfig, with_encoders
from w2w.train import build
from w2w.train_config import TINY


@pytest.fixture
def encoders(tmp_path):
    """Exports of a speech encoder and an audio encoder, with random weights."""
    ears = export(tmp_path / "ears", SPEECH, SpeechEncoder(SPEECH))
    return ears, export(tmp_path / "clip", CLIP, AudioEncoder(CLIP))


def test_documented_options_train_and_export(corpus, encoders, tmp_path, buzz, monkeypatch, capsys):
    ears, clip = encoders
    words = "--preset tiny --loop.steps 2 --loop.cpu --loop.trackers none --loop.sample-every 0 "
    words += f"--data.path {corpus} --loop.out {tmp_path / 'run'} "
    words += f"--pretrained.content {ears} --pretrained.use fine_tuned --pretrained.style {clip}"
    monkeypatch.setattr(sys, "argv", ["train.py", *words.split()])
    entry.main()
    converter = Converter.from_pretrained(tmp_path / "run")
    assert converter.config.trunk is not None
    assert converter.config.style.encoder == "wav2clip"
    voice = converter.embed(buzz(8_000, (200.0,)))
    assert converter.convert(buzz(3_000, (120.0,)), voice).shape[-1] == 3_000
    monkeypatch.setattr(sys, "argv", ["train.py", *words.replace("steps 2", "steps 3").split()])
    entry.main()
    assert "continuing from" in capsys.readouterr().out


def test_resume_is_exact(corpus, encoders, tmp_path, assert_same_checkpoints):
    def run(out, steps):
        pretrained = PretrainedConfig(
            content=str(encoders[0]), use="fine_tuned", style=str(encoders[1]), frozen_steps=1
        )
        loop = replace(TINY.loop, out=out, steps=steps, trackers="none", cpu=True, sample_every=0)
        config = replace(
            TINY,
            loop=loop,
            data=replace(TINY.data, path=str(corpus)),
            pretrained=pretrained,
            converter=with_encoders(TINY.converter, pretrained),
        )
        fit(lambda: build(config), batches_together(config.data, PairConfig(), 0), loop, full_config=config)
        newest = newest_checkpoint(out)
        assert newest is not None
        return newest

    straight = run(tmp_path / "straight", 3)
    run(tmp_path / "cut", 2)
    again = run(tmp_path / "cut", 3)
    assert_same_checkpoints(straight, again, "converter")
