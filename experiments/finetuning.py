"""What some minutes of somebody's recordings buy: ``python -m experiments.finetuning --data speech``.

For each speaker of the split, and each number of minutes that the recordings hold beside those kept back, the
released converter is trained further by ``w2w/train.py --finetune``. Sentences of the other speakers are then
spoken with the speaker's voice, by the converter as it was (its voice fitted to the same recordings) and by
what it became, and compared with the recordings kept back. The table is Markdown; what was trained or
converted already in ``--out`` is not done again.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import mean
from typing import NamedTuple

from tqdm import tqdm

from data.audio import info, load, save
from data.manifest import Row, write_manifest
from data.rows import split_rows
from engine.arguments import Arguments
from engine.table import markdown
from engine.user_error import UserError, exits_cleanly
from eval.features import Cache
from eval.pairs import Pair
from eval.recognisers import Moonshine
from eval.scoring import Judges, Summary
from experiments.scores import SCORES, Scoring, interval_cells
from w2w import Converter
from w2w.train_config import FINETUNE
from w2w.voices import Voices

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("to_target", "cer_above_source", "f0_distance")


class Share(NamedTuple):
    """One speaker's recordings, divided."""

    speaker: str
    minutes: float
    learned: list[Row]
    kept_back: list[Row]

    @property
    def name(self) -> str:
        return f"{self.speaker} {self.minutes:g} min"


def shares(rows: Sequence[Row], minutes: Sequence[float], n_speakers: int, kept_back: int) -> Iterator[Share]:
    """The last recordings of each speaker are kept back; the first are learned from, as many as asked for."""
    by_speaker: dict[str, list[Row]] = {}
    for row in rows:
        if row.speaker:
            by_speaker.setdefault(row.speaker, []).append(row)
    lasts = {
        name: sum(info(row.path).duration for row in clips[:-kept_back]) for name, clips in by_speaker.items()
    }
    for name in sorted(lasts, key=lambda name: -lasts[name])[:n_speakers]:
        clips = by_speaker[name]
        for wanted in minutes:
            if lasts[name] < 60 * wanted:
                print(f"{name} has less than {wanted:g} min beside what is kept back", file=sys.stderr)
                continue
            learned, seconds = [], 0.0
            for row in clips[:-kept_back]:
                if seconds < 60 * wanted:
                    learned.append(row)
                    seconds += info(row.path).duration
            yield Share(name, wanted, learned, clips[-kept_back:])


def finetuned(share: Share, out: Path, steps: int) -> tuple[Path, float]:
    """Train on a share unless that is done; return the export and the CPU-minutes it took."""
    run, cost = out / share.name.replace(" ", "_"), out / f"{share.name.replace(' ', '_')}.json"
    if not cost.is_file():
        write_manifest(run.with_suffix(".csv"), [replace(row, split="train") for row in share.learned])
        options = [
            *("--finetune", "released", "--data.path", run.with_suffix(".csv")),
            *("--loop.out", run, "--loop.steps", steps, "--optim-converter.decay-steps", steps),
            *("--loop.max-minutes", 0, "--loop.trackers", "none", "--loop.threads", 1),
        ]
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run([sys.executable, ROOT / "w2w/train.py", *map(str, options)], check=True)
        after = getrusage(RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cost.write_text(json.dumps({"cpu_minutes": spent / 60}))
    return run / "export", json.loads(cost.read_text())["cpu_minutes"]


def spoken(converter: Converter, voice: object, share: Share, sources: Sequence[Row], out: Path, system: str):
    """The sources with the speaker's voice, each beside one of the recordings kept back."""
    for number, source in enumerate(tqdm(sources, desc=f"{share.name}, {system}", unit="sentence")):
        output = out / f"{share.name}_{system}_{source.path.stem}.wav".replace(" ", "_")
        if not output.is_file():
            wave = converter.convert(load(source.path, converter.sample_rate), voice)  # pyright: ignore
            save(output, wave, converter.sample_rate)
        target = share.kept_back[number % len(share.kept_back)]
        yield Pair(
            source=source.path, target=target.path, output=output, text=source.text or "", system=system
        )


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("experiments.finetuning", __doc__)
    option = arguments.add_argument
    option("--data", required=True, help="manifest with speakers, splits and texts")
    option("--split", default="test", help="whose speakers are learned (test)")
    option("--speakers", type=int, default=3, help="how many, those with most speech (3)")
    option("--minutes", type=float, nargs="+", default=[1.0, 3.0, 5.0], help="of recordings (1 3 5)")
    option("--kept-back", type=int, default=4, help="recordings of each that are scored with (4)")
    option("--sentences", type=int, default=12, help="of others, that are converted (12)")
    steps = FINETUNE.loop.steps
    option("--steps", type=int, default=steps, help=f"of training ({steps})")
    option("--out", type=Path, default=Path("runs/finetuning"), help="folder of runs and results")
    args = arguments.parse_args(argv)
    rows = split_rows(args.data, args.split)
    chosen = list(shares(rows, args.minutes, args.speakers, args.kept_back))
    if not chosen:
        raise UserError(f"{args.data}: no speaker of split {args.split!r} has so many minutes: ask for fewer")
    released, pairs, costs = Converter.from_pretrained(), [], {}
    for share in chosen:
        others = [row for row in rows if row.speaker != share.speaker and row.text]
        sources = others[:: max(len(others) // args.sentences, 1)][: args.sentences]
        names = [str(row.path) for row in share.learned]
        voice = Voices(released, fit_steps=None).average(names)
        folder, costs[share.minutes, share.speaker] = finetuned(share, args.out, args.steps)
        tuned = Converter.from_pretrained(folder)
        as_was, became = f"released, {share.minutes:g} min", f"fine-tuned, {share.minutes:g} min"
        pairs += spoken(released, voice, share, sources, args.out / "audio", as_was)
        pairs += spoken(tuned, tuned.voice("own"), share, sources, args.out / "audio", became)
    scoring = Scoring(
        out=args.out,
        metrics=("similarity", "pitch", "intelligibility"),
        judges=Judges(recognisers=(Moonshine(),)),
        cache=Cache(args.out / "cache"),
    )
    _, summary = scoring.score(pairs)
    print(f"{args.steps} steps; {len({share.speaker for share in chosen})} speakers.\n")
    print(table(summary, costs))


def table(summary: Summary, costs: dict[tuple[float, str], float]) -> str:
    """Means with 95 % intervals, a line for each number of minutes before and after."""
    lines = []
    for name, scores in summary.items():
        minutes = float(name.split()[-2])
        spent = mean(cost for (of, _), cost in costs.items() if of == minutes)
        lines.append(
            [name, *interval_cells(scores, COLUMNS), f"{spent:.1f}" if name.startswith("fine-tuned") else ""]
        )
    return markdown(["system", *(SCORES[c][0] for c in COLUMNS), "CPU-minutes of training"], lines)


if __name__ == "__main__":
    main()
