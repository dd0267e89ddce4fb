"""The packaged judges on real recordings: their scores rank clear cases correctly."""

import json
from pathlib import Path

import pytest
import torch

from data.audio import load
from eval.error_rates import error_rates
from eval.pairs import Pair, fixed_pairs
from eval.quality import DNSMOS, opinions
from eval.recognisers import Moonshine, Pocketsphinx, Recogniser, recogniser
from eval.similarity import Resemblyzer, cosine


@pytest.fixture(scope="module")
def pair(speech_pack: Path) -> Pair:
    return min(fixed_pairs(speech_pack), key=lambda pair: pair.source.stat().st_size)


def test_same_speaker_is_more_similar_than_another(pair: Pair) -> None:
    pytest.importorskip("resemblyzer", reason="resemblyzer is not installed")
    assert pair.target_other
    source, target, other = (
        Resemblyzer()(load(path, 16_000))["embedding"]
        for path in (pair.source, pair.target, pair.target_other)
    )
    assert cosine(target, other) > cosine(target, source) + 0.1
    assert cosine(target, target) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("package", "judge", "most"),
    [("moonshine_voice", Moonshine(), 0.2), ("pocketsphinx", Pocketsphinx(), 0.7)],
)
def test_true_text_has_a_lower_error_rate_than_another(
    pair: Pair, package: str, judge: Recogniser, most: float
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    wave = load(pair.source, 16_000)
    recognised = judge(wave)
    assert list(recognised["texts"]) == list(judge(wave)["texts"])
    assert error_rates(pair.text, recognised)["cer"] < most
    assert error_rates("completely different words", recognised)["cer"] > 0.7


def test_noise_lowers_dnsmos(pair: Pair) -> None:
    pytest.importorskip("speechmos", reason="speechmos is not installed")
    wave = load(pair.source, 16_000)
    clean, noisy = (opinions(DNSMOS()(w)) for w in (wave, wave + 0.1 * torch.randn_like(wave)))
    assert clean["dnsmos"] > noisy["dnsmos"] + 0.3
    assert 1 <= noisy["dnsmos"] <= 5


def test_transformers_recogniser_loads_from_its_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    letters = ["<pad>", "<unk>", "|", *"abcdefgh"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 4)}
    config = transformers.Wav2Vec2Config(
        vocab_size=len(letters), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        **small, **convolutions, num_feat_extract_layers=2, feat_extract_norm="layer",
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    tokens = {"unk_token": "<unk>", "pad_token": "<pad>", "word_delimiter_token": "|"}
    transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **tokens).save_pretrained(tmp_path)
    judge = recogniser(str(tmp_path))
    assert judge.name == tmp_path.name
    (text,) = judge(0.1 * torch.randn(1, 1, 8_000))["texts"]
    assert {*"abcdefgh"} & set(str(text))  # random weights give random letters
    assert list(judge(torch.zeros(1, 1, 8_000))["texts"]) == [""]
