"""Score a converter under hard conditions: python -m eval.robustness --converter released --data speech

Conditions: sources with a peak of -30 or -50 dBFS, in pink noise 10 dB below the speech, whispered
(simulated with WORLD), in Mandarin, or spoken by espeak; references of 2, 5 and 10 s; and 10 s of digital
silence. The table has one row per condition; "above source" compares with the converter's actual input.
Writes table.txt, rows.csv, summary.json and the audio to the folder ``out``.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import load, save
from data.manifest import rows_from
from data.synthetic.sentences import sentences
from data.voices import VOICES, speak
from engine.config import cli
from engine.outcome import check_results, end, note
from engine.user_error import UserError, exits_cleanly
from eval import pitch
from eval.baselines import analyse
from eval.features import Cache
from eval.outputs import Voices, load_converter, make_outputs
from eval.pairs import Pair, fixed_pairs, scorable
from eval.recognisers import recogniser
from eval.report import table, write_results
from eval.scoring import METRICS, Judges, score_pairs

SAMPLE_RATE = pitch.SAMPLE_RATE
SNR_DB = 10.0
SPOKEN_DB = 30.0
"""Samples more than this below the loudest do not count as speech when the noise level is set."""
REFERENCE_SECONDS = {"reference-2s": 2.0, "reference-5s": 5.0, "reference-10s": 10.0}

Samples = Float[np.ndarray, "samples"]


def quiet(peak_dbfs: float) -> Callable[[Samples, int], Samples]:
    """Return a function that scales a recording to a peak level."""
    return lambda samples, _: samples * 10 ** (peak_dbfs / 20) / max(np.abs(samples).max(), 1e-9)


def noisy(samples: Samples, number: int) -> Samples:
    power = np.square(samples)
    level = np.convolve(power, np.full(SAMPLE_RATE // 25, 25 / SAMPLE_RATE), mode="same")
    spoken = level > level.max() / 10 ** (SPOKEN_DB / 10)
    noise = np.fft.rfft(np.random.default_rng(number).standard_normal(len(samples)))
    noise /= np.sqrt(np.maximum(np.arange(len(noise)), 1.0))
    noise = np.fft.irfft(noise, len(samples))
    wanted = power[spoken].mean() / 10 ** (SNR_DB / 10)
    return samples + noise * np.sqrt(wanted / np.square(noise).mean())


def whispered(samples: Samples, _: int) -> Samples:
    """Simulate a whisper: WORLD's envelope with only noise as excitation."""
    f0 = pitch.harvest(samples)
    envelope = analyse(samples, f0)[0]
    voice = pitch.world().synthesize(
        np.zeros(len(f0)), envelope, np.ones_like(envelope), SAMPLE_RATE, pitch.HOP_MS
    )
    return np.pad(voice, (0, max(0, len(samples) - len(voice))))[: len(samples)]


CHANGES = {"quiet-30": quiet(-30.0), "quiet-50": quiet(-50.0), "noisy": noisy, "whispered": whispered}
"""By condition: a function of a recording and its number that returns the converter's input."""
CONDITIONS = ("as-recorded", *CHANGES, "mandarin", "espeak", *REFERENCE_SECONDS)


def pairs_under(condition: str, pairs: Sequence[Pair], data: Path, out: Path) -> list[Pair]:
    """Apply a condition to pairs, with new files in ``out``; pairs the corpus cannot provide are omitted."""
    match condition:
        case "as-recorded":
            changed = pairs
        case "mandarin":
            changed = _with_mandarin_sources(pairs, data)
        case "espeak":
            changed = _spoken_by_espeak(pairs, out)
        case _ if condition in REFERENCE_SECONDS:
            changed = _with_short_references(pairs, REFERENCE_SECONDS[condition], out)
        case _:
            changed = _with_changed_sources(pairs, CHANGES[condition], out)
    return [replace(pair, system=condition, target_other=None) for pair in changed]


def _with_changed_sources(
    pairs: Sequence[Pair], change: Callable[[Samples, int], Samples], out: Path
) -> Iterator[Pair]:
    for number, pair in enumerate(pairs):
        samples = change(load(pair.source, SAMPLE_RATE)[0, 0].double().numpy(), number)
        samples = samples / max(1.0, float(np.abs(samples).max()))
        yield replace(pair, source=_save_numbered(out, number, torch.from_numpy(samples).float()[None, None]))


def _spoken_by_espeak(pairs: Sequence[Pair], out: Path) -> Iterator[Pair]:
    for number, (pair, text) in enumerate(zip(pairs, sentences(seed=1))):
        wave, _ = speak(text, VOICES[number % len(VOICES)], SAMPLE_RATE)
        yield replace(pair, source=_save_numbered(out, number, wave), text=text)


def _with_mandarin_sources(pairs: Sequence[Pair], data: Path) -> Iterator[Pair]:
    """Use recordings with texts only in Chinese characters as sources, from any split except train."""
    rows = [row for row in rows_from(data) if row.split != "train" and in_chinese(row.text or "")]
    for pair, row in zip(pairs, cycle(sorted(rows, key=lambda row: row.path))):
        yield replace(pair, source=row.path, text=row.text or "")


def _with_short_references(pairs: Sequence[Pair], seconds: float, out: Path) -> Iterator[Pair]:
    """Concatenate references and crop them to a length; omit pairs with shorter references."""
    n_samples = round(seconds * SAMPLE_RATE)
    for number, pair in enumerate(pairs):
        wave = torch.cat([load(path, SAMPLE_RATE) for path in pair.voice_clips], dim=-1)
        if wave.shape[-1] >= n_samples:
            yield replace(pair, references=(_save_numbered(out, number, wave[..., :n_samples]),))


def in_chinese(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    return bool(letters) and all(unicodedata.name(letter, "").startswith("CJK") for letter in letters)


def _save_numbered(out: Path, number: int, wave: Float[Tensor, "1 1 samples"]) -> Path:
    path = out / f"{number:03d}.wav"
    save(path, wave, SAMPLE_RATE)
    return path


SILENCE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """Score a converter under hard conditions."""

    data: Path
    """Corpus from which the pairs are drawn."""
    converter: str = "released"
    """Folder of a trained converter, or ``released`` for the one of this package."""
    fit_steps: int | None = None
    """Optimisation steps to fit each voice to its references; by default as in conversion (100); 0: none."""
    split: str = "validation"
    """Split of the corpus to draw pairs from."""
    n_pairs: int = 24
    """Number of pairs, taken from the start of the fixed list."""
    conditions: tuple[str, ...] = CONDITIONS
    """Conditions to test."""
    recogniser: tuple[str, ...] = ("moonshine", "pocketsphinx")
    """One or more speech recognisers; see the option of eval/run.py."""
    out: Path = Path("robustness")
    """Output folder."""
    overwrite: bool = False
    """Replace existing results in the output folder."""
    cache: Path | None = None
    """Feature cache shared between runs; by default in the user's cache folder."""
    jobs: int = 0
    """Worker processes; 0: one per core, up to 8."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.conditions if name not in CONDITIONS]
        if unknown:
            raise UserError(f"there is no condition {unknown[0]!r}; choose from {', '.join(CONDITIONS)}")
        if not self.recogniser:
            raise UserError("--recogniser needs a name: moonshine, pocketsphinx, or a recogniser's folder")
        if self.n_pairs < 1:
            raise UserError(f"--n-pairs {self.n_pairs} must be at least 1")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    config = cli({"default": RobustnessConfig(data=Path())}, argv=argv)
    if config.data == Path():
        raise UserError("give the corpus with --data FOLDER")
    judges = Judges(recognisers=tuple(recogniser(name) for name in config.recogniser))
    judges.check(METRICS)
    check_results(config.out / "rows.csv", config.overwrite)
    cache, voices = Cache(config.cache), Voices(load_converter(config.converter), config.fit_steps)
    pairs, left_out = scorable(fixed_pairs(config.data, config.split, max_pairs=config.n_pairs), cache)

    scored: list[Pair] = []
    for condition in config.conditions:
        changed = pairs_under(condition, pairs, config.data, config.out / "inputs" / condition)
        if not changed:
            note(f"{config.data} has no recordings for the condition {condition}")
        outputs = make_outputs(changed, voices, config.out / "outputs", condition, left_out)
        good, faults = scorable(outputs, cache)
        scored, left_out = scored + good, left_out + faults
    rows, summary = score_pairs(scored, judges=judges, cache=cache, jobs=config.jobs)

    silence = in_silence(voices, pairs)
    about = {"pairs": len(pairs), "split": config.split, "in_silence": silence, "left_out": left_out}
    write_results(config.out, rows, summary, about)
    silence_line = (
        f"{SILENCE_SECONDS:.0f} s of digital silence, in {silence['voices']:.0f} voices: mean level "
        f"{silence['mean_dbfs']:.1f} dBFS, loudest 40 ms {silence['loudest_dbfs']:.1f} dBFS"
    )
    text = f"{table(summary)}\n\n{silence_line}\n"
    (config.out / "table.txt").write_text(text, encoding="utf-8")
    print(text)
    end(len(scored), left_out, "outputs scored")


@torch.inference_mode()
def in_silence(voices: Voices, pairs: Sequence[Pair]) -> dict[str, float]:
    """Levels of a converter's output for digital silence, with the first reference of each pair as voice."""
    rate = voices.converter.sample_rate
    silence = torch.zeros(1, 1, round(SILENCE_SECONDS * rate))
    powers = []
    for path in dict.fromkeys(pair.voice_clips[0] for pair in pairs):
        wave = voices.converter.convert(silence, voices.voice((path,), 0))[0, 0].double().numpy()
        frames = wave[: len(wave) // (rate // 25) * (rate // 25)].reshape(-1, rate // 25)
        powers.append(np.square(frames).mean(1))
    power = np.array(powers)
    return {
        "voices": float(len(power)),
        "mean_dbfs": float(10 * np.log10(power.mean() + 1e-10)),
        "loudest_dbfs": float(10 * np.log10(power.max() + 1e-10)),
    }


if __name__ == "__main__":
    main()
