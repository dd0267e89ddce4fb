"""What is probed: vectors of clips, one a file, and names that cannot be opened."""

import pytest
import soundfile
import torch
from torch.testing import assert_close

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.probe.comparisons import CLAP
from pretrain.probe.embedders import Embedder, LogMelStatistics, Pooled, open_embedder, open_embedders
from pretrain.probe.listener import Listener
from pretrain.probe.word_vectors import WordVectors

TINY = AudioEncoderConfig(width=4, blocks=(1, 1), dim=8, hidden=8)


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(5)
    encoder = AudioEncoder(TINY).eval()
    return export(tmp_path / "run" / "export", TINY, encoder), encoder


def test_an_exported_encoder_is_probed_as_it_is(exported):
    folder, encoder = exported
    wave = torch.randn(3, 1, 4000)
    embedder, random = open_embedders([str(folder), "random"])
    assert isinstance(embedder, Embedder)
    assert (embedder.name, random.name) == ("run", "random")
    assert embedder.dim == random.dim == 8
    assert_close(embedder.embed(wave), encoder(wave))
    assert not torch.allclose(random.embed(wave), embedder.embed(wave))
    assert_close(random.embed(wave), open_embedder("random", like=TINY).embed(wave))


def test_pooled_vectors_are_mean_and_deviation_of_the_last_map(exported):
    folder, encoder = exported
    pooled = open_embedder(f"pooled:{folder}")
    wave = torch.randn(2, 1, 8000)
    assert isinstance(pooled, Pooled)
    found = pooled.embed(wave)
    assert found.shape == (2, pooled.dim)
    assert_close(found[:, : TINY.channels], encoder.pooled(wave))


def test_batch_mates_do_not_change_a_vector():
    for embedder in (LogMelStatistics(), open_embedder("random", like=TINY)):
        wave = torch.randn(3, 1, 4000)
        assert embedder.embed(wave).shape == (3, embedder.dim)
        assert_close(embedder.embed(wave)[:1], embedder.embed(wave[:1]))


def test_long_files_are_the_mean_of_their_crops(tmp_path):
    wave = 0.1 * torch.randn(40_000)
    soundfile.write(tmp_path / "long.wav", wave.numpy(), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", wave[:9000].numpy(), 16_000, subtype="FLOAT")
    embedder = LogMelStatistics()
    ear = Listener(embedder, crop_s=1.0, progress=False)
    paths = [tmp_path / "short.wav", tmp_path / "long.wav", tmp_path / "short.wav"]
    heard = ear.hear(paths)
    crops = torch.stack([wave[:16_000], wave[16_000:32_000], wave[24_000:]])[:, None]
    assert_close(heard[1], embedder.embed(crops).mean(0))
    assert_close(heard[0], embedder.embed(wave[None, None, :9000])[0])
    assert torch.equal(heard[0], heard[2])


def test_files_are_heard_once(tmp_path):
    soundfile.write(tmp_path / "a.wav", torch.randn(4000).numpy() * 0.1, 16_000)
    ear = Listener(LogMelStatistics(), progress=False)
    first = ear.hear([tmp_path / "a.wav"])
    (tmp_path / "a.wav").unlink()
    assert torch.equal(ear.hear([tmp_path / "a.wav"]), first)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("runs/nowhere", "there is no such folder or file"),
        ("speech", "--encoder speech:PLACE"),
        ("clap:/", "give a local folder"),
        ("yamnet:nowhere.onnx", "there is no such ONNX file"),
        ("yamnet", "its ONNX file"),
        ("openl3", "torchopenl3"),
    ],
)
def test_what_cannot_be_opened_is_told(name, told, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=told):
        open_embedder(name)


def test_a_damaged_onnx_file_is_told(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not an ONNX model"):
        open_embedder(f"yamnet:{tmp_path / 'x.onnx'}")


def test_word_vectors_leave_out_what_all_captions_say(tmp_path):
    rng = torch.Generator().manual_seed(0)
    words = {word: torch.randn(5, generator=rng) for word in ("dog", "bark", "sound", "of", "a", "rain")}
    lines = [f"{word} {' '.join(f'{v:.5f}' for v in vector.tolist())}" for word, vector in words.items()]
    (tmp_path / "glove.txt").write_text("\n".join(lines))
    vectors = WordVectors(str(tmp_path / "glove.txt"))
    plain, told = vectors.texts(["dog bark", "This is a sound of dog bark."])
    assert_close(plain, told)
    assert_close(plain.norm(), torch.tensor(1.0))
    with pytest.raises(UserError, match="no word of 'xyzzy'"):
        vectors.texts(["xyzzy"])
    (tmp_path / "bad.txt").write_text("dog 1 2\nrain 1\n")
    with pytest.raises(UserError, match="line 2"):
        WordVectors(str(tmp_path / "bad.txt"))


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    """A CLAP of random weights, as transformers stores one."""
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


def test_clap_stands_beside_ours(clap_folder):
    clap = CLAP(str(clap_folder))
    assert isinstance(clap, Embedder)
    assert (clap.sample_rate, clap.dim) == (48_000, 12)
    assert clap.embed(0.1 * torch.randn(2, 1, 48_000)).shape == (2, 12)
    assert clap.texts(["dog", "rain dog"]).shape == (2, 12)
