"""The distillation task: a linear head on the causal student's code predicts the teacher's features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from data.augment import noise
from data.batches import Address, Batch
from data.pairs import PairBatch, Together
from data.shards import ShardStream
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import within
from pretrain.causal.encoder import CausalEncoderConfig, Curve, PerItem, Student, StudentConfig, Wave
from pretrain.speech.labelled import Labelled, LabelledSpeech
from pretrain.teacher import Features, Teacher, at_times
from pretrain.units import PHONES, RecogniserOutput, ctc_losses, mean_per_unit


class DistillationBatch(NamedTuple):
    human: Batch
    pairs: PairBatch | None = None
    transcribed: Labelled | None = None


class DistillationData(Dataset[DistillationBatch]):
    def __init__(
        self,
        human: Any,
        pairs: Any | None = None,
        transcribed: LabelledSpeech | ShardStream[LabelledSpeech] | None = None,
    ) -> None:
        self.together, self.transcribed = Together(human, pairs), transcribed

    def __getitem__(self, address: Address) -> DistillationBatch:
        human, pairs = self.together[address]
        transcribed = None if self.transcribed is None else self.transcribed[address]
        return DistillationBatch(human, pairs, transcribed)


PAUSE_WEIGHT = 0.05
"""Loss weight of a pause, relative to 1 for speech; above 0 so that codes in silence are trained too."""


@dataclass(frozen=True, kw_only=True)
class DistillationWeights:
    """Weights of the loss terms."""

    cosine: float = 1.0
    """Weight of 1 − cosine similarity between the predicted and the teacher's features."""
    l1: float = 0.1
    """Weight of the mean absolute error between them, which fixes the scale of the head's output."""
    phones: float = 0.05
    """Weight of the CTC loss per phone of a linear head on the code, where there is transcribed speech."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """The student, its input augmentation and its optimisation."""

    model: CausalEncoderConfig = field(default_factory=CausalEncoderConfig)
    look_ahead_ms: float = 8.0
    """Delay of the student's frames relative to the teacher's, in milliseconds."""
    weights: DistillationWeights = field(default_factory=DistillationWeights)
    warp: float = 0.15
    """Frequencies of the student's input are scaled by a random factor in [1 − warp, 1 + warp]; the teacher's
    input is unchanged."""
    noise_share: float = 0.3
    """Probability of adding noise to a clip of the student's input."""
    snr_db: tuple[float, float] = (10.0, 40.0)
    """Range of that noise's signal-to-noise ratio, in dB."""
    ema: float = 0.999
    """Decay of the exponential moving average of the weights, which is exported."""
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        within("[0, 0.4)", self, "warp")
        within("[0, 1]", self, "noise_share")


class Distillation:
    """The training task: predict the teacher's features of clean speech from augmented or paired speech."""

    def __init__(
        self,
        config: DistillationConfig,
        teacher: Teacher,
        validation: Sequence[Wave] = (),
        *,
        phones: bool = False,
    ) -> None:
        self.config, self.teacher, self.validation = config, teacher, validation
        self.shape = StudentConfig(
            encoder=config.model,
            sample_rate=teacher.sample_rate,
            look_ahead_ms=config.look_ahead_ms,
            teacher_dim=teacher.dim,
        )
        self.student = Student(self.shape)
        self.ema = EMA(self.student, config.ema)
        self.modules: dict[str, nn.Module] = {"student": self.student, "ema": self.ema.module}
        self.frozen: dict[str, nn.Module] = {"teacher": teacher}
        learned: list[nn.Module] = [self.student]
        if phones:
            self.phones = self.modules["phones"] = nn.Conv1d(config.model.dim, len(PHONES) + 1, 1)
            learned.append(self.phones)
        self.players = {"student": Player(learned, config.optim, "student")}

    def update(self, batch: DistillationBatch, step: int) -> Mapping[str, Tensor]:
        weight, human, pairs = self.config.weights, batch.human, batch.pairs
        waves = [human.wave, human.other] if human.wave.shape == human.other.shape else [human.wave]
        clean = torch.cat([*waves, *([] if pairs is None else [pairs.target])])
        changed = torch.cat([*waves, *([] if pairs is None else [pairs.source])])

        with torch.no_grad():
            target = self.teacher(clean)
        content = self.student.encoder.encode(self.noisy(changed), self.warps(changed))
        places = self.student.places(self.teacher, target.shape[-1])
        prediction = self.student.predict(content.code, places)
        audible = audibility(at_times(content.energy, places))
        cosine_distance = 1.0 - cosine(prediction, target)
        l1 = (prediction - target).abs().mean(1, keepdim=True)
        terms = {"cosine": weighted(cosine_distance, audible), "l1": weighted(l1, audible)}
        loss = weight.cosine * terms["cosine"] + weight.l1 * terms["l1"]
        if batch.transcribed is not None:
            terms["phones"] = self.phone_loss(batch.transcribed)
            loss = loss + weight.phones * terms["phones"]
        self.players["student"].step(loss)
        self.ema.update(step)
        if pairs is not None:
            n_pairs = len(pairs.target)
            terms["cosine_human"] = weighted(cosine_distance[:-n_pairs], audible[:-n_pairs])
            terms["cosine_pairs"] = weighted(cosine_distance[-n_pairs:], audible[-n_pairs:])
        return {f"loss/student/{name}": value.detach() for name, value in terms.items()}

    def warps(self, wave: Wave) -> PerItem | None:
        if not self.config.warp:
            return None
        return 1.0 + self.config.warp * (2 * torch.rand(len(wave), device=wave.device) - 1)

    def noisy(self, wave: Wave) -> Wave:
        if not self.config.noise_share:
            return wave
        rng = torch.Generator(wave.device).manual_seed(int(torch.randint(2**31, ())))
        chosen = torch.rand(len(wave), 1, 1, device=wave.device) < self.config.noise_share
        return torch.where(chosen, noise(wave, rng, snr_db=self.config.snr_db), wave)

    def phone_loss(self, batch: Labelled) -> Float[Tensor, ""]:
        """CTC loss of a linear head; the code is causal, so padding cannot affect a clip's valid frames."""
        code = self.student(self.noisy(batch.wave), self.warps(batch.wave))
        log_probs = self.phones(code).float().log_softmax(1).transpose(1, 2)
        frames = torch.arange(code.shape[-1], device=code.device)
        valid = frames < (batch.samples // self.student.encoder.hop).clamp(1, code.shape[-1])[:, None]
        losses = ctc_losses(RecogniserOutput([], log_probs, valid), batch.tokens, batch.n_tokens)
        return mean_per_unit(losses, batch.n_tokens)

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean cosine similarity of the EMA student's predictions and the teacher, over audible frames."""
        if not self.validation:
            return {}
        cosines = []
        for wave in self.validation:
            prediction, target, audible = self._compared(wave)
            cosines.append((cosine(prediction, target) * audible).sum((1, 2)) / audible.sum((1, 2)))
        return {"cosine": float(torch.cat(cosines).mean())}

    def samples(self, step: int) -> Samples:
        if not self.validation:
            return Samples()
        prediction, target, _ = self._compared(self.validation[0][:1])
        return Samples(mels={"teacher": target[0], "student": prediction[0]})

    def _compared(self, wave: Wave) -> tuple[Features, Features, Curve]:
        student: Student = self.ema.module  # pyright: ignore[reportAssignmentType]
        wave = wave.to(next(student.parameters()).device)
        target, content = self.teacher(wave), student.encoder.encode(wave)
        places = student.places(self.teacher, target.shape[-1])
        return student.predict(content.code, places), target, audibility(at_times(content.energy, places))


def cosine(prediction: Features, target: Features) -> Curve:
    return F.cosine_similarity(prediction, target, dim=1, eps=1e-4)[:, None]


def audibility(energy: Curve) -> Curve:
    """Return each frame's loss weight: 1 for speech, down to ``PAUSE_WEIGHT`` for pauses."""
    return torch.sigmoid(2.0 * (energy.detach() + 3.0)).clamp_min(PAUSE_WEIGHT)


def weighted(value: Curve, weight: Curve) -> Float[Tensor, ""]:
    return (value * weight).sum() / weight.sum()
