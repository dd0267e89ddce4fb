"""The mel road beside wave-to-wave: same data, same pairs, equal training time.

    python -m experiments.mel_pipeline --data speech --out runs/roads --minutes 30

Every arm trains for as much processor time, on one thread: a step's cost is measured, as many steps are
planned as fit, and schedules follow. All then convert the same fixed pairs of unseen speakers and are judged
together with toplines and trivial baselines; their speed is measured in turns, in one run. The vocoder's own
training is not in that time.

Finished arms stay in OUT and are never repeated, one that was cut off goes on. ``--only w2w`` trains that
arm alone, ``--only`` with no name trains nothing; the table always shows every finished arm. What the table
is made of is in OUT/roads.json.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.converter import lasting
from benchmarks.table import machine
from data.audio import load
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from eval.cache import Cache
from eval.pairs import MAX_PAIRS, Pair
from experiments.mel_pipeline import scores as judging
from experiments.mel_pipeline import variants
from experiments.mel_pipeline.budget import write
from experiments.mel_pipeline.report import OURS, TIMED_ROADS, goals, goals_table, table
from experiments.mel_pipeline.rows import ROADS, Road
from experiments.mel_pipeline.speed import ratio, speeds
from experiments.mel_pipeline.trainers import Bench
from experiments.mel_pipeline.variants import ARMS, PRESETS

SECONDS = 10
"""Of the speech whose conversion is timed."""
COMPARED = ("to_target", "to_source", "cer", "dnsmos")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Train what is asked for; convert, judge, time and compare what is trained."""
    parser = Arguments.described_by("experiments.mel_pipeline", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest with speakers, texts and splits")
    parser.add_argument("--out", type=Path, default=Path("runs/roads"))
    parser.add_argument("--minutes", type=float, default=30.0, help="of processor time, for every arm")
    parser.add_argument(
        "--tune-minutes", type=float, help="of tuning the vocoder beyond that (default: a fifth)"
    )
    parser.add_argument("--only", nargs="*", metavar="ARM", help=f"train these alone: {', '.join(ARMS)}")
    parser.add_argument("--train-only", action="store_true", help="neither convert nor judge nor time")
    parser.add_argument("--presets", nargs="*", default=[], metavar="ARM=NAME", help="trainers' presets")
    parser.add_argument("--pairs", type=int, default=MAX_PAIRS, help=f"of the fixed {MAX_PAIRS}")
    parser.add_argument("--fast", action="store_true", help="judge similarity and pitch alone")
    parser.add_argument("--repeats", type=int, default=5, help="turns of which the median is taken")
    parser.add_argument("--cache", type=Path, help="folder of the judges' features kept between runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes that judge")
    words = parser.parse_args(argv)
    arms = list(ARMS) if words.only is None else words.only
    if unknown := [name for name in arms if name not in ARMS]:
        raise UserError(f"--only has no {unknown[0]!r}; choose from {', '.join(ARMS)}")
    if (
        min(words.minutes, words.tune_minutes or 1.0) <= 0
        or not 1 <= words.pairs <= MAX_PAIRS
        or words.repeats < 1
    ):
        raise UserError(
            f"--minutes and --tune-minutes must be above 0, --repeats at least 1, --pairs 1 to {MAX_PAIRS}"
        )
    bench = Bench(
        data=words.data,
        out=words.out,
        minutes=words.minutes,
        tune_minutes=words.minutes / 5 if words.tune_minutes is None else words.tune_minutes,
        presets=chosen_presets(words.presets),
    )
    torch.set_num_threads(1)
    pairs = judging.chosen_pairs(words.data, words.pairs)
    for name in arms:
        variants.train(name, bench)
    if words.train_only:
        return
    variants.check_budget(bench)
    there = {name: road for name, road in ROADS.items() if road.there(bench)}
    if not any(road.arm for road in there.values()):
        raise UserError(f"{words.out} holds no trained arm to compare: train one, by --only or all")
    found = compared(there, bench, pairs, words)
    write(words.out / "roads.json", found)
    text = f"{table(found)}\n\n{goals_table(found['goals'])}"
    (words.out / "roads.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\n{words.out}: roads.json, roads.md")


def chosen_presets(given: Sequence[str]) -> dict[str, str]:
    """The presets of all arms, with those of the command line."""
    chosen = dict(PRESETS)
    for word in given:
        arm, separator, name = word.partition("=")
        if not separator or arm not in PRESETS:
            raise UserError(f"--presets {word} must be ARM=NAME with an arm of {', '.join(PRESETS)}")
        chosen[arm] = name
    return chosen


def compared(there: Mapping[str, Road], bench: Bench, pairs: Sequence[Pair], words: Any) -> dict[str, Any]:
    """Convert, judge and time; all that the table needs."""
    out, cache = bench.out / "outputs" / str(len(pairs)), Cache(words.cache)
    made = []
    for name, road in there.items():
        if not road.scored:
            continue
        opened = partial(road.open, bench)
        made += judging.outputs(pairs, opened, road.weights(bench), out, name)
    judged, summary = judging.scores(made, pairs, out, cache, fast=words.fast, jobs=words.jobs)
    converters = {name: road.open(bench) for name, road in there.items() if road.timed}
    rate = next(iter(converters.values())).sample_rate
    speech = lasting(load(pairs[0].source, rate), SECONDS * rate)
    timed = speeds(converters, speech, words.repeats)
    rows = [
        {"name": name, "label": road.label, "notes": list(road.notes)}
        | timed.get(name, {})
        | road.spent(bench)
        | ({"scores": summary[name]} if name in summary else {})
        for name, road in there.items()
    ]
    rows += [{"name": n, "label": label, "scores": summary[n]} for n, label in judging.groups(summary)]
    found: dict[str, Any] = {
        "minutes": bench.minutes,
        "presets": {name: spent["preset"] for name in ARMS if (spent := variants.finished(name, bench))},
        "pairs": len(pairs),
        "seconds": SECONDS,
        "repeats": words.repeats,
        "machine": machine(),
        "rows": rows,
        "rtf_shares": shares(timed),
        "differences": judging.differences(judged, COMPARED),
    }
    return {**found, "goals": goals(found)}


def shares(timed: Mapping[str, Any]) -> dict[str, float]:
    """Wave-to-wave's real-time factor over those of mel roads, by turns of the same run."""
    if OURS not in timed:
        return {}
    turns = {name: timed[name]["rtf_turns"]["whole"] for name in (OURS, *TIMED_ROADS) if name in timed}
    return {name: ratio(turns[OURS], took) for name, took in turns.items() if name != OURS}


if __name__ == "__main__":
    main()
