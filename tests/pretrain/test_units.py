"""Units and decoding: tokens of transcripts, folding of phones, greedy and beam search."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.manifest import Row
from engine.user_error import UserError
from pretrain.ctc_score import beam_search, edit_distance, errors_between
from pretrain.units import PHONES, Characters, Phonemes, RecogniserOutput, Units, fold, greedy, plain

LETTERS = Units(Characters())


def row(text: str | None, **extra: str) -> Row:
    return Row(path=Path("a.wav"), text=text, extra=extra)


def tokens_of(text: str) -> list[int]:
    (tokens,) = LETTERS.labels([row(text)])
    assert tokens is not None
    return tokens


@given(st.text("abc xyz'", min_size=1).filter(str.strip))
def test_tokens_decode_to_the_transcript(text):
    text = " ".join(text.split())
    assert LETTERS.text(tokens_of(text)) == text
    phones = " ".join(PHONES[hash(c) % len(PHONES)] for c in text)
    units = Units(Phonemes())
    (tokens,) = units.labels([row(None, phonemes=phones)])
    assert units.text(tokens or []) == phones


def test_text_is_normalised():
    symbols = LETTERS.symbols
    assert plain("IT’S  Fine—really: DÉJÀ vu!", symbols) == "it's fine really deja vu"
    assert plain("a b", "ab") == "ab"
    kept = LETTERS.labels([row("HELLO THERE"), row(None), row("即便是"), row("..."), row("")])
    assert [label is None for label in kept] == [False, True, True, True, True]
    assert LETTERS.text(kept[0] or []) == "hello there"


def test_phones_of_the_manifest_are_preferred():
    labels = Units(Phonemes()).labels([row("whatever", phonemes="s iː"), row(None), row("即便是")])
    assert labels == [[PHONES.index("s") + 1, PHONES.index("i") + 1], None, None]


def test_characters_outside_the_alphabet_are_named():
    with pytest.raises(UserError, match=r"a\.wav has '7'"):
        LETTERS.labels([row("at 7 o'clock")])
    digits = Units(Characters(alphabet=" abcdefghijklmnopqrstuvwxyz'7"))
    assert digits.text(digits.labels([row("at 7")])[0] or []) == "at 7"


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(t for i, t in enumerate(path) if t and (i == 0 or path[i - 1] != t))


def enumerated(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Add up every path."""
    found: dict[tuple[int, ...], float] = {}
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        p = float(np.exp(sum(log_probs[i, t] for i, t in enumerate(path))))
        found[collapse(path)] = found.get(collapse(path), 0.0) + p
    return found


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 5))
def test_wide_beam_equals_enumeration_of_paths(seed, frames):
    log_probs = torch.randn(frames, 3, generator=torch.Generator().manual_seed(seed)).log_softmax(-1).numpy()
    truth = enumerated(log_probs)
    found = beam_search(log_probs, 1000)
    assert next(iter(found)) == max(truth, key=lambda tokens: truth[tokens])
    for tokens, log_prob in found.items():
        assert np.exp(log_prob) == pytest.approx(truth[tokens], rel=1e-4)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_beam_search_of_certain_posteriors_is_greedy(path):
    log_probs = torch.full((1, len(path), 5), -20.0)
    log_probs[0, torch.arange(len(path)), torch.tensor(path)] = 0.0
    log_probs = log_probs.log_softmax(-1)
    best = next(iter(beam_search(log_probs[0].numpy(), 3)))
    assert list(best) == greedy(RecogniserOutput([], log_probs))[0] == list(collapse(tuple(path)))


def test_padding_is_not_decoded():
    log_probs = torch.randn(1, 6, 4).log_softmax(-1)
    valid = torch.tensor([[True] * 4 + [False] * 2])
    assert greedy(RecogniserOutput([], log_probs, valid)) == greedy(RecogniserOutput([], log_probs[:, :4]))


def test_words_are_counted_for_characters_only():
    label, recognised = (tokens_of(text) for text in ("a cat sat", "a hat sat"))
    assert errors_between(LETTERS, label, recognised) == (1, 9, 1, 3)
    assert errors_between(Units(Phonemes()), [1, 2], [1]) == (1, 2, 0, 0)


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
@settings(max_examples=50, deadline=None)
def test_edit_distance_is_a_metric(one, other):
    distance = edit_distance(one, other)
    assert distance == edit_distance(other, one)
    assert (distance == 0) == (one == other)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))


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


def test_phoneme_outside_english_is_named():
    with pytest.raises(UserError, match="ʙ"):
        fold("b ʙ")
