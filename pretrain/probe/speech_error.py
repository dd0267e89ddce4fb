"""How well speech is written down after fine-tuning: ``python -m pretrain.probe speech_error``.

    python -m pretrain.probe speech_error --encoder runs/speech/export --data speech/metadata.csv

For each share of the labels and each seed, three recognisers are trained by the same recipe: on the
pretrained encoder (tuned), on the same network from random weights (random), and on the encoder as it is, by
a linear layer on an average of its layers (frozen). A seed also chooses which utterances keep their labels.
Every run's result is stored when it ends: called again, the command makes only what is missing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from engine.arguments import Arguments
from engine.loop import LoopConfig
from engine.user_error import UserError
from pretrain.probe.embedders import short_name
from pretrain.probe.speech_error_report import report_errors
from pretrain.probe.speech_error_run import Outcome, outcome_of
from pretrain.speech.loading import load_speech_encoder
from pretrain.speech.masking import FrameAugmentConfig
from pretrain.speech.recognition_config import PRESETS, CTCConfig, FreezeConfig

ARMS = ("tuned", "random", "frozen")
UNITS = ("characters", "phonemes")


class Plan(NamedTuple):
    """One run."""

    arm: str
    """As it stands over a column."""
    share: float
    seed: int
    config: CTCConfig


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Make the runs that are missing and report all."""
    parser = Arguments.described_by("pretrain.probe speech_error", __doc__)
    add = parser.add_argument
    add("--encoder", action="append", default=[], help="export or run of pretrain/data2vec.py; repeatable")
    add("--data", action="append", required=True, help="manifest or folder with texts; repeatable")
    add("--out", type=Path, default=Path("runs/probe/speech_error"), help="folder of runs and results")
    add("--units", choices=UNITS, default="characters", help="what is written (characters)")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help=f"which ({' '.join(ARMS)})")
    add("--shares", nargs="+", type=float, default=[0.1, 1.0], help="of the labels (0.1 1.0)")
    add("--steps", nargs="+", type=int, default=[900, 1200], help="of training, by share (900 1200)")
    add("--seeds", type=int, default=3, help="runs of each kind (3)")
    add("--splits", nargs="+", default=["validation", "test"], help="that are scored (validation test)")
    add("--batch-seconds", type=float, default=10.0, help="speech a step (10)")
    add("--lr", type=float, default=1e-3, help="peak learning rate of the encoder (1e-3)")
    add("--head-lr", type=float, default=2e-2, help="peak learning rate of the linear layer (2e-2)")
    add("--head-share", type=float, default=0.15, help="of the steps, with the encoder still frozen (0.15)")
    add("--curve", type=int, default=4, help="times that a run is scored on the first split as it goes (4)")
    add("--precision", choices=("no", "bf16"), default="bf16", help="of training (bf16)")
    add("--threads", type=int, default=0, help="of the CPU; 0 leaves torch's choice")
    add("--cpu", action="store_true", help="stay on the CPU even where there is a GPU")
    words = parser.parse_args(argv)
    if not words.encoder:
        raise UserError("no encoder was given: name a run of pretrain/data2vec.py with --encoder")
    if len(words.steps) not in (1, len(words.shares)) or words.seeds < 1:
        raise UserError("give --steps once, or once for each of --shares, and at least one seed")
    if words.threads:
        torch.set_num_threads(words.threads)
    plans = planned(words)
    outcomes = []
    for number, plan in enumerate(plans, start=1):
        name = f"{plan.arm}_{plan.share:g}_{plan.seed}"
        outcome = outcome_of(words.out / name, plan, words.splits)
        rates = "  ".join(f"{split} {100 * outcome.rate(split):.1f} %" for split in words.splits)
        print(f"{number}/{len(plans)} {name}: {rates}", flush=True)
        outcomes.append(outcome)
    report_errors(outcomes, words.splits, words.units, words.out)
    return outcomes


def planned(words) -> list[Plan]:
    """Return all runs, seed by seed: a first answer comes early."""
    steps = words.steps * len(words.shares) if len(words.steps) == 1 else words.steps
    names = [short_name(Path(encoder)) for encoder in words.encoder]
    if len(set(names)) != len(names):
        raise UserError(f"two encoders are called {names[0]}: rename the folder of one")
    several = len(names) > 1
    plans = []
    for seed in range(words.seeds):
        for share, n_steps in zip(words.shares, steps):
            base = recipe(words, share, n_steps, seed)
            for encoder, name in zip(words.encoder, names):
                for arm in words.arms:
                    if arm == "random" and encoder != words.encoder[0]:
                        continue
                    column = f"{name}-{arm}" if several and arm != "random" else arm
                    plans.append(Plan(column, share, seed, changed(base, arm, encoder)))
    return plans


def recipe(words, share: float, steps: int, seed: int) -> CTCConfig:
    """Return how all networks are trained on a share of the labels."""
    preset = PRESETS[words.units]
    # The linear layer first finds its way among features that mean something already.
    alone = round(words.head_share * steps)
    loop = LoopConfig(
        steps=steps,
        seed=seed,
        log_every=min(20, steps),
        save_every=max(1, steps // max(words.curve, 1)),
        sample_every=max(1, steps // words.curve) if words.curve else 0,
        keep=1,
        mixed_precision=words.precision,
        trackers="none",
        threads=words.threads,
        cpu=words.cpu,
    )
    data = replace(
        preset.data, paths=tuple(words.data), share=share, share_seed=seed, batch_seconds=words.batch_seconds
    )
    optim = replace(preset.optim, lr=words.lr, **_timing(steps - alone))
    head = replace(preset.head, lr=words.head_lr, **_timing(steps))
    freeze = FreezeConfig(convolutions=False, trunk_steps=alone)
    return replace(preset, data=data, optim=optim, head=head, freeze=freeze, loop=loop)


def _timing(steps: int) -> dict[str, int]:
    warm, hold = max(1, round(0.08 * steps)), round(0.35 * steps)
    return {"warmup_steps": warm, "hold_steps": hold, "decay_steps": max(1, steps - warm - hold)}


def changed(config: CTCConfig, arm: str, encoder: str) -> CTCConfig:
    """Return the recipe for one arm."""
    match arm:
        case "tuned":
            return replace(config, init=encoder)
        case "random":
            # Nothing is gained by a head on random features: the whole network learns from the first step.
            optim, freeze = (
                replace(config.optim, **_timing(config.loop.steps)),
                FreezeConfig(convolutions=False),
            )
            model = replace(config.model, encoder=load_speech_encoder(encoder).config)
            return replace(config, model=model, freeze=freeze, optim=optim)
        case _:
            # A linear layer cannot learn what hides behind masks: it hears whole utterances.
            speed = FrameAugmentConfig(time_share=0.0, channel_share=0.0)
            return replace(config, init=encoder, freeze=FreezeConfig(trunk=True), augment=speed)
