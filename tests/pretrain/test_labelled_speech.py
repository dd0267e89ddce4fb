"""Batches of labelled speech: which labels are used, functions of their address, refused corpora."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from tone_speech import spoken, write_corpus

from data.batches import Address, Batches
from data.manifest import Row, write_manifest
from engine.user_error import UserError
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech, subset
from pretrain.units import Characters, Units

LETTERS = Units(Characters())


@pytest.fixture
def config(tmp_path: Path) -> LabelledConfig:
    paths = (str(write_corpus(tmp_path)),)
    return LabelledConfig(paths=paths, batch_seconds=2.0, unlabelled_seconds=1.0)


def test_label_shares_are_deterministic_and_nested(config):
    assert subset(range(100), 0.1, 3) == subset(range(100), 0.1, 3) != subset(range(100), 0.1, 4)
    assert set(subset(range(100), 0.1, 3)) < set(subset(range(100), 0.5, 3))
    assert subset(range(3), 0.01, 0) != []
    half = replace(config, share=0.5)
    speech = LabelledSpeech(half, LETTERS, progress=False)
    assert (len(speech.order), len(speech.others)) == (3, 5)
    dropped = LabelledSpeech(replace(half, unlabelled_seconds=0.0), LETTERS, progress=False)
    assert (len(dropped.order), len(dropped.others)) == (3, 0)
    kept = [{str(s.rows[i].path) for i in s.order} for s in (speech, dropped)]
    assert kept[0] == kept[1]


def test_batches_depend_on_their_address_only(config):
    speech = LabelledSpeech(config, LETTERS, progress=False)
    one, same, other = (speech[Address(0, step, 0, 0)] for step in (3, 3, 4))
    assert all(a.equal(b) for a, b in zip(one, same))
    assert one.wave.shape != other.wave.shape or not one.wave.equal(other.wave)
    assert one.labelled.any()
    assert not one.labelled.all()
    later = next(iter(Batches(speech, seed=0, workers=1, rank=0, accumulate=1)(3)))
    assert all(a.equal(b) for a, b in zip(later, one))


def test_speech_without_labels_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", spoken("s").numpy(), 16_000)
    write_manifest(tmp_path / "manifest.csv", [Row(path=tmp_path / "a.wav", text="即便是")])
    with pytest.raises(UserError, match="no row of split 'train' has a text in characters"):
        LabelledSpeech(LabelledConfig(paths=(str(tmp_path),)), LETTERS, progress=False)
    with pytest.raises(UserError, match=r"--data\.paths"):
        LabelledSpeech(LabelledConfig(), LETTERS, progress=False)
    with pytest.raises(UserError, match="no row of split 'test'"):
        LabelledSpeech(LabelledConfig(paths=(str(tmp_path),), split="test"), LETTERS, progress=False)
    with pytest.raises(UserError, match=r"data\.share=0"):
        LabelledConfig(share=0.0)
