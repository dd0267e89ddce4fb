"""One run of ``speech_error``: fine-tuned, scored, stored; or read where it was stored before."""

import csv
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.config import from_json, to_json
from engine.files import atomic
from engine.json_config import differences
from engine.user_error import UserError
from pretrain.ctc import train
from pretrain.ctc_score import error_rates
from pretrain.speech.labelled import LabelledSpeech
from pretrain.speech.loading import load_speech_encoder
from pretrain.speech.recognition_config import CTCConfig, resolved

if TYPE_CHECKING:
    from pretrain.probe.speech_error import Plan


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One split, utterance by utterance."""

    utterances: list[str]
    speakers: list[str]
    edits: list[int]
    units: list[int]
    word_edits: list[int]
    words: list[int]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    arm: str
    share: float
    seed: int
    labelled_seconds: float
    """Of speech that it learned from."""
    splits: dict[str, Scored]
    curve: list[tuple[int, float]]
    """Error rate of the first split by step, in percent."""

    def rate(self, split: str) -> float:
        """Edits per unit of a split."""
        scored = self.splits[split]
        return float(np.sum(scored.edits) / max(np.sum(scored.units), 1))


def outcome_of(folder: Path, plan: "Plan", splits: Sequence[str]) -> Outcome:
    """Train and score, unless the folder holds the result of the same run."""
    config = resolved(replace(plan.config, loop=replace(plan.config.loop, out=folder)))
    stamp = weights_stamp(config.init)
    stored = folder / "result.json"
    if stored.is_file():
        return _stored(stored, config, stamp, splits)
    if folder.exists() and (folder / "stamp").is_file() and (folder / "stamp").read_text() != stamp:
        raise UserError(f"{folder} was begun with other weights of {config.init}: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stamp").write_text(stamp)
    watched = folder / "curve.csv"

    def watch(step: int, rate: float) -> None:
        with watched.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([step, rate])

    task = train(config, on_evaluation=watch, validation_split=splits[0])
    units = task.average.units
    scored, seconds = {}, LabelledSpeech(config.data, units, progress=False).seconds
    whole = replace(config.data, share=1.0, unlabelled_seconds=0.0)
    for split in splits:
        speech = LabelledSpeech(whole, units, split=split, progress=False)
        errors = error_rates(task.average, speech)
        rows = [speech.rows[i] for i in errors]
        parts = (list(part) for part in zip(*errors.values()))
        scored[split] = Scored(
            utterances=[row.path.name for row in rows],
            speakers=[row.speaker or row.path.name for row in rows],
            **dict(zip(("edits", "units", "word_edits", "words"), parts)),
        )
    outcome = Outcome(
        arm=plan.arm,
        share=plan.share,
        seed=plan.seed,
        labelled_seconds=round(seconds, 2),
        splits=scored,
        curve=_curve(watched),
    )
    made = {"stamp": stamp, "config": json.loads(to_json(config)), "outcome": json.loads(to_json(outcome))}
    with atomic(stored) as temporary:
        temporary.write_text(json.dumps(made))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the export stays
    return outcome


def weights_stamp(init: str) -> str:
    """Return a digest of the pretrained weights; empty for random ones."""
    if not init:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_speech_encoder(init).state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _stored(path: Path, config: CTCConfig, stamp: str, splits: Sequence[str]) -> Outcome:
    made = json.loads(path.read_text())
    before = from_json(CTCConfig, json.dumps(made["config"]), str(path))
    outcome = from_json(Outcome, json.dumps(made["outcome"]), str(path))
    other = next((name for name, _, _ in differences(config, before) if name != "init"), None)
    steps = before.loop.steps != config.loop.steps
    if other or steps or made["stamp"] != stamp or set(splits) - set(outcome.splits):
        what = other or ("loop.steps" if steps else "encoder" if made["stamp"] != stamp else "splits")
        raise UserError(f"{path.parent} holds a run with another {what}: choose another --out")
    return outcome


def _curve(path: Path) -> list[tuple[int, float]]:
    """Read a curve; a step that was scored again after a stop counts once."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        found = {int(step): float(rate) for step, rate in csv.reader(file)}
    return sorted(found.items())
