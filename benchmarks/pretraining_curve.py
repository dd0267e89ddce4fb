"""Seconds to the same loss: ``python -m benchmarks.pretraining curve --teacher FOLDER --data.paths …``

The plain form and that of data2vec 2.0 train from the same weights, on the same speech, in turns of processor
seconds. So that the loss is the same quantity for both, the teacher stands still and is common to both: a
trained speech encoder (of random weights nothing can be guessed but the mean). The loss is the masked
regression of its targets on held-out clips, under the same masks. What is compared is thus the time that the
two ways of showing a clip take to teach the same; a teacher that moves would be another's. An update learns
from about as many masked frames in both: with 8 masks a clip, the 2.0 form takes an eighth of the clips.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmarks.table import machine, show
from data.batches import Batches
from engine.arguments import Arguments
from engine.optim import OptimConfig, Player
from engine.seeding import seed_step
from pretrain.speech.batches import Clips, SpeechConfig, UnlabelledSpeech
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig
from pretrain.speech.loading import load_speech_encoder
from pretrain.speech.regression import Regression, RegressionConfig, Teacher, TeacherConfig
from pretrain.speech.student import MaskToken, MaskTokenConfig, MultiMask, MultiMaskConfig, gather_frames

GOAL = 2.0
"""Times fewer seconds that the 2.0 form should take."""
MODEL = SpeechEncoderConfig(
    conv_dims=(128,) * 7, hidden=256, layers=4, heads=4, ffn=1024, dropout=0.0, attention_dropout=0.0
)
"""The published convolutions, narrower."""
FILTERBANK = replace(
    MODEL, conv_dims=(256, 256), conv_kernels=(400, 4), conv_strides=(160, 2), conv_bias=True, filterbank=True
)


class CommonTeacher:
    """A frozen encoder and what data2vec would have a student guess of it."""

    def __init__(self, encoder: SpeechEncoder, top: int, student: SpeechEncoderConfig) -> None:
        more = encoder.config.receptive_field - student.receptive_field
        self.margins = (more // 2, more - more // 2)  # its frames are the student's, however far each sees
        self.encoder = encoder.eval().requires_grad_(False)
        self.teacher = Teacher(encoder, TeacherConfig(top=top))

    @torch.no_grad()
    def __call__(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch frames hidden"]:
        local = self.encoder.local(F.pad(wave, self.margins))
        return self.teacher(self.encoder.position(self.encoder.project(local)))


@dataclass
class Learner:
    """One form on its way."""

    name: str
    config: MaskTokenConfig | MultiMaskConfig
    clips: UnlabelledSpeech
    lr: float
    seconds: float = 0.0
    updates: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Processor seconds and validation loss."""

    def build(self, model: SpeechEncoderConfig) -> None:
        """Make the networks, from the same first weights for every form."""
        seed_step(0, 0)
        self.encoder = SpeechEncoder(model)
        match self.config:
            case MaskTokenConfig():
                self.student = MaskToken(self.config, model.hidden)
            case MultiMaskConfig():
                self.student = MultiMask(self.config, model.hidden)
        self.head = Regression(RegressionConfig(), self.student.dim, model.hidden)
        optim = OptimConfig(lr=self.lr, betas=(0.9, 0.98), eps=1e-6, warmup_steps=30, gradient_clip=5.0)
        self.player = Player([self.encoder, self.student, self.head], optim)
        self.batches: Iterator[Clips] = Batches(self.clips, seed=0)(0)

    def loss(self, wave: Float[Tensor, "batch 1 samples"], teacher: CommonTeacher) -> Float[Tensor, ""]:
        states, index = self.student(self.encoder, self.encoder.project(self.encoder.local(wave)))
        return self.head(states, gather_frames(teacher(wave), index))[0]

    def learn(self, seconds: float, teacher: CommonTeacher, *, bf16: bool) -> None:
        for module in (self.encoder, self.student, self.head):
            module.train()
        until = self.seconds + seconds
        while self.seconds < until:
            began = time.process_time()
            seed_step(0, self.updates)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                self.player.step(self.loss(next(self.batches).wave, teacher))
            self.updates += 1
            self.seconds += time.process_time() - began

    @torch.no_grad()
    def validate(self, clips: Sequence[Clips], teacher: CommonTeacher) -> float:
        """Note the loss on held-out clips, always under the same masks."""
        for module in (self.encoder, self.student, self.head):
            module.eval()
        seed_step(0, 0, 1)
        loss = sum(float(self.loss(c.wave, teacher)) for c in clips) / len(clips)
        self.curve.append((self.seconds, loss))
        return loss


def loss_of_the_mean(clips: Sequence[Clips], teacher: CommonTeacher) -> float:
    """Return the loss of the best constant guess, below which something has been learned."""
    targets = torch.cat([teacher(c.wave).flatten(0, 1) for c in clips])
    return float(targets.var(0).sum()) * targets.shape[-1] ** -0.5


def seconds_to(curve: Sequence[tuple[float, float]], loss: float) -> float:
    """Return when a curve first reaches a loss, between its points on a line."""
    before = curve[0]
    for point in curve:
        if point[1] <= loss:
            if point is before:
                return point[0]
            share = (before[1] - loss) / (before[1] - point[1])
            return before[0] + share * (point[0] - before[0])
        before = point
    return float("inf")


def compare_curves(argv: Sequence[str]) -> None:
    arguments = Arguments.described_by("benchmarks.pretraining curve", __doc__)
    option = arguments.add_argument
    option("--data.paths", dest="paths", nargs="+", required=True, help="manifests of speech")
    option("--teacher", required=True, help="folder of a speech encoder, to be guessed")
    option("--seconds", type=float, default=240.0, help="processor seconds of each form")
    option("--every", type=float, default=20.0, help="processor seconds between points")
    option("--batch-seconds", type=float, default=48.0, help="speech in the plain form's batch")
    option("--batch-seconds-2.0", type=float, dest="batch_seconds_2", help="the 2.0 form's")
    option("--masks", type=int, default=8, help="of the 2.0 form, a clip")
    option("--lr", type=float, default=1e-3)
    option("--filterbank", action="store_true", help="begin with the small preset's filters")
    option("--bf16", action="store_true", help="both in bfloat16 where that is safe")
    args = arguments.parse_args(argv)
    torch.set_num_threads(1)
    seed_step(0, 1)
    encoder = load_speech_encoder(args.teacher)
    model = replace(FILTERBANK if args.filterbank else MODEL, hidden=encoder.config.hidden)
    teacher = CommonTeacher(encoder, max(1, encoder.config.layers - 1), model)

    mask, paths = MaskTokenConfig().mask, tuple(args.paths)
    many = MultiMaskConfig(masks=args.masks, mask=mask, decoder_dim=model.hidden)
    whole = speech_config(paths, args.batch_seconds)
    fewer = speech_config(paths, args.batch_seconds_2 or args.batch_seconds / args.masks)
    learners = [
        Learner("plain", MaskTokenConfig(mask=mask), UnlabelledSpeech(whole), args.lr),
        Learner("2.0", many, UnlabelledSpeech(fewer, progress=False), args.lr),
    ]
    held_out = UnlabelledSpeech(whole, split="validation", progress=False)
    validation = list(held_out.in_order(30.0))
    for learner in learners:
        learner.build(model)
        learner.validate(validation, teacher)
    rounds = max(1, round(args.seconds / args.every))
    print(machine())
    print(f"guessing the mean: loss {loss_of_the_mean(validation, teacher):.4f}", flush=True)
    for _ in range(rounds):
        for learner in learners:
            learner.learn(args.every, teacher, bf16=args.bf16)
            loss = learner.validate(validation, teacher)
            print(
                f"{learner.name}: {learner.seconds:.0f} s, {learner.updates} updates, loss {loss:.4f}",
                flush=True,
            )
    report(learners)


def speech_config(paths: tuple[str, ...], batch_seconds: float) -> SpeechConfig:
    longest = min(6.0, batch_seconds)
    return SpeechConfig(
        paths=paths, batch_seconds=batch_seconds, longest_seconds=longest, shortest_seconds=min(2.0, longest)
    )


def report(learners: Sequence[Learner]) -> None:
    """Print both curves, and when each form is first as good as the other in the end."""
    first, second = learners
    rows = [
        [f"{a[0]:.0f}", f"{a[1]:.4f}", f"{b[0]:.0f}", f"{b[1]:.4f}"]
        for a, b in zip(first.curve, second.curve)
    ]
    show(
        "Masked regression of common targets on held-out speech",
        ["seconds, plain", "loss", "seconds, 2.0", "loss"],
        rows,
    )
    target = max(min(loss for _, loss in learner.curve) for learner in learners)
    took = [seconds_to(learner.curve, target) for learner in learners]
    verdict = "yes" if took[0] / took[1] >= GOAL else "NO"
    heads = ["loss that both reach", "seconds, plain", "seconds, 2.0", "times fewer", f"≥ {GOAL:g}"]
    row = [f"{target:.4f}", f"{took[0]:.0f}", f"{took[1]:.0f}", f"{took[0] / took[1]:.2f}", verdict]
    show("Seconds to the same loss", heads, [row])
