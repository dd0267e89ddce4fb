"""Two-stage conversion (mel, vocoder) against wave-to-wave: same data, same pairs, equal training time.

    python -m experiments.mel_pipeline --data speech --out runs/mel_pipeline --minutes 30

Every variant trains for equal processor time on one thread: the cost of a step is measured and gives the
number of steps, on which schedules depend. All then convert the same fixed pairs of unseen speakers and are
scored with toplines and trivial baselines; their speeds are measured alternately in one run. The training of
the released vocoder and student is not included in the time.

Finished variants in OUT are kept and interrupted ones resume. ``--only w2w`` trains only that variant and
``--only`` without names none; the table always shows all finished ones. Its data is in OUT/results.json.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.converter import lasting
from benchmarks.table import machine, ratio
from data.audio import load
from engine.arguments import Arguments
from engine.files import write_json
from engine.table import markdown
from engine.user_error import UserError, exits_cleanly
from eval import pitch
from eval.baselines import BASELINES, TOPLINES, toplines_and_baselines
from eval.features import Cache, compute_features
from eval.pairs import MAX_PAIRS, Pair
from eval.scoring import FAST, METRICS
from experiments import trainers
from experiments.mel_pipeline.systems import SYSTEMS, W2W, speeds
from experiments.scores import SCORES, Scoring, cells, differences, evaluation_pairs, interval_cells, outputs
from experiments.study import Cost, Study, Training
from vocoders.tasks.presets import PRESETS as VOCODERS
from w2w.baselines import predict
from w2w.baselines.cluit_mel.presets import PRESETS as CLUIT_MEL
from w2w.baselines.stargan.train import PRESETS as STARGAN
from w2w.train_config import PRESETS as WAVE_TO_WAVE

PRESETS = {
    "w2w": "small",
    "cluit_mel": "bank_norm_label_small",
    "cluit_mel_tuned": "hifigan_small",
    "stargan": "own_small",
}
"""Default preset of each variant."""
CHOICES: dict[str, Any] = {
    "w2w": WAVE_TO_WAVE,
    "cluit_mel": CLUIT_MEL,
    "cluit_mel_tuned": VOCODERS,
    "stargan": STARGAN,
}
TUNED = "cluit_mel_tuned"
"""The released vocoder fine-tuned on CLUIT-mel's outputs, in addition to the equal training time."""
TUNING_RATE = 3e-4
"""Peak learning rate for fine-tuning the trained vocoder."""
ADVERSARIES_FROM = 1 / 3
"""Fraction of the vocoder's run after which its discriminators start, from random weights."""
COLUMNS = (
    *("to_target", "to_source", "nearer_to_target", "cer_above_source", "dnsmos", "f0_distance"),
    "f0_correlation",
)
USE = (
    "parameters, M",
    "real-time factor",
    "of it converter",
    "of it vocoder",
    "latency, ms",
    "training, processor s",
)
GAINS = ("to_target", "cer", "dnsmos")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format scores and costs of all systems, toplines and baselines, with notes below."""
    lines, marks = [], dict[str, int]()
    for row in rows:
        for note in row.get("notes", ()):
            marks.setdefault(note, len(marks) + 1)
        signs = "".join(f" [{marks[note]}]" for note in row.get("notes", ()))
        lines.append([row["label"] + signs, *cells(row.get("scores", {}), COLUMNS), *use(row)])
    heads = ["system", *(SCORES[name][0] for name in COLUMNS), *USE]
    notes = [f"[{number}] {note}" for note, number in marks.items()]
    return "\n".join([markdown(heads, lines), "", *notes]).rstrip("\n")


def use(row: Mapping[str, Any]) -> list[str]:
    counts, factors, training = row.get("parameters", {}), row.get("rtf", {}), row.get("training", ())
    size = " + ".join(f"{count / 1e6:.2f}" for count in counts.values() if count)
    parts = [f"{factors[part]:.4f}" if part in factors else "" for part in ("whole", "converter", "vocoder")]
    latency = ""
    if "latency_ms" in row:
        latency = f"{row['latency_ms']:g}" if row["latency_ms"] is not None else "whole file"
    spent = " + ".join(f"{cost['processor_seconds']:.0f} ({cost['steps']} steps)" for cost in training)
    return [cell or "–" for cell in (size, *parts, latency, spent)]


def gains(results: Mapping[str, Any]) -> str:
    """Format paired differences, wave-to-wave minus others, and the ratio of their real-time factors."""
    labels = {row["name"]: row["label"] for row in results["rows"]}
    shares, lines = results["rtf_shares"], []
    for name, scores in results["differences"].items():
        share = f"{shares[name]:.2f}" if name in shares else "–"
        lines.append([labels.get(name, name), *interval_cells(scores, GAINS), share])
    return markdown(["wave-to-wave less", *(SCORES[name][0] for name in GAINS), "× its real time"], lines)


SECONDS = 10
"""Duration of the speech for speed measurements."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    presets = chosen_presets(args.presets)
    pairs = evaluation_pairs(args.data, "test", args.n_pairs)
    options = {"data": str(args.data)}
    torch.set_num_threads(1)
    studies = {}
    for name in PRESETS:
        minutes = args.tune_minutes or args.minutes / 5 if name == TUNED else args.minutes
        chosen = {**options, "presets": f"{name}={presets[name]}"}
        studies[name] = Study(out=args.out, options=chosen, minutes=minutes)
    for name in PRESETS if args.only is None else args.only:
        train(name, studies[name], presets)
    if args.train_only:
        return
    results = compare(studies, pairs, args)
    write_json(args.out / "results.json", results)
    title = (
        f"{len(pairs)} pairs of unseen speakers; training: {args.minutes:g} minutes of one thread per variant"
        f" ({', '.join(f'{name}: preset {of}' for name, of in presets.items())}); real-time factors of"
        f" {SECONDS} s of speech on one thread, medians of {args.repeats} repetitions; {machine()}"
    )
    text = f"{title}\n\n{table(results['rows'])}\n\n{gains(results)}"
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\n{args.out}: table.md, results.json")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = Arguments.described_by("experiments.mel_pipeline", __doc__)
    option = parser.add_argument
    option("--data", type=Path, required=True, help="manifest with speakers, texts and splits")
    option("--out", type=Path, default=Path("runs/mel_pipeline"))
    option("--minutes", type=float, default=30.0, help="processor time per variant (default: 30)")
    option("--tune-minutes", type=float, help="additional time to fine-tune the vocoder (default: a fifth)")
    option("--only", nargs="*", metavar="NAME", help=f"train only these: {', '.join(PRESETS)}")
    option("--train-only", action="store_true", help="do not convert, score or time")
    option("--presets", nargs="*", default=[], metavar="NAME=PRESET", help="presets of variants")
    option("--n-pairs", type=int, default=MAX_PAIRS, help=f"test pairs to score (default: {MAX_PAIRS})")
    option("--fast", action="store_true", help="score only similarity and pitch")
    option("--repeats", type=int, default=5, help="repetitions for the median speed")
    option("--cache", type=Path, help="feature cache shared between runs")
    option("--jobs", type=int, default=1, help="worker processes for scoring")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.only or () if name not in PRESETS]:
        raise UserError(f"--only has no {unknown[0]!r}; choose from {', '.join(PRESETS)}")
    if min(args.minutes, args.tune_minutes or 1.0) <= 0 or args.repeats < 1:
        raise UserError("--minutes and --tune-minutes must be above 0, --repeats at least 1")
    return args


def chosen_presets(given: Sequence[str]) -> dict[str, str]:
    chosen = dict(PRESETS)
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or name not in PRESETS:
            raise UserError(f"--presets {text} must be NAME=PRESET with a name of {', '.join(PRESETS)}")
        chosen[name] = value
    return chosen


def train(name: str, study: Study, presets: dict[str, str]) -> Cost:
    """Train or resume a variant unless it is finished; return its cost."""
    if name == TUNED and study.cost(name) is None:
        if not (study.folder("cluit_mel") / "cost.json").is_file():
            raise UserError(f"{TUNED} needs cluit_mel in {study.out}: train that first (--only)")
        predict_mels(study)
    return study.train(name, partial(training, name, study, preset(name, presets)))


def preset(name: str, presets: dict[str, str]) -> Any:
    choices, chosen = CHOICES[name], presets[name]
    if chosen not in choices:
        raise UserError(
            f"--presets {name}={chosen}: there is no such preset; choose from {', '.join(choices)}"
        )
    return choices[chosen]


def training(name: str, study: Study, config: Any, folder: Path, steps: int) -> Training:
    config = replace(config, data=replace(config.data, path=str(study.options["data"])))
    match name:
        case "w2w":
            return trainers.wave_to_wave(config, folder, steps)
        case "cluit_mel":
            return trainers.cluit_mel(config, folder, steps)
        case "stargan":
            rates = {
                player: trainers.decaying(getattr(config, player), steps)
                for player in ("optim_generator", "optim_discriminator")
            }
            return trainers.stargan(
                replace(config, loop=trainers.run_loop(config.loop, folder, steps), **rates)
            )
    config = replace(config, init="released_hifigan", predicted_mels=str(folder / "mels"))
    return trainers.vocoder(config, folder, steps, lr=TUNING_RATE, adversary_from=ADVERSARIES_FROM)


def predict_mels(study: Study) -> None:
    """Once: convert every training recording to a mel in its own voice with the trained converter."""
    folder = study.folder(TUNED) / "mels"
    if not (folder / "complete").is_file():
        converter = study.folder("cluit_mel") / "export"
        data = str(study.options["data"])
        predict.main(["--checkpoint", str(converter), "--data", data, "--out", str(folder)])
        (folder / "complete").touch()


def compare(studies: Mapping[str, Study], pairs: Sequence[Pair], args: Namespace) -> dict[str, Any]:
    study = studies[W2W]
    costs = {name: cost for name, each in studies.items() if (cost := each.cost(name)) is not None}
    available = {name: system for name, system in SYSTEMS.items() if system.is_available(study)}
    if not costs:
        raise UserError(
            f"{args.out} holds no trained variant to compare: train with --only NAME, or without --only"
        )
    cache, folder = Cache(args.cache), args.out / "outputs" / str(len(pairs))
    outputs_of_all = []
    for name, system in available.items():
        if system.scored:
            outputs_of_all += outputs(pairs, partial(system.open, study), system.files(study), folder, name)
    originals = sorted({path for pair in pairs for path in (pair.source, pair.target)})
    melodies = compute_features(
        [(path, [pitch.Pitch()]) for path in originals], cache, jobs=args.jobs, title="pitch"
    )
    outputs_of_all += toplines_and_baselines(pairs, folder, cache, melodies)
    metrics = FAST if args.fast else METRICS
    scoring = Scoring(out=folder, metrics=metrics, cache=cache, jobs=args.jobs)
    scored, summary = scoring.score(outputs_of_all)

    converters = {name: system.open(study) for name, system in available.items() if system.timed}
    rate = next(iter(converters.values())).sample_rate
    timed = speeds(converters, lasting(load(pairs[0].source, rate), SECONDS * rate), args.repeats)
    rows = [
        {"name": name, "label": system.label, "notes": system.notes, **timed.get(name, {})}
        | {"training": [asdict(costs[of]) for of in system.variants]}
        | ({"scores": summary[name]} if name in summary else {})
        for name, system in available.items()
    ]
    labels = TOPLINES | BASELINES
    rows += [
        {"name": name, "label": labels[name], "scores": summary[name]} for name in labels if name in summary
    ]
    turns = {name: took["rtf_turns"]["whole"] for name, took in timed.items()}
    shares = {name: ratio(turns[W2W], took) for name, took in turns.items() if W2W in turns and name != W2W}
    gaps = {name: gap for name, gap in differences(scored, W2W).items() if name in available}
    return {"rows": rows, "rtf_shares": shares, "differences": gaps}


if __name__ == "__main__":
    main()
