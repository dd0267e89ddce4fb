"""The recogniser of phones: shapes, gradients, padding, loading, and what the released one hears."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.ctc_score import edit_distance, error_rates, total
from pretrain.phone_batches import PhoneSpeech, TranscribedConfig
from pretrain.phones import PHONES, fold
from pretrain.recogniser import RELEASED, Recogniser, RecogniserConfig, load_recogniser

TINY = RecogniserConfig(width=8, n_blocks=3, kernel=3)


@pytest.mark.parametrize("samples", [1, 160, 3_201, 16_000])
def test_every_block_gives_fifty_frames_a_second(samples):
    recogniser = Recogniser(TINY).eval()
    out = recogniser(torch.randn(2, 1, samples))
    frames = out.log_probs.shape[1]
    assert out.log_probs.shape == (2, frames, len(PHONES) + 1)
    assert [f.shape for f in out.features] == [(2, 8, frames)] * 3
    if samples > recogniser.config.mel.n_fft:
        assert abs(frames - samples / recogniser.hop) <= 1
    torch.testing.assert_close(out.log_probs.exp().sum(-1), torch.ones(2, frames))


def test_gradients_reach_every_parameter_and_the_wave():
    recogniser = Recogniser(TINY)
    wave = torch.randn(1, 1, 4_000, requires_grad=True)
    recogniser(wave).log_probs[..., 1].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in recogniser.parameters())
    assert wave.grad is not None
    assert wave.grad.abs().sum() > 0


def test_silence_is_heard_without_nan():
    wave = torch.zeros(1, 1, 4_000, requires_grad=True)
    out = Recogniser(TINY)(wave)
    out.log_probs[..., 1].sum().backward()
    assert out.log_probs.isfinite().all()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_padding_is_not_heard():
    recogniser = Recogniser(TINY).eval()
    mel = torch.randn(1, 80, 40)
    valid = torch.ones(1, 40, dtype=torch.bool)
    padded, longer = torch.cat([mel, torch.full((1, 80, 30), 5.0)], -1), torch.arange(70)[None] < 40
    alone = recogniser.from_normalised(recogniser.normalise(mel, valid), valid)
    beside = recogniser.from_normalised(recogniser.normalise(padded, longer), longer)
    torch.testing.assert_close(beside.log_probs[:, :20], alone.log_probs, rtol=1e-4, atol=1e-5)


def test_level_and_colour_of_the_channel_change_nothing():
    recogniser = Recogniser(TINY)
    mel, channel = torch.randn(1, 80, 60), torch.randn(1, 80, 1).expand(-1, -1, 60)
    level = channel.mean(1, keepdim=True)  # the loudness of frames decides the weights, so keep it
    torch.testing.assert_close(
        recogniser.normalise(mel), recogniser.normalise(mel + channel - level + 2.0), atol=1e-4, rtol=1e-4
    )


def test_decoding_merges_repetitions_and_drops_blanks():
    recogniser = Recogniser(TINY)
    tokens = torch.tensor([[0, 3, 3, 0, 3, 5, 5, 0]])
    log_probs = torch.nn.functional.one_hot(tokens, len(PHONES) + 1).float().log_softmax(-1)
    assert recogniser.decode(log_probs) == [[PHONES[2], PHONES[2], PHONES[4]]]


@pytest.mark.parametrize(
    ("ipa", "phones"),
    [
        ("ð ə | b ɔɪ", "ð ə b ɔɪ"),
        ("s_t_ˈʌ_f k_w_ˈɔːɹ_ɾ_ɚ_ɹ", "s t ə f k w ɔ ɹ d ɚ ɹ"),
        ("tʃˈɜːtʃ bɑːθəlz", "tʃ ɚ tʃ b ɑ θ ə l z"),
    ],
)
def test_espeak_symbols_are_folded(ipa, phones):
    assert fold(ipa) == phones.split()


def test_a_sound_of_no_english_word_is_named():
    with pytest.raises(UserError, match="ʙ"):
        fold("b ʙ")


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
@settings(max_examples=50, deadline=None)
def test_edit_distance_is_a_distance(one, other):
    distance = edit_distance(one, other)
    assert distance == edit_distance(other, one)
    assert (distance == 0) == (one == other)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))


def test_an_exported_recogniser_is_itself(tmp_path):
    recogniser, wave = Recogniser(TINY).eval(), torch.randn(1, 1, 4_000)
    export(tmp_path, TINY, recogniser)
    loaded = load_recogniser(tmp_path)
    torch.testing.assert_close(loaded(wave).log_probs, recogniser(wave).log_probs)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_bad_folders_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_recogniser(tmp_path)
    export(tmp_path, RecogniserConfig(width=16, n_blocks=3, kernel=3), Recogniser(TINY))
    with pytest.raises(UserError, match="has shape"):
        load_recogniser(tmp_path)
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="pickled"):
        load_recogniser(tmp_path)


def test_the_released_recogniser_is_small():
    assert (RELEASED / "model.safetensors").stat().st_size < 8 * 2**20
    assert sum(p.numel() for p in load_recogniser().parameters()) <= 2_500_000


def test_the_released_recogniser_hears_real_speech(speech_pack):
    pytest.importorskip("espeakng_loader")
    recogniser = load_recogniser()
    config = TranscribedConfig(paths=(str(speech_pack),), longest_seconds=5.0)
    speech = PhoneSpeech(config, recogniser.config.phones, split="validation", progress=False)
    assert total(error_rates(recogniser, speech)).rate < 0.6
