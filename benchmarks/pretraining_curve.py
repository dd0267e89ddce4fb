"""Time to equal loss: ``python -m benchmarks.pretraining curve --teacher FOLDER --data.paths …``

data2vec (plain) and data2vec 2.0 train from the same initial weights, on the same speech, in turns of
processor seconds. To make their losses comparable, both have the same frozen teacher instead of moving
averages, which would differ: a trained speech encoder (only the mean of random weights' targets could be
predicted). The loss is the masked regression of its targets on held-out clips, with the same masks. An update
has about as many masked frames in both: with 8 masks per clip, data2vec 2.0 uses an eighth of the clips.
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
"""Minimum speed-up of data2vec 2.0 in time to equal loss."""
MODEL = SpeechEncoderConfig(
    conv_dims=(128,) * 7, hidden=256, layers=4, heads=4, ffn=1024, dropout=0.0, attention_dropout=0.0
)
"""The published convolutions with fewer channels."""
FILTERBANK = replace(
    MODEL, conv_dims=(256, 256), conv_kernels=(400, 4), conv_strides=(160, 2), conv_bias=True, filterbank=True
)


class CommonTeacher:
    """A frozen encoder that computes data2vec's regression targets."""

    def __init__(self, encoder: SpeechEncoder, top: int, student: SpeechEncoderConfig) -> None:
        more = encoder.config.receptive_field - student.receptive_field
        self.margins = (more // 2, more - more // 2)  # aligns its frames with the student's
        self.encoder = encoder.eval().requires_grad_(False)
        self.teacher = Teacher(encoder, TeacherConfig(top=top))

    @torch.no_grad()
    def __call__(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch frames hidden"]:
        local = self.encoder.local(F.pad(wave, self.margins))
        return self.teacher(self.encoder.position(self.encoder.project(local)))


@dataclass
class Learner:
    """A method in training, with its time and validation losses."""

    name: str
    config: MaskTokenConfig | MultiMaskConfig
    clips: UnlabelledSpeech
    lr: float
    seconds: float = 0.0
    updates: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Processor seconds and validation loss."""

    def build(self, model: SpeechEncoderConfig) -> None:
        """Build the networks, with the same initial weights for every method."""
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
        """Append the loss on held-out clips, always with the same masks, to the curve."""
        for module in (self.encoder, self.student, self.head):
            module.eval()
        seed_step(0, 0, 1)
        loss = sum(float(self.loss(c.wave, teacher)) for c in clips) / len(clips)
        self.curve.append((self.seconds, loss))
        return loss


def loss_of_the_mean(clips: Sequence[Clips], teacher: CommonTeacher) -> float:
    """The loss of the best constant prediction, the baseline."""
    targets = torch.cat([teacher(c.wave).flatten(0, 1) for c in clips])
    return float(targets.var(0).sum()) * targets.shape[-1] ** -0.5


def seconds_to(curve: Sequence[tuple[float, float]], loss: float) -> float:
    """The time at which a curve first reaches a loss, by linear interpolation."""
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
    option("--teacher", required=True, help="folder of the speech encoder that gives the targets")
    option("--seconds", type=float, default=240.0, help="processor seconds of each method (default 240)")
    option("--every", type=float, default=20.0, help="processor seconds between validations (default 20)")
    option("--batch-seconds", type=float, default=48.0, help="speech per batch, plain (default 48)")
    option("--batch-seconds-2.0", type=float, dest="batch_seconds_2", help="speech per batch, data2vec 2.0")
    option("--masks", type=int, default=8, help="masks per clip, data2vec 2.0 (default 8)")
    option("--lr", type=float, default=1e-3)
    option("--filterbank", action="store_true", help="start with the filterbank of the small preset")
    option("--bf16", action="store_true", help="run both in bfloat16 autocast")
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
    held_out = UnlabelledSpeech(replace(whole, split="validation"), progress=False)
    validation = list(held_out.in_order(30.0))
    for learner in learners:
        learner.build(model)
        learner.validate(validation, teacher)
    rounds = max(1, round(args.seconds / args.every))
    print(machine())
    print(f"baseline, predicting the mean: loss {loss_of_the_mean(validation, teacher):.4f}", flush=True)
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
    """Print both curves, and the time of each method to the lowest loss that both reach."""
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
