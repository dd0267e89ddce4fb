"""Ablation of pairs, pretraining and losses of the converter, one at a time and at equal cost.

    python -m experiments.ablation --data speech --pairs pairs --minutes 120 --out runs/ablation

Every variant trains the preset ``small`` of ``w2w/train.py`` for equal processor time on one thread: the cost
of a step is measured and gives the number of steps, on which schedules depend. ``full`` has all parts; the
others lack one part each: ``no_pairs``, ``no_student``, ``no_content_loss``, ``no_contrast``,
``no_adversary``, ``no_back_translation``. With ``--speech-encoder`` (a run of ``pretrain/data2vec.py``) three
more use that encoder instead of the student: ``speech_random``, ``speech_frozen``, ``speech_fine_tuned``.

Runs are stored in OUT/NAME, as by ``w2w/train.py``. The same command resumes interrupted runs and skips
finished ones. All finished variants are then scored on the same pairs of the validation split; the test split
is not used. The table is written to OUT/table.md, with its data next to it.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from engine.arguments import Arguments
from engine.table import markdown
from engine.user_error import UserError, exits_cleanly
from eval.features import Cache
from eval.outputs import load_converter
from eval.pairs import Pair
from eval.report import label_of
from eval.scoring import FAST, METRICS, Judges, Summary
from experiments.scores import SCORES, cells, differences, evaluation_pairs, outputs, score
from experiments.study import Cost, Study
from experiments.trainers import wave_to_wave
from w2w.pretrained import with_encoders
from w2w.train_config import PRESETS, TrainConfig

FULL = "full"
VARIANTS = {
    FULL: "all parts",
    "no_pairs": "without time-aligned pairs: an equal number of human utterances instead",
    "no_student": "content encoder initialised randomly instead of from the distilled student",
    "no_content_loss": "without the content loss on the teacher's features of outputs",
    "no_contrast": "without contrastive speaker losses",
    "no_adversary": "without the discriminator",
    "no_back_translation": "without converted speech as source",
}
"""Descriptions of the variants by name."""
SPEECH_ENCODERS = {
    "speech_random": "a randomly initialised speech encoder instead of the student",
    "speech_frozen": "the pretrained speech encoder instead of the student, frozen",
    "speech_fine_tuned": "the pretrained speech encoder instead of the student, fine-tuned",
}
"""Additional variants with ``--speech-encoder``; they need whole utterances and cannot stream."""
OF_DISCRIMINATOR = ("contrast_discriminator", "contrast_converter")
LOSSES = {
    "no_content_loss": ("content",),
    "no_contrast": ("contrast_style", "contrast_voice", *OF_DISCRIMINATOR),
    "no_adversary": ("adversarial", "feature_matching", *OF_DISCRIMINATOR),
}
"""Losses that a variant lacks."""


def variant(name: str, full: TrainConfig, speech_encoder: str = "") -> TrainConfig:
    """Return the full config without one part, or with another encoder."""
    match name:
        case "full":
            return full
        case "no_pairs":
            data = replace(full.data, batch=full.data.batch + full.pairs.batch)
            return replace(full, data=data, pairs=replace(full.pairs, path=""))
        case "no_student":
            # Keeps the sizes of the network, which depend on the student.
            sizes = with_encoders(full.converter, full.pretrained)
            return replace(full, converter=sizes, pretrained=replace(full.pretrained, student=""))
        case "no_content_loss" | "no_contrast" | "no_adversary":
            weights = replace(full.cluit.weights, **dict.fromkeys(LOSSES[name], 0.0))
            return replace(full, cluit=replace(full.cluit, weights=weights))
        case "no_back_translation":
            return replace(full, cluit=replace(full.cluit, back_translate_share=0.0))
    assert name in SPEECH_ENCODERS
    changes = {"student": "", "content": speech_encoder, "use": name.removeprefix("speech_")}
    return replace(full, pretrained=replace(full.pretrained, **changes))


OPTIONS = ("data", "pairs", "teacher", "student", "preset", "seed")
"""Options that determine every run."""
COLUMNS = [name for name in SCORES if name != "cer_above_source"]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    known = VARIANTS | (SPEECH_ENCODERS if args.speech_encoder else {})
    names = list(known) if args.variants is None else args.variants
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--variants has no {unknown[0]!r}; choose from {', '.join(known)}")
    Judges().check(FAST if args.fast else METRICS)
    pairs = evaluation_pairs(args.validation or args.data, "validation", args.n_pairs)
    full = full_config(args)
    options = {name: str(getattr(args, name)) for name in OPTIONS}
    minutes = 0.0 if args.steps else args.minutes
    study = Study(out=args.out, options=options, minutes=minutes, steps=args.steps)
    for name in names:
        config = variant(name, full, args.speech_encoder)
        study.train(name, partial(wave_to_wave, config, processor=not args.steps))
    costs = {name: cost for name in known if (cost := study.cost(name)) is not None}
    if not costs:
        raise UserError(f"{args.out} holds no trained variant to compare: omit --variants to train all")
    text = compare(study, costs, pairs, args)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\n{args.out}: table.md, rows.csv, summary.json")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = Arguments.described_by("experiments.ablation", __doc__)
    option = parser.add_argument
    option("--data", type=Path, required=True, help="human speech with speakers: manifest or folder")
    option("--pairs", type=Path, required=True, help="time-aligned speech, by python -m data.parallel")
    option("--teacher", default="released", help="frozen speech encoder for the content loss")
    option("--student", default="released", help="distilled content encoder for initialisation")
    option("--speech-encoder", default="", metavar="RUN", help="of pretrain/data2vec.py: adds variants")
    option("--preset", default="small", choices=PRESETS, help="preset of w2w/train.py (default: small)")
    option("--out", type=Path, default=Path("runs/ablation"))
    option("--minutes", type=float, default=60.0, help="processor time per variant (default: 60)")
    option("--steps", type=int, default=0, help="steps per variant instead of --minutes, for a GPU")
    option("--seed", type=int, default=0)
    option("--variants", nargs="*", metavar="NAME", help="train only these; without names train none")
    option("--validation", type=Path, metavar="DATA", help="corpus of the scored pairs (default: --data)")
    option("--n-pairs", type=int, default=24, help="validation pairs to score (default: 24)")
    option("--fast", action="store_true", help="score only similarity and pitch")
    option("--cache", type=Path, help="feature cache shared between runs")
    option("--jobs", type=int, default=1, help="worker processes for scoring")
    args = parser.parse_args(argv)
    if args.minutes <= 0 or args.steps < 0 or args.seed < 0:
        raise UserError("--minutes must be above 0, --steps and --seed 0 or more")
    return args


def full_config(args: Namespace) -> TrainConfig:
    config = PRESETS[args.preset]
    return replace(
        config,
        loop=replace(config.loop, seed=args.seed),
        data=replace(config.data, path=str(args.data)),
        pairs=replace(config.pairs, path=str(args.pairs)),
        teacher=args.teacher,
        pretrained=replace(config.pretrained, student=args.student),
    )


def compare(study: Study, costs: Mapping[str, Cost], pairs: Sequence[Pair], args: Namespace) -> str:
    folder, scored = study.out / "outputs" / str(len(pairs)), []
    for name in costs:
        export = study.folder(name) / "export"
        load, weights = partial(load_converter, str(export)), export / "model.safetensors"
        scored += outputs(pairs, load, [weights], folder, name)
    for name in ("source", "target_other"):  # no conversion and perfect conversion
        originals = [(pair, getattr(pair, name)) for pair in pairs]
        scored += [replace(pair, system=name, output=path) for pair, path in originals if path]
    metrics = FAST if args.fast else METRICS
    rows, summary = score(scored, study.out, Cache(args.cache), metrics=metrics, jobs=args.jobs)
    budget = f"{args.steps} steps" if args.steps else f"{args.minutes:g} minutes of one thread"
    title = (
        f"Preset {args.preset}, {budget} per variant, seed {args.seed}; {len(pairs)} validation pairs, means"
        f" with 95 % intervals over pairs. Bold: the interval of the paired difference to {FULL} excludes 0."
        " The variation over seeds is not known."
    )
    return f"{title}\n\n{table(summary, differences(rows, FULL), costs)}"


def table(summary: Summary, gaps: Summary, costs: Mapping[str, Cost]) -> str:
    """Format one row per variant, with significant differences from the full one in bold."""
    columns = [name for name in COLUMNS if any(name in scores for scores in summary.values())]
    lines = []
    for name, scores in summary.items():
        line = cells(scores, columns, intervals=True)
        for place, column in enumerate(columns):
            gap = gaps.get(name, {}).get(column) if name in costs else None
            if gap and (gap["low"] > 0 or gap["high"] < 0):
                line[place] = f"**{line[place]}**"
        cost = costs.get(name)
        spent = [f"{cost.steps}", f"{cost.processor_seconds / 60:.0f}"] if cost else ["", ""]
        lines.append([label_of(name), *line, *spent])
    heads = ["variant", *(SCORES[name][0] for name in columns), "steps", "minutes"]
    return markdown(heads, lines)


if __name__ == "__main__":
    main()
