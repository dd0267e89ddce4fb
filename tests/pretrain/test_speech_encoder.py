"""The speech encoder equals transformers' model; padding, level and other batch items do not matter."""

import pytest
import torch
from torch.testing import assert_close
from transformers import Data2VecAudioConfig, Data2VecAudioForCTC, Data2VecAudioModel, Wav2Vec2Config

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig, standardised
from pretrain.speech.loading import load_speech_encoder

TINY = SpeechEncoderConfig(
    conv_dims=(8, 8, 8),
    conv_kernels=(10, 8, 8),
    conv_strides=(8, 8, 5),
    hidden=16,
    layers=2,
    heads=2,
    ffn=32,
    position_layers=2,
    position_kernel=4,
    position_groups=4,
)


@pytest.fixture
def encoder() -> SpeechEncoder:
    return SpeechEncoder(TINY).eval()


def test_equals_the_published_model_on_copied_weights(encoder):
    theirs = Data2VecAudioModel(TINY.published()).eval()
    theirs.load_state_dict(encoder.trunk.state_dict())
    wave = 0.1 * torch.randn(2, 1, 8000) + 0.3
    ours = encoder(wave)
    expected = theirs(standardised(wave)[:, 0], output_hidden_states=True)
    assert_close(ours.last, expected.last_hidden_state, atol=5e-5, rtol=0)
    for feature, hidden in zip(ours.features, expected.hidden_states[1:], strict=True):
        assert_close(feature, hidden, atol=5e-5, rtol=0)


def test_default_sizes_are_the_published_ones():
    theirs = Data2VecAudioConfig()
    ours = SpeechEncoderConfig().published()
    for name in ("conv_dim", "conv_kernel", "conv_stride", "hidden_size", "num_conv_pos_embeddings"):
        assert list(torch.tensor(getattr(ours, name)).flatten()) == list(
            torch.tensor(getattr(theirs, name)).flatten()
        )
    assert SpeechEncoderConfig().hop == 320
    assert SpeechEncoderConfig().receptive_field == 400


def test_padding_and_other_batch_items_do_not_matter(encoder):
    short, long = torch.randn(1, 1, 5000), 9 * torch.randn(1, 1, 9000)
    padded = torch.cat([torch.nn.functional.pad(short, (0, 4000), value=7.0), long])
    together = encoder(padded, torch.tensor([5000, 9000]))
    for row, wave in enumerate((short, long)):
        alone = encoder(wave)
        frames = TINY.frames(wave.shape[-1])
        assert together.valid[row].sum() == frames == alone.last.shape[1]
        assert_close(together.last[row, :frames], alone.last[0], atol=1e-5, rtol=1e-4)


def test_level_does_not_matter(encoder):
    wave = torch.randn(1, 1, 4000)
    assert_close(encoder(wave).last, encoder(0.05 * wave + 0.2).last, atol=1e-4, rtol=1e-4)


def test_waves_shorter_than_a_frame_give_one_frame(encoder):
    assert encoder(torch.randn(2, 1, 50), torch.tensor([20, 50])).last.shape == (2, 1, 16)


def test_published_checkpoints_load(encoder, tmp_path):
    theirs = Data2VecAudioForCTC(TINY.published()).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_speech_encoder(tmp_path / "theirs")
    wave = standardised(torch.randn(1, 1, 4000))
    expected = theirs.data2vec_audio(wave[:, 0]).last_hidden_state
    assert_close(loaded(wave).last, expected, atol=5e-5, rtol=0)
    assert not loaded.training


def test_exports_load(encoder, tmp_path):
    export(tmp_path / "run/export", TINY, {k: v.half() for k, v in encoder.state_dict().items()})
    wave = torch.randn(1, 1, 4000)
    for path in ("run", "run/export"):
        assert_close(load_speech_encoder(tmp_path / path)(wave).last, encoder(wave).last, atol=2e-2, rtol=0)


def test_unusable_folders_and_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_speech_encoder(tmp_path)
    Wav2Vec2Config().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="wav2vec2"):
        load_speech_encoder(tmp_path / "other")
    with pytest.raises(UserError, match="multiple of heads"):
        SpeechEncoderConfig(hidden=100, heads=3)
