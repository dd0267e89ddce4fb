"""Linguistic features and batches of espeak's speech for WaveNet."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.batches import Address
from data.frontends import named_mel
from data.synthetic.espeak import Phoneme
from data.voices import VOICES, speak
from engine.user_error import UserError
from vocoders.wavenet.spoken import (
    N_PHONEMES,
    SYMBOLS,
    FeatureConfig,
    SpokenConfig,
    SpokenCrops,
    features,
    frame_pitch,
    phoneme_classes,
    speech_features,
)

CONFIG = FeatureConfig()
PHONEMES = [Phoneme("h", 0.01, 0.05), Phoneme("ɛ", 0.05, 0.15), Phoneme("?", 0.15, 0.2)]


def test_frames_are_labelled_by_the_phoneme_at_their_middle():
    classes = phoneme_classes(PHONEMES, 25, 100.0)
    symbols = [SYMBOLS[c] if c < len(SYMBOLS) else "other" for c in classes]
    assert symbols == ["", *"hhhh", *"ɛɛɛɛɛɛɛɛɛɛ", *["other"] * 5, *[""] * 5]


def test_features_contain_neighbours_position_and_pitch():
    made = features(PHONEMES, torch.full((50,), 150.0), CONFIG)
    assert made.shape == (CONFIG.channels, 50)
    before, now, after = (made[i * N_PHONEMES : (i + 1) * N_PHONEMES].argmax(0) for i in range(3))
    assert [SYMBOLS[c[12]] if c[12] < len(SYMBOLS) else "other" for c in (before, now, after)] == [
        "h",
        "ɛ",
        "other",
    ]
    place, rest, length, voiced, pitch = made[3 * N_PHONEMES :, 12]
    assert_close(place + rest, torch.tensor(1.0))
    assert_close(place, torch.tensor((12.5 / 200 - 0.05) / 0.1))
    assert (float(voiced), float(pitch)) == (1.0, 0.0)
    assert float(length) == pytest.approx(torch.tensor(2.0).log().item())


def test_frame_pitch_of_a_tone():
    tone = 0.3 * torch.sin(torch.arange(16_000) * (2 * torch.pi * 200 / 16_000))[None, None]
    f0 = frame_pitch(tone, CONFIG)
    assert f0.shape == (200,)
    assert_close(f0[20:-20], torch.full((160,), 200.0), atol=2.0, rtol=0)


def test_espeak_phonemes_have_classes():
    wave, phonemes = speak("The quick brown fox jumps over the lazy dog.", VOICES[1])
    wave = wave[..., : wave.shape[-1] // CONFIG.hop * CONFIG.hop]
    assert speech_features(wave, phonemes, CONFIG).shape[1] == CONFIG.channels
    classes = phoneme_classes(phonemes, 400, 200.0)
    assert (classes < len(SYMBOLS)).all()
    assert len(classes.unique()) > 10


def test_spoken_crops_are_aligned_and_addressed():
    crops = SpokenCrops(SpokenConfig(n_voices=2, n_sentences=1, crop_samples=1_600, batch=3), progress=False)
    batch = crops[Address(0, 5)]
    assert batch.wave.shape == (3, 1, 1_600)
    assert batch.local.shape == (3, CONFIG.channels, 20)
    assert torch.equal(batch.local[:, N_PHONEMES : 2 * N_PHONEMES].argmax(1), batch.phonemes)
    assert all(torch.equal(a, b) for a, b in zip(batch, crops[Address(0, 5)]))
    assert not torch.equal(batch.wave, crops[Address(0, 6)].wave)
    assert crops.speakers == sorted(voice.name for voice in VOICES[:2])


def test_validation_sentences_differ_from_training():
    config = SpokenConfig(n_voices=1, n_sentences=2, crop_samples=1_600)
    train, other = (SpokenCrops(replace(config, split=split)) for split in ("train", "validation"))
    lengths = [{u.wave.shape[-1] for u in crops.utterances} for crops in (train, other)]
    assert not lengths[0] & lengths[1]


def test_corpus_without_espeak_voices_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,speaker,text\na.wav,somebody,hello\n")
    with pytest.raises(UserError, match="not by a voice of espeak"):
        SpokenCrops(SpokenConfig(path=str(tmp_path)), progress=False)


def test_text_without_words_is_refused():
    with pytest.raises(UserError, match="nothing to say"):
        speech_features(torch.zeros(1, 1, 1_600), [], CONFIG)


def test_crops_of_partial_frames_are_refused():
    with pytest.raises(UserError, match="whole number of frames"):
        SpokenConfig(crop_samples=1_601)


def test_speech16k_hop_is_a_multiple_of_the_feature_hop():
    assert named_mel("speech16k").hop % CONFIG.hop == 0
