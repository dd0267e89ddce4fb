"""Fine-tuning on a few minutes of a speaker: ``python -m experiments.finetuning --data speech``.

For each speaker and each number of minutes that the speaker's recordings allow without held-out ones, the
released converter is fine-tuned by ``w2w/train.py --finetune``. Sentences of other speakers are converted to
the speaker's voice by the released converter (with the voice fitted to the same recordings) and by the
fine-tuned one, and compared with the held-out recordings. Prints a Markdown table; existing runs and outputs
in ``--out`` are reused.
"""

import json
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
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
from experiments.scores import SCORES, cells, score
from w2w.converter import Converter, Voice
from w2w.train_config import FINETUNE
from w2w.voices import Voices

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("to_target", "cer_above_source", "f0_distance")


class Share(NamedTuple):
    """One speaker's recordings, split into training and held-out ones."""

    speaker: str
    minutes: float
    train: list[Row]
    held_out: list[Row]

    @property
    def name(self) -> str:
        return f"{self.speaker} {self.minutes:g} min"


def shares(rows: Sequence[Row], minutes: Sequence[float], n_speakers: int, held_out: int) -> Iterator[Share]:
    """Hold out each speaker's last recordings and train on the first ones, up to each duration."""
    by_speaker: dict[str, list[Row]] = {}
    for row in rows:
        if row.speaker:
            by_speaker.setdefault(row.speaker, []).append(row)
    ends = {  # of each recording, in seconds of speech since the speaker's first
        name: [0.0, *accumulate(info(row.path).duration for row in clips[:-held_out])]
        for name, clips in by_speaker.items()
    }
    for name in sorted(ends, key=lambda name: -ends[name][-1])[:n_speakers]:
        clips = by_speaker[name]
        for wanted in minutes:
            if ends[name][-1] < 60 * wanted:
                print(f"{name} has less than {wanted:g} min without the held-out recordings", file=sys.stderr)
                continue
            count = bisect_left(ends[name], 60 * wanted)
            yield Share(name, wanted, clips[:count], clips[-held_out:])


def finetuned(share: Share, out: Path, steps: int) -> tuple[Path, float]:
    """Fine-tune on a share unless it is done; return the export and the CPU-minutes."""
    name = share.name.replace(" ", "_")
    run, cost = out / name, out / f"{name}.json"
    if not cost.is_file():
        write_manifest(run.with_suffix(".csv"), [replace(row, split="train") for row in share.train])
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


def converted(
    converter: Converter, voice: Voice, share: Share, sources: Sequence[Row], out: Path, system: str
) -> Iterator[Pair]:
    """Convert the sources to the speaker's voice; yield pairs with held-out recordings as targets."""
    for number, source in enumerate(tqdm(sources, desc=f"{share.name}, {system}", unit="sentence")):
        output = out / f"{share.name}_{system}_{source.path.stem}.wav".replace(" ", "_")
        if not output.is_file():
            wave = converter.convert(load(source.path, converter.sample_rate), voice)
            save(output, wave, converter.sample_rate)
        target, text = share.held_out[number % len(share.held_out)].path, source.text or ""
        yield Pair(source=source.path, target=target, output=output, text=text, system=system)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("experiments.finetuning", __doc__)
    option = arguments.add_argument
    option("--data", required=True, help="manifest with speakers, splits and texts")
    option("--split", default="test", help="split of the speakers to fine-tune on (test)")
    option("--speakers", type=int, default=3, help="number of speakers, those with most speech (3)")
    option("--minutes", type=float, nargs="+", default=[1.0, 3.0, 5.0], help="of training data (1 3 5)")
    option("--kept-back", type=int, default=4, help="held-out recordings per speaker (4)")
    option("--sentences", type=int, default=12, help="sentences of other speakers to convert (12)")
    steps = FINETUNE.loop.steps
    option("--steps", type=int, default=steps, help=f"training steps ({steps})")
    option("--out", type=Path, default=Path("runs/finetuning"), help="folder for runs and results")
    args = arguments.parse_args(argv)
    rows = split_rows(args.data, args.split)
    chosen = list(shares(rows, args.minutes, args.speakers, args.kept_back))
    if not chosen:
        raise UserError(f"{args.data}: no speaker of split {args.split!r} has enough speech: lower --minutes")
    released, pairs, costs = Converter.from_pretrained(), [], {}
    for share in chosen:
        others = [row for row in rows if row.speaker != share.speaker and row.text]
        sources = others[:: max(len(others) // args.sentences, 1)][: args.sentences]
        names = [str(row.path) for row in share.train]
        voice = Voices(released, fit_steps=None).average(names)
        folder, costs[share.minutes, share.speaker] = finetuned(share, args.out, args.steps)
        tuned = Converter.from_pretrained(folder)
        before, after = f"released, {share.minutes:g} min", f"fine-tuned, {share.minutes:g} min"
        pairs += converted(released, voice, share, sources, args.out / "audio", before)
        pairs += converted(tuned, tuned.voice("own"), share, sources, args.out / "audio", after)
    judges, cache = Judges(recognisers=(Moonshine(),)), Cache(args.out / "cache")
    metrics = ("similarity", "pitch", "intelligibility")
    _, summary = score(pairs, args.out, cache, metrics=metrics, judges=judges)
    print(f"{args.steps} steps; {len({share.speaker for share in chosen})} speakers.\n")
    print(table(summary, costs))


def table(summary: Summary, costs: dict[tuple[float, str], float]) -> str:
    """Format means with 95 % intervals, one row per system and number of minutes."""
    lines = []
    for name, scores in summary.items():
        minutes = float(name.split()[-2])
        spent = mean(cost for (of, _), cost in costs.items() if of == minutes)
        shown = f"{spent:.1f}" if name.startswith("fine-tuned") else ""
        lines.append([name, *cells(scores, COLUMNS, intervals=True), shown])
    return markdown(["system", *(SCORES[c][0] for c in COLUMNS), "CPU-minutes of training"], lines)


if __name__ == "__main__":
    main()
