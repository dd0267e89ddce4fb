"""Captions of voices state what was measured."""

import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.synthetic.faces import draw_face
from data.voice_captions import (
    AGES,
    HEARD,
    PEOPLE,
    WORDS,
    Traits,
    age_of,
    describe,
    deviations,
    fit_scale,
    guessed_age,
    level,
    sayable,
    some_of,
    traits_of,
)
from data.voice_meter import SAMPLE_RATE, VoiceMeasures, measure_voice
from engine.user_error import UserError

LEVELS = st.one_of(st.none(), st.integers(-2, 2))
TRAITS = st.builds(
    Traits,
    gender=st.sampled_from([None, "F", "M"]),
    age=st.sampled_from([None, "child", "young", "adult", "old"]),
    **dict.fromkeys(HEARD, LEVELS),
)


def read(text: str) -> Traits:
    """Return the traits that a caption's words state; other words are ignored."""
    text = " " + re.sub(r"[^a-z\-]+", " ", text.lower()) + " "
    found: dict[str, str | int] = {}
    phrases = [
        (word, name, value) for name, levels in WORDS.items() for value in levels for word in levels[value]
    ]
    # "very rough" is looked for before "rough", and then taken out.
    for word, name, value in sorted(phrases, key=lambda phrase: -len(phrase[0])):
        if f" {word} " in text:
            found.setdefault(name, value)
            text = text.replace(f" {word} ", " ")
    people = [(word, gender, child) for (gender, child), words in PEOPLE.items() for word in words]
    for word, gender, child in sorted(people, key=lambda phrase: -len(phrase[0])):
        if f" {word} " in text:
            if gender is not None:
                found.setdefault("gender", gender)
            if child:
                found.setdefault("age", "child")
            text = text.replace(f" {word} ", " ")
    for age, words in AGES.items():
        if any(f" {word} " in text for word in words):
            found.setdefault("age", age)
    return Traits(**found)


def with_words(traits: Traits) -> Traits:
    """Drop the traits that have no words."""
    return replace(
        traits, **{f.name: None for f in fields(traits) if not sayable(f.name, getattr(traits, f.name))}
    )


@settings(deadline=None)  # the machine may be busy
@given(traits=TRAITS, seed=st.integers(0, 10_000))
def test_captions_state_all_traits(traits, seed):
    assert read(describe(traits, np.random.default_rng(seed))) == with_words(traits)


@settings(deadline=None)  # the machine may be busy
@given(traits=TRAITS, seed=st.integers(0, 10_000))
def test_subset_of_traits_is_not_empty(traits, seed):
    part = some_of(traits, np.random.default_rng(seed))
    for f in fields(traits):
        assert getattr(part, f.name) in (None, getattr(traits, f.name))
    if with_words(traits) != Traits():
        assert with_words(part) != Traits()


def test_captions_depend_on_the_seed():
    traits = Traits(gender="M", age="old", pitch=-1, roughness=1)
    captions = [describe(traits, np.random.default_rng(seed)) for seed in range(40)]
    assert captions[3] == describe(traits, np.random.default_rng(3))
    assert len(set(captions)) > 20


def test_words_are_unambiguous():
    words = [word for levels in WORDS.values() for level in levels.values() for word in level]
    assert len(words) == len(set(words))


def test_known_words_are_found_in_free_text():
    assert read("An OLD man, low and rough!") == Traits(gender="M", age="old", pitch=-1, roughness=1)
    assert read("a woman") == Traits(gender="F")
    assert read("nothing of the kind") == Traits()


def test_words_are_relative_to_the_gender():
    rng = np.random.default_rng(0)
    women = [VoiceMeasures(math.log(210) + 0.1 * rng.normal(), 2.0, 0.3, -10.0) for _ in range(30)]
    men = [VoiceMeasures(math.log(110) + 0.1 * rng.normal(), 2.0, 0.3, -10.0) for _ in range(30)]
    scale = fit_scale([*women, *men], ["F"] * 30 + ["M"] * 30)
    deep_woman = VoiceMeasures(math.log(160), 2.0, 0.3, -10.0)
    assert traits_of(deep_woman, scale, gender="F").pitch == -2
    assert traits_of(deep_woman, scale).pitch == 0
    assert traits_of(deep_woman, scale, gender="M").pitch == 2
    assert deviations(deep_woman, scale.of(None))["melody"] == pytest.approx(0.0)


def test_levels_increase_with_deviations():
    levels = [level(x) for x in np.linspace(-3, 3, 61)]
    assert levels == sorted(levels)
    assert set(levels) == {-2, -1, 0, 1, 2}


def test_assigned_ages_increase_with_roughness():
    scale = fit_scale([VoiceMeasures(5.0 + 0.1 * i, 2.0, 0.3, -10.0 + i) for i in range(-3, 4)], [None] * 7)
    assert guessed_age(VoiceMeasures(4.8, 2.0, 0.3, -7.0), scale, None) == "old"
    assert guessed_age(VoiceMeasures(5.2, 2.0, 0.3, -13.0), scale, None) == "young"


@pytest.mark.parametrize(
    ("word", "age"),
    [
        ("sixties", "old"),
        ("twenties", "young"),
        ("fourties", "adult"),
        ("7", "child"),
        ("71", "old"),
        ("", None),
    ],
)
def test_ages_of_corpora_are_converted(word, age):
    assert age_of(word) == age


def voice_like(f0: float, noise: float, tilt: float = 1.0) -> torch.Tensor:
    """Two seconds of a harmonic sound whose amplitudes fall by ``tilt``."""
    time = torch.arange(2 * SAMPLE_RATE).double() / SAMPLE_RATE
    swing = f0 * (1 + 0.02 * torch.sin(2 * math.pi * 3 * time))
    phase = 2 * math.pi * (swing / SAMPLE_RATE).cumsum(0)
    wave = sum(0.1 / k**tilt * torch.sin(k * phase + k * k) for k in range(1, 20))
    return (wave + noise * torch.randn(len(time)).double()).float()[None, None]


@pytest.mark.parametrize("f0", [90.0, 130.0, 210.0, 320.0])
def test_pitch_is_measured(f0):
    assert measure_voice(voice_like(f0, 0.002)).log_f0 == pytest.approx(math.log(f0), abs=0.02)


def test_noise_is_rough_and_overtones_are_bright():
    plain = measure_voice(voice_like(150.0, 0.002))
    assert measure_voice(voice_like(150.0, 0.03)).roughness > plain.roughness + 3
    assert measure_voice(voice_like(150.0, 0.002, tilt=0.3)).brightness > plain.brightness + 0.2
    louder = measure_voice(4 * voice_like(150.0, 0.002))
    assert louder.brightness == pytest.approx(plain.brightness, abs=0.05)


def test_waves_without_voice_are_refused():
    with pytest.raises(UserError, match="too short"):
        measure_voice(torch.zeros(1, 1, 100))
    with pytest.raises(UserError, match="voiced"):
        measure_voice(torch.randn(1, 1, SAMPLE_RATE) * 0.1)


@settings(deadline=None, max_examples=30)
@given(traits=TRAITS, seed=st.integers(0, 100))
def test_faces_are_a_function_of_the_seed(traits, seed):
    one, other = (draw_face(traits, np.random.default_rng(seed), size=32) for _ in range(2))
    assert one.shape == (3, 32, 32)
    assert one.dtype == torch.uint8
    assert torch.equal(one, other)


def test_voice_traits_are_drawn_as_a_wave():
    faces = [
        draw_face(Traits(gender="F", age="young", **h), np.random.default_rng(1)) for h in ({}, {"pitch": 1})
    ]
    strip = slice(-17, None)
    assert not torch.equal(faces[0][:, strip], faces[1][:, strip])
    low, high = (
        draw_face(Traits(gender="F", age="young", pitch=p, roughness=-2), np.random.default_rng(1))[:, strip]
        for p in (-2, 2)
    )
    edges = [float((picture.float().mean(0).diff(dim=-1).abs()).mean()) for picture in (low, high)]
    assert edges[1] > edges[0]
