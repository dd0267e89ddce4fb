"""Error rates of recognisers fine-tuned on fractions of the labels.

    python -m pretrain.probe speech_error --encoder runs/speech/export --data speech/metadata.csv

For each fraction of the labels and each seed, three recognisers are trained with the same settings: the
fine-tuned encoder (tuned), the same network from random weights (random), and a linear layer on an average of
the frozen encoder's layers (frozen). The seed also determines which utterances keep their labels. Runs are
stored in OUT/speech_error; when the command is repeated, only missing ones are trained. The error rates of
the first split during training are plotted in OUT/speech_error.png.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from engine.loop import LoopConfig
from engine.user_error import UserError
from pretrain.ctc import train
from pretrain.ctc_score import Errors, error_rates
from pretrain.probe.embedders import short_name
from pretrain.probe.harness import Probe
from pretrain.probe.results import Interval, Result, draw_curves, interval
from pretrain.spectral_augment import FrameAugmentConfig
from pretrain.speech.labelled import LabelledSpeech
from pretrain.speech.loading import load_speech_encoder
from pretrain.speech.recognition_config import PRESETS, CTCConfig, FreezeConfig

ARMS = ("tuned", "random", "frozen")


class Scored(NamedTuple):
    """One run's errors on one split, per utterance."""

    errors: list[Errors]
    speakers: list[str]


class Plan(NamedTuple):
    arm: str
    """Column heading in the table."""
    share: float
    seed: int
    config: CTCConfig


def run_speech_error(args: argparse.Namespace) -> list[Result]:
    if not args.encoder:
        raise UserError("no encoder was given: name a run of pretrain/data2vec.py with --encoder")
    if len(args.steps) not in (1, len(args.shares)):
        raise UserError("give --steps once, or once for each of --shares")
    plans = planned(args)
    scored: dict[tuple[str, float, str], list[Scored]] = defaultdict(list)
    curves: dict[str, dict[int, list[float]]] = {}
    for number, plan in enumerate(plans, start=1):
        curve, by_split = trained_and_scored(plan, args.splits)
        for split, one in by_split.items():
            scored[plan.arm, plan.share, split].append(one)
        for step, rate in curve.items():
            curves.setdefault(f"{plan.arm}, {plan.share:g}", {}).setdefault(step, []).append(rate)
        rates = "  ".join(f"{split} {100 * _rate([one])[0]:.1f} %" for split, one in by_split.items())
        print(f"{number}/{len(plans)} {plan.config.loop.out.name}: {rates}", flush=True)
    if curves:
        lines = {
            name: [(float(step), (float(np.mean(r)), min(r), max(r))) for step, r in sorted(points.items())]
            for name, points in curves.items()
        }
        draw_curves(lines, args.out / "speech_error.png", x="step", y=f"error rate on {args.splits[0]} (%)")
    results: list[Result] = []
    for (arm, share, split), runs in scored.items():
        about = {"data": split, "encoder": arm, "n": len(runs[0].errors), "seeds": len(runs)}
        scores = {f"error rate at {share:g}": _rate(runs)}
        others = scored.get(("random", share, split))
        if others and arm.endswith("tuned"):
            scores[f"relative gain over random at {share:g}"] = _gain(runs, others)
        results += args.rows(scores, **about, trained_on=f"{share:g} of the labels")
    print(f"error rates of {args.units}, means over seeds, with 95 % intervals over speakers")
    return results


def planned(args: argparse.Namespace) -> list[Plan]:
    """Return all runs in order of seeds, so that one result of each kind is available early."""
    steps = args.steps * len(args.shares) if len(args.steps) == 1 else args.steps
    names = [short_name(encoder) for encoder in args.encoder]
    if len(set(names)) != len(names):
        raise UserError(f"two encoders have the name {names[0]}: rename the folder of one")
    plans = []
    for seed in range(args.seeds):
        for share, n_steps in zip(args.shares, steps):
            base = recipe(args, share, n_steps, seed)
            for encoder, name in zip(args.encoder, names):
                for arm in args.arms:
                    if arm == "random" and encoder != args.encoder[0]:
                        continue
                    column = f"{name}-{arm}" if len(names) > 1 and arm != "random" else arm
                    out = args.out / "speech_error" / f"{column}_{share:g}_{seed}"
                    config = replace(base, loop=replace(base.loop, out=out))
                    plans.append(Plan(column, share, seed, variant(config, arm, encoder)))
    return plans


def recipe(args: argparse.Namespace, share: float, steps: int, seed: int) -> CTCConfig:
    """Return the training configuration for a fraction of the labels, common to all networks."""
    preset, every = PRESETS[args.units], max(1, steps // 4)
    cadence = {"log_every": min(20, steps), "save_every": every, "sample_every": every, "keep": 1}
    hardware = {"mixed_precision": args.precision, "cpu": args.device == "cpu"}
    head_steps = round(0.15 * steps)  # for the linear layer only, on pretrained features
    return replace(
        preset,
        data=replace(preset.data, paths=(args.data,), share=share, share_seed=seed, batch_seconds=10.0),
        optim=replace(preset.optim, lr=1e-3, **_timing(steps - head_steps)),
        head=replace(preset.head, lr=2e-2, **_timing(steps)),
        freeze=FreezeConfig(convolutions=False, trunk_steps=head_steps),
        loop=LoopConfig(steps=steps, seed=seed, trackers="none", **cadence, **hardware),
    )


def _timing(steps: int) -> dict[str, int]:
    warm, hold = max(1, round(0.08 * steps)), round(0.35 * steps)
    return {"warmup_steps": warm, "hold_steps": hold, "decay_steps": max(1, steps - warm - hold)}


def variant(config: CTCConfig, arm: str, encoder: str) -> CTCConfig:
    match arm:
        case "tuned":
            return replace(config, init=encoder)
        case "random":
            # Training only the head on random features is useless: the whole network is trained from step 0.
            optim = replace(config.optim, **_timing(config.loop.steps))
            model = replace(config.model, encoder=load_speech_encoder(encoder).config)
            return replace(config, model=model, optim=optim, freeze=FreezeConfig(convolutions=False))
        case _:
            # A linear layer cannot reconstruct masked frames.
            augment = FrameAugmentConfig(time_share=0.0, channel_share=0.0)
            return replace(config, init=encoder, freeze=FreezeConfig(trunk=True), augment=augment)


def trained_and_scored(plan: Plan, splits: Sequence[str]) -> tuple[dict[int, float], dict[str, Scored]]:
    """Train, resume or reload a run; return the first split's error rate by step, and the final errors."""
    curve = plan.config.loop.out / "curve.csv"

    def on_evaluation(step: int, rate: float) -> None:
        with curve.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([step, rate])

    task, _ = train(plan.config, on_evaluation=on_evaluation, validation_split=splits[0])
    scored = {}
    for split in splits:
        whole = replace(plan.config.data, split=split, share=1.0)
        network = task.average
        speech = LabelledSpeech(whole, network.units, sample_rate=network.sample_rate, progress=False)
        errors = error_rates(network, speech)
        rows = [speech.rows[i] for i in errors]
        scored[split] = Scored([*errors.values()], [row.speaker or row.path.name for row in rows])
    lines = curve.read_text(encoding="utf-8").splitlines() if curve.is_file() else []
    # A step evaluated again after a stop counts once.
    return {int(step): float(rate) for step, rate in csv.reader(lines)}, scored


def _rate(runs: Sequence[Scored]) -> Interval:
    return interval(_ratio(runs), runs[0].speakers)


def _gain(ours: Sequence[Scored], theirs: Sequence[Scored]) -> Interval:
    """Return 1 − our rate over theirs, with the same resampled speakers."""
    one, other = _ratio(ours), _ratio(theirs)
    return interval(lambda index: 1 - one(index) / other(index), ours[0].speakers)


def _ratio(runs: Sequence[Scored]) -> Callable[[np.ndarray], float]:
    """Return the function from utterances' indices to edits per unit, averaged over runs."""
    edits = np.mean([[error.edits for error in run.errors] for run in runs], axis=0)
    units = np.array([error.units for error in runs[0].errors])
    return lambda index: float(edits[index].sum() / units[index].sum())


UNITS, PRECISIONS, SPLITS = ("characters", "phonemes"), ("no", "bf16"), ["validation", "test"]
LIST = {"nargs": "+"}
OPTIONS = {
    "--seeds": {},
    "--units": {"choices": UNITS, "default": UNITS[0], "help": "units (characters)"},
    "--arms": LIST | {"choices": ARMS, "default": list(ARMS), "help": f"recognisers ({' '.join(ARMS)})"},
    "--shares": LIST | {"type": float, "default": [0.1, 1.0], "help": "fractions of the labels (0.1 1.0)"},
    "--steps": LIST | {"type": int, "default": [900, 1200], "help": "training steps per share (900 1200)"},
    "--splits": LIST | {"default": SPLITS, "help": "splits to score (validation test)"},
    "--precision": {"choices": PRECISIONS, "default": "bf16", "help": "precision of training (bf16)"},
}
ENCODERS = "export or run of pretrain/data2vec.py"
speech_error = Probe("speech_error", __doc__, run_speech_error, OPTIONS, encoders=ENCODERS)
