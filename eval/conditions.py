"""Hard conditions for a converter: what its sources and references are turned into before it hears them."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import load, save
from data.manifest import rows_from
from data.synthetic.sentences import sentences
from data.voices import VOICES, speak
from eval import pitch
from eval.baselines import analyse
from eval.pairs import Pair

SAMPLE_RATE = pitch.SAMPLE_RATE
SNR_DB = 10.0
SPOKEN_DB = 30.0
"""What is this far below the loudest is no speech, of which the noise's level is counted."""
REFERENCE_SECONDS = {"reference-2s": 2.0, "reference-5s": 5.0, "reference-10s": 10.0}

Samples = Float[np.ndarray, "samples"]


def quiet(peak_dbfs: float) -> Callable[[Samples, int], Samples]:
    """Return what brings a recording's peak to a level."""
    return lambda samples, _: samples * 10 ** (peak_dbfs / 20) / max(np.abs(samples).max(), 1e-9)


def noisy(samples: Samples, number: int) -> Samples:
    """Add pink noise 10 dB below the speech."""
    power = np.square(samples)
    level = np.convolve(power, np.full(SAMPLE_RATE // 25, 25 / SAMPLE_RATE), mode="same")
    spoken = level > level.max() / 10 ** (SPOKEN_DB / 10)
    noise = np.fft.rfft(np.random.default_rng(number).standard_normal(len(samples)))
    noise /= np.sqrt(np.maximum(np.arange(len(noise)), 1.0))
    noise = np.fft.irfft(noise, len(samples))
    wanted = power[spoken].mean() / 10 ** (SNR_DB / 10)
    return samples + noise * np.sqrt(wanted / np.square(noise).mean())


def whispered(samples: Samples, _: int) -> Samples:
    """Imitate a whisper: WORLD's envelope, excited by noise alone."""
    f0 = pitch.harvest(samples)
    envelope = analyse(samples, f0)[0]
    voice = pitch.world().synthesize(
        np.zeros(len(f0)), envelope, np.ones_like(envelope), SAMPLE_RATE, pitch.HOP_MS
    )
    return np.pad(voice, (0, max(0, len(samples) - len(voice))))[: len(samples)]


CHANGES = {
    "quiet-30": quiet(-30.0),
    "quiet-50": quiet(-50.0),
    "noisy": noisy,
    "whispered": whispered,
}
"""By condition, from a recording and its number to what the converter hears of it."""
CONDITIONS = ("as-recorded", *CHANGES, "mandarin", "espeak", *REFERENCE_SECONDS)


def pairs_under(condition: str, pairs: Sequence[Pair], data: Path, out: Path) -> list[Pair]:
    """The pairs as a condition changes them, with new files in ``out``; fewer where the corpus lacks some."""
    match condition:
        case "as-recorded":
            changed = list(pairs)
        case "mandarin":
            changed = list(_with_mandarin_sources(pairs, data))
        case "espeak":
            changed = list(_spoken_by_espeak(pairs, out))
        case _ if condition in REFERENCE_SECONDS:
            changed = list(_with_short_references(pairs, REFERENCE_SECONDS[condition], out))
        case _:
            changed = list(_with_changed_sources(pairs, CHANGES[condition], out))
    return [replace(pair, system=condition, target_other=None) for pair in changed]


def _with_changed_sources(
    pairs: Sequence[Pair], change: Callable[[Samples, int], Samples], out: Path
) -> Iterator[Pair]:
    for number, pair in enumerate(pairs):
        samples = change(load(pair.source, SAMPLE_RATE)[0, 0].double().numpy(), number)
        samples = samples / max(1.0, float(np.abs(samples).max()))
        yield replace(pair, source=_written(out, number, torch.from_numpy(samples).float()[None, None]))


def _spoken_by_espeak(pairs: Sequence[Pair], out: Path) -> Iterator[Pair]:
    for number, (pair, text) in enumerate(zip(pairs, sentences(seed=1))):
        wave, _ = speak(text, VOICES[number % len(VOICES)], SAMPLE_RATE)
        yield replace(pair, source=_written(out, number, wave), text=text)


def _with_mandarin_sources(pairs: Sequence[Pair], data: Path) -> Iterator[Pair]:
    """Take recordings whose text is in Chinese characters alone as sources, of any split but train."""
    rows = [row for row in rows_from(data) if row.split != "train" and in_chinese(row.text or "")]
    rows.sort(key=lambda row: row.path)
    for number, pair in enumerate(pairs if rows else ()):
        row = rows[number % len(rows)]
        yield replace(pair, source=row.path, text=row.text or "")


def _with_short_references(pairs: Sequence[Pair], seconds: float, out: Path) -> Iterator[Pair]:
    """Cut references, one after the other, to a length; pairs whose references are shorter are left out."""
    for number, pair in enumerate(pairs):
        wave = torch.cat([load(path, SAMPLE_RATE) for path in pair.voice_clips], dim=-1)
        n_samples = round(seconds * SAMPLE_RATE)
        if wave.shape[-1] >= n_samples:
            yield replace(pair, references=(_written(out, number, wave[..., :n_samples]),))


def in_chinese(text: str) -> bool:
    """Whether all letters are Chinese characters, and there are some."""
    letters = [letter for letter in text if letter.isalpha()]
    return bool(letters) and all(unicodedata.name(letter, "").startswith("CJK") for letter in letters)


def _written(out: Path, number: int, wave: Float[Tensor, "1 1 samples"]) -> Path:
    path = out / f"{number:03d}.wav"
    save(path, wave, SAMPLE_RATE)
    return path
