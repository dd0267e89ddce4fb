"""Generate a corpus of many synthetic voices with known texts, without any download.

python -m data.voices corpus --minutes 25 --voices 24

writes corpus/<voice>/<number>.flac and corpus/manifest.csv (path, speaker, text, split, duration, gender,
phonemes). Voices and sentences of the test split occur in no other split; validation has other sentences than
train, by the same voices. The same command makes the same files, and resumes when interrupted.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import AudioError, info, resample, save
from data.manifest import Row, write_manifest
from data.synthetic.espeak import Phoneme, phonemize, synthesize
from data.synthetic.sentences import PATTERNS, SLOTS, sentences
from engine.arguments import Arguments
from engine.files import atomic
from engine.user_error import UserError, exits_cleanly, within

__all__ = ["VOICES", "Corpus", "Phoneme", "Voice", "make_corpus", "phonemize", "speak"]

LEVEL_DB = -25.0
"""RMS level of every recording in dBFS."""
PEAK = 0.95
MIN_VOICES, MIN_ROUNDS = 4, 3
"""Minimum numbers with which every split has recordings."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    name: str
    gender: str
    """``F`` or ``M``."""
    accent: str
    """Language of espeak."""
    variant: str
    """Voice variant of espeak: formants and their bandwidths, breathiness, tremor."""
    pitch: int
    """Pitch from 0 to 100; 50 is the variant's default."""
    pitch_range: int
    """Pitch range from 0 (monotonous) to 100 (lively)."""
    words_per_minute: int


def _voices() -> Iterator[Voice]:
    with Path(__file__).with_name("synthetic").joinpath("voices.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            known: dict[str, Any] = {key: int(cell) if cell.isdigit() else cell for key, cell in row.items()}
            yield Voice(**known)


VOICES = tuple(_voices())
"""All voices, alternately female and male.

Mean F0s of voices of one gender are about 3 % apart (155 to 280 Hz, 75 to 150 Hz), in an order in which the
first few voices cover the whole range.
"""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The settings that define a corpus; more minutes extend it."""

    voices: int = 24
    """Number of voices, half of them female."""
    sample_rate: int = 16_000
    """Sample rate in Hz."""
    seed: int = 0
    """Random seed of the sentences."""
    parallel: bool = False
    """Whether all voices of a split speak the same sentences; otherwise every sentence is spoken once."""

    def __post_init__(self) -> None:
        within(f"[{MIN_VOICES}, {len(VOICES)}]", self, "voices")
        within("[8000, 48000]", self, "sample_rate")

    @property
    def cast(self) -> tuple[Voice, ...]:
        return VOICES[: self.voices]

    @property
    def test_voices(self) -> tuple[Voice, ...]:
        """The voices of the test split: one female and one male voice of every six pairs."""
        return tuple(voice for number, voice in enumerate(self.cast) if number // 2 % 6 == 1)


def speak(
    text: str, voice: Voice, sample_rate: int = 16_000
) -> tuple[Float[Tensor, "1 1 samples"], list[Phoneme]]:
    """Synthesise a text; returns the wave and the phonemes with their times."""
    wave, phonemes, rate = synthesize(
        text,
        f"{voice.accent}+{voice.variant}",
        pitch=voice.pitch,
        pitch_range=voice.pitch_range,
        words_per_minute=voice.words_per_minute,
    )
    return resample(levelled(wave), rate, sample_rate), phonemes


def levelled(wave: Float[np.ndarray, "samples"]) -> Float[Tensor, "1 1 samples"]:
    """Normalise a wave to ``LEVEL_DB``, or to a lower level if its peak would exceed ``PEAK``."""
    gain = min(10 ** (LEVEL_DB / 20) / np.sqrt(np.square(wave).mean()), PEAK / np.abs(wave).max())
    return torch.from_numpy(wave * np.float32(gain))[None, None]


def claim(folder: Path, edition: Mapping[str, Any]) -> None:
    """Store a corpus' settings in ``corpus.json``; raise if the folder has other contents or settings."""
    wanted, file = json.dumps(edition, indent=2), folder / "corpus.json"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the corpus")
    if file.is_file():
        if file.read_text() != wanted:
            other = "holds a corpus made with other options, texts or models (see its corpus.json)"
            raise UserError(f"{folder} {other}; choose another folder")
        return
    if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and not a corpus of this program; choose another folder")
    with atomic(file) as temporary:
        temporary.write_text(wanted)


def make_corpus(out: str | Path, minutes: float = 25.0, corpus: Corpus | None = None) -> Path:
    """Make or complete a corpus of at least ``minutes``, with equally many recordings of each voice.

    Returns the path of the manifest.
    """
    out, corpus = Path(out), corpus or Corpus()
    if not 0 < minutes < float("inf"):
        raise UserError(f"minutes={minutes} must be above 0")
    # Releases with other voices or sentences must not be mixed in one corpus.
    edition = hashlib.sha256(repr((VOICES, SLOTS, PATTERNS, LEVEL_DB)).encode()).hexdigest()[:12]
    claim(out, {**asdict(corpus), "edition": edition})
    rows: list[Row] = []
    seconds = 0.0
    with tqdm(total=round(minutes * 60), unit="s", desc="speaking", delay=1.0) as bar:
        for number, lines in enumerate(_rounds(corpus)):
            for voice, split, text in lines:
                path = out / voice.name / f"{number:04}.flac"
                duration = _recorded(path, text, voice, corpus.sample_rate)
                row = Row(path=path, speaker=voice.name, text=text, split=split, gender=voice.gender)
                rows.append(replace(row, duration=duration))
                seconds += duration
                bar.update(min(int(seconds), bar.total) - bar.n)
            if seconds >= minutes * 60 and number + 1 >= MIN_ROUNDS:
                break
    write_manifest(out / "manifest.csv", _with_phonemes(rows, corpus))
    return out / "manifest.csv"


def _rounds(corpus: Corpus) -> Iterator[list[tuple[Voice, str, str]]]:
    """Yield, without end, rounds of one line per voice: voice, split and text."""
    texts = {split: _texts(corpus.seed, split) for split in ("train", "validation", "test")}
    for number in count():
        texts_of_round: dict[str, str] = {}
        lines = []
        for voice in corpus.cast:
            seen = "validation" if number % 10 == 1 else "train"
            split = "test" if voice in corpus.test_voices else seen
            if split not in texts_of_round or not corpus.parallel:
                texts_of_round[split] = next(texts[split])
            lines.append((voice, split, texts_of_round[split]))
        yield lines


def _texts(seed: int, split: str) -> Iterator[str]:
    """Yield the sentences of a split: one in ten is for validation, one in ten for test."""
    splits = cycle(["train"] * 8 + ["validation", "test"])
    return (text for text, of in zip(sentences(seed), splits) if of == split)


def _recorded(path: Path, text: str, voice: Voice, sample_rate: int) -> float:
    """Synthesise a file unless it exists, and return its duration in seconds."""
    try:
        return info(path).duration
    except AudioError:
        wave, _ = speak(text, voice, sample_rate)
        save(path, wave, sample_rate)
        return wave.shape[-1] / sample_rate


def _with_phonemes(rows: list[Row], corpus: Corpus) -> list[Row]:
    accents = {voice.name: voice.accent for voice in corpus.cast}
    spoken: dict[int, str] = {}
    for accent in sorted(set(accents.values())):
        indices = [index for index, row in enumerate(rows) if accents[str(row.speaker)] == accent]
        spoken |= zip(indices, phonemize([rows[index].text or "" for index in indices], accent))
    return [replace(row, extra={"phonemes": spoken[index]}) for index, row in enumerate(rows)]


@exits_cleanly
def main(argv: list[str] | None = None) -> None:
    arguments = Arguments.described_by("data.voices", __doc__)
    option = arguments.add_argument
    option("out", type=Path, help="folder to make or complete")
    option("--minutes", type=float, default=25.0, help="minutes of speech (default 25)")
    option("--voices", type=int, default=24, help=f"voices, {MIN_VOICES} to {len(VOICES)} (default 24)")
    option("--sample-rate", type=int, default=16_000, help="sample rate in Hz (default 16000)")
    option("--seed", type=int, default=0, help="random seed of the sentences (default 0)")
    option("--parallel", action="store_true", help="let all voices speak the same sentences")
    given = arguments.parse_args(argv)
    corpus = Corpus(**{f.name: getattr(given, f.name) for f in fields(Corpus)})
    manifest = make_corpus(given.out, given.minutes, corpus)
    n_test = len(corpus.test_voices)
    print(f"{manifest}: {corpus.voices} voices, {n_test} of them in the test split only")


if __name__ == "__main__":
    main()
