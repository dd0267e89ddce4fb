"""Scores from features: error rates, intervals, the cache, and score_pairs with a cheap judge."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.audio.writing import save
from engine.user_error import UserError
from eval.error_rates import error_rates, normalise, phones_changed
from eval.features import Cache, content_hash
from eval.pairs import Pair
from eval.recognisers import Moonshine, TrainedRecogniser
from eval.scoring import Judges, interval, score_pairs, summarise, word_scores

RATE = 16_000


def test_error_rates_ignore_case_and_punctuation_and_average_decodings() -> None:
    recognised = {"texts": np.array(["dont stop", "don't go"])}
    rates = error_rates("Don’t — STOP!", recognised)
    assert rates["wer"] == pytest.approx(0.5)
    assert rates["cer"] == pytest.approx((1 + 3) / 2 / len("don't stop"))
    assert np.isnan(error_rates("", recognised)["cer"])


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("A,b  c_d", "a b c d"),
        ("Mr. and Mrs. O’Hara & Dr. No", "mister and missus o'hara and doctor no"),
        ("In 1893, 21 men", "in eighteen ninety three twenty one men"),
        ("1,234 of the 3rd", "one thousand two hundred and thirty four of the third"),
        ("$5, 12.5%", "five dollars twelve point five percent"),
        ("at 10:30", "at ten thirty"),
        ("1" * 400, "1" * 400),
    ],
)
def test_normalisation_spells_out_numbers_and_abbreviations(written: str, spoken: str) -> None:
    assert normalise(written) == normalise(spoken) == spoken


def test_english_recogniser_gives_no_error_rate_for_other_scripts() -> None:
    recognised = {"texts": np.array(["show what"])}
    for text, known in (("说话", False), ("Größe naïve", True), ("", False)):
        rates = word_scores(text, recognised, recognised, Moonshine())
        assert np.isfinite(rates["cer"]) == known
    assert np.isfinite(word_scores("说话", recognised, recognised, TrainedRecogniser("folder"))["cer"])


def test_phones_changed_is_relative_to_the_source() -> None:
    source, output = ({"phones": np.array([said])} for said in ("a b c d", "a c d d"))
    assert phones_changed(source, source) == 0
    assert phones_changed(source, output) == 0.5


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_interval_contains_the_mean_and_is_deterministic(values: list[float]) -> None:
    found = interval(np.array(values))
    assert found["low"] - 1e-6 <= found["mean"] <= found["high"] + 1e-6
    assert found == interval(np.array(values))


def test_nan_is_excluded_from_summaries() -> None:
    summary = summarise([{"system": "a", "cer": 0.5}, {"system": "a", "cer": float("nan")}])
    assert summary["a"]["cer"]["n"] == 1
    assert "wer" not in summary["a"]


def test_cache_is_keyed_by_content_and_broken_entries_are_recomputed(tmp_path: Path) -> None:
    file, cache, calls = tmp_path / "x", Cache(tmp_path / "cache"), []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"value": np.arange(3)}

    file.write_text("one")
    first = content_hash(file)
    for _ in range(2):
        np.testing.assert_array_equal(cache.remember("kind", first, compute)["value"], np.arange(3))
    assert len(calls) == 1
    file.write_text("three")
    assert content_hash(file) != first
    next(iter(cache.folder.rglob("*.npz"))).write_bytes(b"broken off")
    cache.remember("kind", first, compute)
    assert len(calls) == 2


@dataclass(frozen=True)
class Loudness:
    """A judge of voices with the mean level as embedding."""

    kind: str = "loudness"

    def check(self) -> None:
        """Nothing to install."""

    def __call__(self, wave: Tensor) -> dict[str, np.ndarray]:
        return {"embedding": np.array([float(wave.abs().mean()), 0.1], np.float32)}


def write(path: Path, level: float) -> Path:
    save(path, level * torch.sin(torch.arange(RATE // 2) / 10)[None, None], RATE)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    source, target, output = (write(tmp_path / f"{level}.wav", level) for level in (0.05, 0.5, 0.4))
    return Pair(source=source, target=target, output=output, where="pairs.csv line 2")


def test_output_similar_to_the_target_scores_nearer(pair: Pair, tmp_path: Path) -> None:
    pairs = [pair, replace(pair, output=pair.source, system="copy")]
    rows, summary = score_pairs(pairs, ["similarity"], judges=Judges(voice=Loudness()), cache=tmp_path / "c")
    assert [row["nearer_to_target"] for row in rows] == [1, 0]
    assert summary["system"]["to_target"]["mean"] > summary["copy"]["to_target"]["mean"]
    assert (rows, summary) == score_pairs(
        pairs, ["similarity"], judges=Judges(voice=Loudness()), cache=tmp_path / "d"
    )


@pytest.mark.parametrize(
    ("column", "make", "complaint"),
    [
        ("output", lambda p: p, "line 2: the output .* does not exist"),
        ("target", lambda p: p.mkdir() or p, "line 2: the target .* is a folder"),
        ("source", lambda p: p.write_text("no audio") and p, "line 2: .*bad.wav"),
        ("source", lambda p: write(p, 0.0), "line 2: .*bad.wav is silent"),
    ],
)
def test_unusable_file_is_named_with_its_line(
    pair: Pair, tmp_path: Path, column: str, make, complaint: str
) -> None:
    bad = replace(pair, **{column: make(tmp_path / "bad.wav")})
    with pytest.raises(UserError, match=complaint):
        score_pairs([bad], ["similarity"], judges=Judges(voice=Loudness()), cache=tmp_path / "c")
