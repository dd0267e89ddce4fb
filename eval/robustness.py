"""Score a converter under hard conditions: python -m eval.robustness --converter released --data speech

Sources whose peak is at -30 or -50 dBFS, in pink noise 10 dB below the speech, whispered (imitated by
WORLD), in Mandarin, or spoken by espeak; references of 2, 5 and 10 s; and 10 s of digital silence. One row a
condition; what is said to be above the source's is above that of the source as the converter heard it.
Leaves table.txt, rows.csv, summary.json and the audio in the folder ``out``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.config import cli
from engine.outcome import check_results, end, note
from engine.user_error import UserError, exits_cleanly
from eval.cache import Cache
from eval.checks import scorable
from eval.conditions import CONDITIONS, pairs_under
from eval.outputs import Voices, load_converter, make_outputs
from eval.pairs import Pair, fixed_pairs
from eval.recognisers import recogniser
from eval.report import table, write_rows, write_summary
from eval.scoring import METRICS, Judges, score_pairs

SILENCE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """Score a converter under hard conditions."""

    data: Path
    """Corpus from whose split the pairs are drawn."""
    converter: str = "released"
    """Folder of a trained converter, or ``released``: the one of this package."""
    split: str = "validation"
    """Of the corpus."""
    n_pairs: int = 24
    """The first so many of the list, which is the same every time."""
    conditions: tuple[str, ...] = CONDITIONS
    """Which of them."""
    recogniser: tuple[str, ...] = ("moonshine", "pocketsphinx")
    """As of eval/run.py."""
    out: Path = Path("robustness")
    """Folder for what is left behind."""
    overwrite: bool = False
    """Replace what is in that folder already."""
    cache: Path | None = None
    """Folder of features kept between runs; by default in the user's cache."""
    jobs: int = 0
    """Processes; 0: one per core, up to 8."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.conditions if name not in CONDITIONS]
        if unknown:
            raise UserError(f"there is no condition {unknown[0]!r}; choose from {', '.join(CONDITIONS)}")
        if self.n_pairs < 1:
            raise UserError(f"--n-pairs {self.n_pairs} must be at least 1")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Convert and score every condition, and print the table."""
    config = cli({"default": RobustnessConfig(data=Path())}, argv=argv)
    if config.data == Path():
        raise UserError("give the corpus by --data FOLDER")
    judges = Judges(recognisers=tuple(recogniser(name) for name in config.recogniser))
    judges.check(METRICS)
    check_results(config.out / "rows.csv", config.overwrite)
    cache, voices = Cache(config.cache), Voices(load_converter(config.converter))
    pairs, left_out = scorable(fixed_pairs(config.data, config.split, max_pairs=config.n_pairs), cache)

    made: list[Pair] = []
    for condition in config.conditions:
        changed = pairs_under(condition, pairs, config.data, config.out / "inputs" / condition)
        if not changed:
            note(f"{config.data} has nothing for the condition {condition}")
        outputs = make_outputs(changed, voices, config.out / "outputs", condition, left_out)
        good, faults = scorable(outputs, cache)
        made, left_out = made + good, left_out + faults
    rows, summary = score_pairs(made, judges=judges, cache=cache, jobs=config.jobs)

    silence = in_silence(voices, pairs)
    write_rows(config.out / "rows.csv", rows)
    about = {"pairs": len(pairs), "split": config.split, "in_silence": silence, "left_out": left_out}
    write_summary(config.out / "summary.json", summary, about)
    told = (
        f"{SILENCE_SECONDS:.0f} s of digital silence, in {silence['voices']:.0f} voices: on the mean "
        f"{silence['mean_dbfs']:.1f} dBFS, in the loudest 40 ms of all {silence['loudest_dbfs']:.1f} dBFS"
    )
    text = f"{table(summary)}\n\n{told}\n"
    (config.out / "table.txt").write_text(text, encoding="utf-8")
    print(text)
    end(len(made), left_out, "outputs scored")


@torch.inference_mode()
def in_silence(voices: Voices, pairs: Sequence[Pair]) -> dict[str, float]:
    """Levels of what a converter makes of digital silence, with each target's first reference."""
    rate = voices.converter.sample_rate
    silence = torch.zeros(1, 1, round(SILENCE_SECONDS * rate))
    powers = []
    for path in dict.fromkeys(pair.voice_clips[0] for pair in pairs):
        wave = voices.converter.convert(silence, voices.embed(path))[0, 0].double().numpy()
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
