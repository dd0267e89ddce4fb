"""Captions of voices: measurements are quantised to levels, from which captions are generated.

    traits = traits_of(measure_voice(wave), SCALE, gender="M", age="old")
    describe(traits, rng)  # "an elderly man, low and very rough"

Words are relative: together with a gender, "low" means low for that gender, otherwise for all speakers. Pace
is omitted, because a converter preserves the source's. Melody is included, although a converter that
preserves the source's melody does not follow it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from data.voice_meter import VoiceMeasures

Gender = Literal["F", "M"]
Age = Literal["child", "young", "adult", "old"]
HEARD = ("pitch", "roughness", "brightness", "melody")
"""Audible traits, as levels from -2 (very low) to 2 (very high)."""
STEPS = (-1.25, -0.4, 0.4, 1.25)
"""Boundaries between the levels in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Traits of a voice; None if unspecified. Those in ``HEARD`` are levels from -2 to 2."""

    gender: Gender | None = None
    age: Age | None = None
    pitch: int | None = None
    roughness: int | None = None
    brightness: int | None = None
    melody: int | None = None


@dataclass(frozen=True, kw_only=True)
class Normal:
    """Mean and standard deviation of each measure over some voices, in the order of ``VoiceMeasures``."""

    mean: tuple[float, float, float, float]
    spread: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The distributions of measures over all, female and male voices."""

    everybody: Normal
    women: Normal
    men: Normal

    def of(self, gender: Gender | None) -> Normal:
        """Return the distribution that words for this gender are relative to."""
        return self.everybody if gender is None else self.women if gender == "F" else self.men


WORDS: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "pitch": {
        -2: ("very low", "very deep", "extremely low"),
        -1: ("low", "deep", "low-pitched"),
        0: ("medium-pitched",),
        1: ("high", "high-pitched"),
        2: ("very high", "shrill", "extremely high"),
    },
    "roughness": {
        -2: ("very smooth", "very clear", "silky"),
        -1: ("smooth", "clear", "clean"),
        1: ("rough", "hoarse", "raspy"),
        2: ("very rough", "very hoarse", "gravelly"),
    },
    "brightness": {
        -2: ("very dark", "very dull", "muffled"),
        -1: ("dark", "dull", "mellow"),
        1: ("bright", "crisp"),
        2: ("very bright", "sharp", "piercing"),
    },
    "melody": {
        -2: ("very flat", "monotone"),
        -1: ("flat", "even"),
        1: ("lively", "expressive"),
        2: ("very lively", "animated"),
    },
}
"""Words for each level; levels without words are omitted from captions."""
AGES: Mapping[str, tuple[str, ...]] = {
    "child": ("little", "small"),
    "young": ("young", "youthful"),
    "adult": ("adult", "middle-aged"),
    "old": ("old", "elderly", "aged"),
}
PEOPLE: Mapping[tuple[str | None, bool], tuple[str, ...]] = {
    ("F", False): ("woman", "lady", "female speaker"),
    ("M", False): ("man", "gentleman", "male speaker"),
    (None, False): ("person", "speaker", "someone"),
    ("F", True): ("girl",),
    ("M", True): ("boy",),
    (None, True): ("child", "kid"),
}
"""Nouns by gender and whether the speaker is a child."""
FORMS = (
    "{who}, {how}",
    "{who} with a {how} voice",
    "the {how} voice of {who}",
    "{who} whose voice is {how}",
    "{who} speaking, {how}",
)


def fit_scale(measures: Sequence[VoiceMeasures], genders: Sequence[str | None]) -> Scale:
    """Fit the distributions on a corpus; a gender with fewer than 5 voices gets that of all voices."""
    table = np.array(measures, dtype=np.float64)

    def normal(chosen: np.ndarray) -> Normal:
        part = table[chosen] if chosen.sum() >= 5 else table
        mean, spread = part.mean(0).tolist(), np.maximum(part.std(0), 1e-3).tolist()
        return Normal(mean=tuple(mean), spread=tuple(spread))

    known = np.array([gender or "" for gender in genders])
    return Scale(everybody=normal(known == known), women=normal(known == "F"), men=normal(known == "M"))


def deviations(measures: VoiceMeasures, normal: Normal) -> dict[str, float]:
    """Return the deviation of each audible trait from the mean, in standard deviations."""
    names = ("pitch", "melody", "brightness", "roughness")  # the order of VoiceMeasures
    return {
        name: (value - mean) / spread
        for name, value, mean, spread in zip(names, measures, normal.mean, normal.spread)
    }


def level(deviation: float) -> int:
    return int(np.searchsorted(STEPS, deviation, side="right")) - 2


def traits_of(
    measures: VoiceMeasures, scale: Scale, *, gender: Gender | None = None, age: Age | None = None
) -> Traits:
    """Return all traits of a voice from its measures and, if known, its gender and age."""
    found = {name: level(value) for name, value in deviations(measures, scale.of(gender)).items()}
    return Traits(gender=gender, age=age, **found)


def guessed_age(measures: VoiceMeasures, scale: Scale, gender: Gender | None) -> Age:
    """Assign an age for corpora without ages: rough and low is old, smooth and high is young.

    This is a convention of these captions, not a finding about speakers.
    """
    found = deviations(measures, scale.of(gender))
    years = found["roughness"] - 0.7 * found["pitch"]
    return "old" if years > 1.0 else "young" if years < -0.6 else "adult"


def age_of(word: str | None) -> Age | None:
    """Convert an age in a corpus: Common Voice's decades ("sixties"), or a number of years."""
    word = (word or "").strip().lower()
    decades = ("teens", "twenties", "thirties", "fourties", "forties", "fifties")
    if word in decades:
        return "young" if word in decades[:2] else "adult"
    if word in ("sixties", "seventies", "eighties", "nineties"):
        return "old"
    if re.fullmatch(r"\d{1,3}", word):
        years = int(word)
        return "child" if years < 13 else "young" if years < 30 else "adult" if years < 60 else "old"
    return None


def some_of(traits: Traits, rng: np.random.Generator, *, keep: float = 0.5) -> Traits:
    """Drop a random subset of the traits, but never all that have words."""
    stated = [f.name for f in fields(traits) if sayable(f.name, getattr(traits, f.name))]
    dropped = [name for name in stated if rng.random() > keep]
    if len(dropped) == len(stated) and stated:
        dropped.remove(str(rng.choice(stated)))
    return replace(traits, **dict.fromkeys(dropped))


def sayable(name: str, value: object) -> bool:
    """Return whether there are words for the value of a trait."""
    return value is not None and (name not in WORDS or value in WORDS[name])


def describe(traits: Traits, rng: np.random.Generator) -> str:
    """Generate a random caption with all traits that have words."""
    words = [
        str(rng.choice(WORDS[name][getattr(traits, name)]))
        for name in rng.permutation(HEARD)
        if sayable(name, getattr(traits, name))
    ]
    how = listed(words)
    if traits.gender is None and traits.age is None and words and rng.random() < 0.7:
        return f"{article(how)} {how} voice"
    who = _who(traits, rng)
    if not words:
        return who if rng.random() < 0.6 else f"the voice of {who}"
    text = str(rng.choice(FORMS)).format(who=who, how=how)
    return text.replace(f"with a {how}", f"with {article(how)} {how}")


def _who(traits: Traits, rng: np.random.Generator) -> str:
    child = traits.age == "child"
    nouns = PEOPLE[traits.gender, child]
    noun = str(rng.choice([word for word in nouns if word != "someone" or traits.age is None]))
    # "A child" states the age without "little"; "a person" does not.
    if traits.age is not None and (not child or rng.random() < 0.5):
        noun = f"{rng.choice(AGES[traits.age])} {noun}"
    return noun if noun == "someone" else f"{article(noun)} {noun}"


def listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def article(text: str) -> str:
    return "an" if text[:1] in "aeiou" else "a"
