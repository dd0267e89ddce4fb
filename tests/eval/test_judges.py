"""The real judges on real recordings: what they say points the right way."""

from pathlib import Path

import pytest
import torch

from data.audio import load
from eval.error_rates import error_rates
from eval.pairs import Pair, fixed_pairs
from eval.quality import DNSMOS, opinions
from eval.recognisers import Moonshine, Pocketsphinx, Recogniser
from eval.similarity import Resemblyzer, cosine


@pytest.fixture(scope="module")
def pair(speech_pack: Path) -> Pair:
    return min(fixed_pairs(speech_pack), key=lambda pair: pair.source.stat().st_size)


def test_one_speaker_is_nearer_than_another(pair: Pair) -> None:
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
def test_the_true_text_fits_better_than_another(
    pair: Pair, package: str, judge: Recogniser, most: float
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    wave = load(pair.source, 16_000)
    heard = judge(wave)
    assert list(heard["texts"]) == list(judge(wave)["texts"])
    assert error_rates(pair.text, heard)["cer"] < most
    assert error_rates("completely different words", heard)["cer"] > 0.7


def test_noise_lowers_the_opinion(pair: Pair) -> None:
    pytest.importorskip("speechmos", reason="speechmos is not installed")
    wave = load(pair.source, 16_000)
    clean, noisy = (opinions(DNSMOS()(w)) for w in (wave, wave + 0.1 * torch.randn_like(wave)))
    assert clean["dnsmos"] > noisy["dnsmos"] + 0.3
    assert 1 <= noisy["dnsmos"] <= 5
