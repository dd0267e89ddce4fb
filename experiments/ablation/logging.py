"""What is seen of a run: looks at a few held-out crops while it trains, and the scores of its outputs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.audio import load
from data.audio.writing import save
from data.batches import Address, Batch, DataConfig, SpeechCrops
from eval.cache import Cache
from eval.outputs import Voices, make_outputs
from eval.pairs import Pair
from eval.pitch import Pitch, log_mean
from eval.recognisers import Pocketsphinx, TrainedRecogniser
from eval.scoring import VOICE, Judges, Metric, score_pairs
from eval.similarity import cosine
from pretrain.recogniser import RELEASED
from vocoders import load_vocoder
from w2w.baselines.cluit_mel.losses import norm_loss
from w2w.cluit.content_loss import ContentLoss, ContentLossConfig
from w2w.converter import Converter

N_HELD_OUT = 12
"""Crops of as many speakers that are never trained on, looked at during training."""
HELD_OUT_SAMPLES = 32_000
"""Of each: what Resemblyzer needs to know a voice."""
SCORED = ("to_target", "to_source", "nearer_to_target", "f0_distance", "phones_changed")
EVERY_THIRD = 3
"""Of the pairs, one in so many is also read by pocketsphinx, which takes longest."""
Wave = Float[Tensor, "batch 1 samples"]


def held_out(data: DataConfig) -> Batch:
    """The crops that all runs are looked at with: ``wave``, and ``other`` of the same speakers."""
    wanted = {"crop_samples": HELD_OUT_SAMPLES, "reference_samples": HELD_OUT_SAMPLES}
    whose = replace(
        data, split="validation", batch=N_HELD_OUT, equal_speakers=True, label_share=1.0, **wanted
    )
    return SpeechCrops(whose, progress=False)[Address(seed=0, step=0)]


class Watched:
    """The trainer's task, whose averaged network is looked at on speech that is not trained on.

    Every crop is converted to the voice of the one before it, as ``other`` gives that voice; the target that
    the result is compared with is that speaker's ``wave``, which the network did not hear.
    """

    def __init__(self, task: Any, crops: Batch, curve: Path) -> None:
        self.task, self.curve, self.source, self.other = task, curve, crops.wave, crops.other
        self.players, self.modules, self.update = task.players, task.modules, task.update
        self.log_mel: Any = task.frontend
        self.vocoder = load_vocoder("released")
        self.ears = ContentLoss(
            ContentLossConfig(features=0.0, posteriors=1.0), self.log_mel.config.sample_rate
        )
        self.frozen = {**task.frozen, "ears": self.ears, "vocoder": self.vocoder}
        self.own = [heard(wave) for wave in crops.wave.split(1)]
        self.targets = [self.own[i - 1] for i in range(len(self.own))]

    def evaluate(self, step: int) -> dict[str, float]:
        """One point of the curves."""
        network: Any = self.task.averaged
        device = next(network.parameters()).device
        wave, other = self.source.to(device), self.other.to(device)
        mel, voice = self.log_mel(wave), network.style_of_mel(self.log_mel(other))
        converted = network(mel, voice.roll(1, 0))
        floor = math.log(self.log_mel.config.floor)
        spoken = self.vocoder(converted.float().clamp_min(floor))
        found = {
            "cycle": float(F.l1_loss(network(converted, network.style_of_mel(mel)), mel)),
            "norm": float(norm_loss(converted, mel)),
            "moves": float(F.l1_loss(network(mel, voice.roll(2, 0)), converted)),
            "phones": float(self.ears.terms(spoken, wave)["posteriors"]),
            **self.likeness(spoken.cpu()),
        }
        with self.curve.open("a") as file:
            file.write(json.dumps({"step": step, **found}) + "\n")
        return found

    def likeness(self, spoken: Wave) -> dict[str, float]:
        """How much nearer to the target than to the source, and how far the pitch is off the target's."""
        nearer, offsets = [], []
        for (voice, f0), own, target in zip(map(heard, spoken.split(1)), self.own, self.targets):
            nearer.append(cosine(voice, target[0]) - cosine(voice, own[0]))
            offsets.append(abs(12 * (log_mean(f0) - log_mean(target[1])) / math.log(2)))
        return {"nearer": mean(nearer), "f0_distance": mean_of_known(offsets)}


def heard(wave: Wave) -> tuple[Any, Any]:
    """The embedding and the F0 of one crop."""
    wave = wave.detach().float().cpu()
    return VOICE(wave)["embedding"], Pitch()(wave)["f0"]


def mean_of_known(values: Sequence[float]) -> float:
    """NaN only where nothing is known, as of outputs without a voiced frame."""
    known = [value for value in values if math.isfinite(value)]
    return mean(known) if known else math.nan


def judged(run: Path, pairs: Sequence[Pair], cache: Cache) -> dict[str, float]:
    """Scores of an exported run's outputs."""
    converter: Any = Converter.from_pretrained(run / "export", vocoder="released")
    return scores(make_outputs(pairs, Voices(converter), run, "outputs"), cache)


def scores(pairs: Sequence[Pair], cache: Cache) -> dict[str, float]:
    """Means over pairs; of every third, also letters that pocketsphinx reads otherwise than the text.

    Phones are those of our recogniser in the output against those it hears in the source. One arm is trained
    to please that very recogniser: CER is there because pocketsphinx was nobody's teacher.
    """
    judges = Judges(recognisers=(TrainedRecogniser(str(RELEASED)),))
    ours: tuple[Metric, ...] = ("similarity", "pitch", "intelligibility")
    _, summary = score_pairs(pairs, ours, judges=judges, cache=cache, jobs=1)
    sphinx = Judges(recognisers=(Pocketsphinx(shifts=1),))
    _, read = score_pairs(pairs[::EVERY_THIRD], ("intelligibility",), judges=sphinx, cache=cache, jobs=1)
    (means,), (letters,) = summary.values(), read.values()
    return {**{column: value_of(means, column) for column in SCORED}, "cer": value_of(letters, "cer")}


def value_of(means: Mapping[str, Mapping[str, float]], column: str) -> float:
    """A column's mean, NaN where no row has a value."""
    return means[column]["mean"] if column in means else math.nan


def toplines(pairs: Sequence[Pair], out: Path, cache: Cache) -> dict[str, dict[str, float]]:
    """What is no conversion: the source itself, the source through the vocoder, the target's own speech."""
    path = out / f"toplines_{len(pairs)}.json"
    if not path.is_file():
        others = [replace(pair, output=pair.target_other or pair.target) for pair in pairs]
        found = {
            "source": scores([replace(pair, output=pair.source) for pair in pairs], cache),
            "source through the vocoder": scores(vocoded(pairs, out / "vocoded"), cache),
            "another utterance of the target": scores(others, cache),
        }
        path.write_text(json.dumps(found, indent=2) + "\n")
    return json.loads(path.read_text())


def vocoded(pairs: Sequence[Pair], out: Path) -> list[Pair]:
    """The sources as the vocoder speaks their own mels: what no mel converter can exceed."""
    vocoder, made = load_vocoder("released"), []
    for number, pair in enumerate(pairs):
        path = out / f"{number:03d}.wav"
        wave = load(pair.source, vocoder.sample_rate)
        save(path, vocoder(vocoder.log_mel(wave))[..., : wave.shape[-1]], vocoder.sample_rate)
        made.append(replace(pair, output=path))
    return made
