"""Encoders for probing: their vectors, crops of long files, and names that cannot be opened."""

import pytest
import soundfile
import torch
from torch.testing import assert_close

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.probe.embedders import clap, log_mel_statistics, open_embedder, open_embedders
from pretrain.probe.harness import Embeddings
from pretrain.probe.texts import WordVectors

TINY = AudioEncoderConfig(width=4, blocks=(1, 1), dim=8, hidden=8)


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(5)
    encoder = AudioEncoder(TINY).eval()
    return export(tmp_path / "run" / "export", TINY, encoder), encoder


def test_embedder_of_an_export_equals_its_encoder(exported):
    folder, encoder = exported
    wave = torch.randn(3, 1, 4000)
    embedder, random = open_embedders([str(folder), "random"])
    assert (embedder.name, random.name) == ("run", "random")
    assert embedder.dim == random.dim == 8
    assert_close(embedder.embed(wave), encoder(wave))
    assert not torch.allclose(random.embed(wave), embedder.embed(wave))
    assert_close(random.embed(wave), open_embedder("random", like=TINY).embed(wave))


def test_pooled_vectors_begin_with_the_mean_of_the_last_feature_map(exported):
    folder, encoder = exported
    pooled = open_embedder(f"pooled:{folder}")
    wave = torch.randn(2, 1, 8000)
    found = pooled.embed(wave)
    assert found.shape == (2, pooled.dim)
    assert_close(found[:, : TINY.channels], encoder.pooled(wave))


def test_vector_does_not_depend_on_the_rest_of_the_batch():
    for embedder in (log_mel_statistics(), open_embedder("random", like=TINY)):
        wave = torch.randn(3, 1, 4000)
        assert embedder.embed(wave).shape == (3, embedder.dim)
        assert_close(embedder.embed(wave)[:1], embedder.embed(wave[:1]))


def test_vector_of_a_long_file_is_the_mean_over_its_crops(tmp_path):
    wave = 0.1 * torch.randn(40_000)
    soundfile.write(tmp_path / "long.wav", wave.numpy(), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", wave[:9000].numpy(), 16_000, subtype="FLOAT")
    embedder = log_mel_statistics()
    embeddings = Embeddings(embedder, crop_s=1.0, batch=2)
    paths = [tmp_path / "short.wav", tmp_path / "long.wav", tmp_path / "short.wav"]
    vectors = embeddings.of(paths)
    crops = torch.stack([wave[:13_334], wave[13_334:26_668], wave[26_666:]])[:, None]
    assert_close(vectors[1], embedder.embed(crops).mean(0))
    assert_close(vectors[0], embedder.embed(wave[None, None, :9000])[0])
    assert torch.equal(vectors[0], vectors[2])
    again, frames = embeddings.with_frames(paths)
    assert_close(again, vectors)
    assert embedder.frames is not None
    assert_close(frames[1], embedder.frames(crops).flatten(0, 1))


def test_files_are_read_once(tmp_path):
    soundfile.write(tmp_path / "a.wav", torch.randn(4000).numpy() * 0.1, 16_000)
    embeddings = Embeddings(log_mel_statistics())
    first = embeddings.of([tmp_path / "a.wav"])
    (tmp_path / "a.wav").unlink()
    assert torch.equal(embeddings.of([tmp_path / "a.wav"]), first)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/nowhere", "there is no such folder or file"),
        ("speech", "--encoder speech:FOLDER"),
        ("clap:/", "give a local folder"),
    ],
)
def test_encoders_that_cannot_be_opened_are_refused(name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        open_embedder(name)


def test_word_vectors_ignore_words_common_to_all_captions(tmp_path):
    rng = torch.Generator().manual_seed(0)
    words = {word: torch.randn(5, generator=rng) for word in ("dog", "bark", "sound", "of", "a", "rain")}
    lines = [f"{word} {' '.join(f'{v:.5f}' for v in vector.tolist())}" for word, vector in words.items()]
    (tmp_path / "glove.txt").write_text("\n".join(lines))
    vectors = WordVectors(str(tmp_path / "glove.txt"))
    plain, sentence = vectors.texts(["dog bark", "This is a sound of dog bark."])
    assert_close(plain, sentence)
    assert_close(plain.norm(), torch.tensor(1.0))
    with pytest.raises(UserError, match="no word of 'xyzzy'"):
        vectors.texts(["xyzzy"])
    (tmp_path / "bad.txt").write_text("dog 1 2\nrain 1\n")
    with pytest.raises(UserError, match="line 2"):
        WordVectors(str(tmp_path / "bad.txt"))


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    """Return a folder with a CLAP of random weights in transformers' layout."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("clap")
    text = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "max_position_embeddings": 40}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 32, "depths": [1, 1, 1], "num_hidden_layers": 3}
    audio |= {
        "num_attention_heads": [1, 2, 2],
        "spec_size": 64,
        "num_mel_bins": 16,
        "window_size": 4,
        "enable_fusion": False,
    }
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    transformers.ClapModel(config).save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", "dog", "rain"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>"
    )
    features = transformers.ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="rand_trunc")
    tokenizer.save_pretrained(folder)
    features.save_pretrained(folder)
    return folder


def test_clap_embeds_sounds_and_captions(clap_folder):
    opened = clap(str(clap_folder))
    assert (opened.sample_rate, opened.dim) == (48_000, 12)
    assert opened.embed(0.1 * torch.randn(2, 1, 48_000)).shape == (2, 12)
    assert opened.texts is not None
    assert opened.texts(["dog", "rain dog"]).shape == (2, 12)
