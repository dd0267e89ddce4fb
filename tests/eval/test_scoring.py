"""Scores from features: error rates, intervals, the cache, and the whole way with a cheap judge."""

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
from eval.recognisers import Moonshine
from eval.scoring import Judges, interval, score_pairs, summarise, word_scores
from eval.trained_recogniser import TrainedRecogniser

RATE = 16_000


def test_error_rates_ignore_case_and_punctuation_and_average_decodings() -> None:
    heard = {"texts": np.array(["dont stop", "don't go"])}
    rates = error_rates("Don’t — STOP!", heard)
    assert rates["wer"] == pytest.approx(0.5)
    assert rates["cer"] == pytest.approx((1 + 3) / 2 / len("don't stop"))
    assert np.isnan(error_rates("", heard)["cer"])


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
def test_texts_are_compared_as_they_are_spoken(written: str, spoken: str) -> None:
    assert normalise(written) == normalise(spoken) == spoken


def test_a_text_in_other_letters_has_no_error_rate_by_a_recogniser_of_english() -> None:
    heard = {"texts": np.array(["show what"])}
    for text, known in (("说话", False), ("Größe naïve", True), ("", False)):
        rates = word_scores(text, heard, heard, Moonshine())
        assert np.isfinite(rates["cer"]) == known
    assert np.isfinite(word_scores("说话", heard, heard, TrainedRecogniser("folder"))["cer"])


def test_phones_are_compared_with_the_source() -> None:
    source, output = ({"phones": np.array([said])} for said in ("a b c d", "a c d d"))
    assert phones_changed(source, source) == 0
    assert phones_changed(source, output) == 0.5


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_an_interval_holds_its_mean_and_is_drawn_the_same(values: list[float]) -> None:
    found = interval(np.array(values))
    assert found["low"] - 1e-6 <= found["mean"] <= found["high"] + 1e-6
    assert found == interval(np.array(values))


def test_rows_without_a_value_are_left_out() -> None:
    summary = summarise([{"system": "a", "cer": 0.5}, {"system": "a", "cer": float("nan")}])
    assert summary["a"]["cer"]["n"] == 1
    assert "wer" not in summary["a"]


def test_a_file_is_known_by_its_content_and_a_broken_entry_is_computed_again(tmp_path: Path) -> None:
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
    """A judge of voices that hears two numbers only."""

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


def test_an_output_like_its_target_is_nearer_to_it(pair: Pair, tmp_path: Path) -> None:
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
def test_a_bad_file_is_named_with_its_line(
    pair: Pair, tmp_path: Path, column: str, make, complaint: str
) -> None:
    bad = replace(pair, **{column: make(tmp_path / "bad.wav")})
    with pytest.raises(UserError, match=complaint):
        score_pairs([bad], ["similarity"], judges=Judges(voice=Loudness()), cache=tmp_path / "c")
