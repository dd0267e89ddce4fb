"""Train the converter: ``accelerate launch w2w/train.py --data.path FOLDER --loop.out runs/voice``.

Run the same command again to continue. ``--preset small`` suits a CPU, ``base`` one large GPU, ``tiny``
tests; ``--preset small_24k`` and ``base_24k`` are their 24 kHz forms. What teaches it beside the recordings:

- ``--pairs.path FOLDER``: time-aligned speech of several voices, by ``python -m data.parallel``;
- ``--teacher FOLDER``: a frozen speech encoder (Moonshine, Whisper, HuBERT, WavLM, data2vec), which must find
  the same words in an output as in its source;
- ``--pretrained.student runs/student``: a content encoder taught by ``pretrain/distil.py`` to begin with;
  ``--pretrained.pitch runs/f0`` an F0 tracker by ``pretrain/f0.py``, ``--pretrained.style runs/wav2clip``
  the style encoder.

What the converter is compared with is trained by ``--task cluit-mel`` and ``--task stargan``, with presets of
their own: ``--task cluit-mel --help``.
"""

import re
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, ClassVar

from data.batches import DataConfig
from data.pairs import PairConfig, Together, batches_together
from data.recordings import end_training
from engine.checkpoint import export, newest_checkpoint
from engine.config import cli, free
from engine.contents import Contents, folder_contents
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from pretrain.causal.encoder import CausalEncoderConfig, load_student
from w2w.cluit.adversary import DiscriminatorConfig
from w2w.cluit.config import CLUITConfig
from w2w.cluit.task import CLUIT
from w2w.finetune import SETTINGS, begin_from, folder_of, save_voice, sizes_of
from w2w.networks.config import ConverterConfig
from w2w.networks.decoder import DecoderConfig
from w2w.networks.refiner import RefinerConfig
from w2w.networks.style import StyleConfig
from w2w.pretrained import PretrainedConfig, with_encoders

SHORTEST_CROP_S = 0.1
"""Seconds; more than the longest window of a loss."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run."""

    KIND: ClassVar[str] = "converter_training"
    GONE: ClassVar[Mapping[str, Any]] = {"content": ...}
    loop: LoopConfig = field(default_factory=LoopConfig)
    """When things happen, and where the run lives."""
    init: str = ""
    """What to begin from instead of random weights: a run, whose newest checkpoint's networks are taken, not
    its optimisers; or an exported converter."""
    finetune: str = ""
    """What to bring nearer to the voice of the recordings: an exported converter, a run, or ``released``. Its
    sizes are taken, and the voice is kept beside the export. The preset ``finetune`` is made for this."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which speech."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Which time-aligned pairs, if any."""
    teacher: str = free("released")
    """A frozen speech encoder for the losses ``content`` and ``distil``: a folder of transformers, a run of
    ``pretrain/distil.py`` or ``pretrain/data2vec.py``, hub:owner/name, or ``released``, the student that
    comes with the code; empty: none, and these losses are left out."""
    converter: ConverterConfig = field(default_factory=ConverterConfig)
    """The networks for use."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The adversary."""
    cluit: CLUITConfig = field(default_factory=CLUITConfig)
    """The algorithm and its losses."""
    pretrained: PretrainedConfig = field(
        default_factory=lambda: PretrainedConfig(student="released", pitch="released")
    )
    """Pretrained encoders inside the converter; their sizes are filled in above."""
    optim_converter: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, betas=(0.8, 0.99)))
    """The converter's optimiser."""
    optim_discriminator: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-4, betas=(0.5, 0.9)))
    """The critic's optimiser."""

    def __post_init__(self) -> None:
        if self.init and self.finetune:
            raise UserError("init and finetune exclude each other: give one of them")
        rates = {"data": self.data.sample_rate, "pairs": self.pairs.sample_rate}
        for name, rate in rates.items():
            if rate != self.converter.sample_rate and (name == "data" or self.pairs.path):
                raise UserError(
                    f"{name}.sample_rate={rate} and converter.sample_rate={self.converter.sample_rate} must"
                    " be the same: set both"
                )

        shortest = round(SHORTEST_CROP_S * self.converter.sample_rate)
        for name in ("crop_samples", "reference_samples"):
            for part in ("data", *(["pairs"] if self.pairs.path else [])):
                if 0 < (samples := getattr(getattr(self, part), name)) < shortest:
                    raise UserError(
                        f"{part}.{name}={samples} is too short to learn from: give {shortest} or more"
                    )
            if self.pairs.path and getattr(self.data, name) != getattr(self.pairs, name):
                raise UserError(
                    f"data.{name}={getattr(self.data, name)} and pairs.{name}={getattr(self.pairs, name)}"
                    " must be the same: they are rows of one batch"
                )

    def contents(self) -> dict[str, Contents | None]:
        """The teacher's files, if it is a folder."""
        return {"teacher": folder_contents(self.teacher, "a teacher")}

    def check_labels(self, n_speakers: int) -> None:
        """Refuse label losses over fewer speakers than the data has."""
        weights, known = self.cluit.weights, self.discriminator.n_speakers
        if (weights.label_discriminator or weights.label_converter) and known < max(n_speakers, 1):
            raise UserError(
                f"the data has {n_speakers} speakers and discriminator.n_speakers is {known}: label losses"
                f" need --discriminator.n-speakers {n_speakers}, and labels in the data"
            )


SMALL = TrainConfig(
    loop=LoopConfig(steps=50_000, save_every=250, sample_every=2_000, mixed_precision="bf16"),
    data=DataConfig(batch=10, crop_samples=20_480, reference_samples=32_000, equal_speakers=True),
    pairs=PairConfig(batch=6, crop_samples=20_480, reference_samples=32_000),
    cluit=CLUITConfig(adversary_from=15_000),
    optim_converter=OptimConfig(
        lr=1e-3,
        betas=(0.8, 0.99),
        gradient_clip=5.0,
        warmup_steps=200,
        schedule="exponential",
        decay_steps=50_000,
        final=0.05,
    ),
    optim_discriminator=OptimConfig(lr=2e-4, betas=(0.5, 0.9), gradient_clip=5.0),
)
TINY = replace(
    SMALL,
    pretrained=PretrainedConfig(),
    loop=LoopConfig(steps=4, log_every=1, save_every=2, sample_every=4),
    data=DataConfig(batch=3, crop_samples=6_400, reference_samples=8_000),
    pairs=PairConfig(batch=2, crop_samples=6_400, reference_samples=8_000),
    converter=ConverterConfig(
        content=CausalEncoderConfig(n_channels=16, n_blocks=2, dim=8, n_mels=40),
        style=StyleConfig(n_channels=16, n_blocks=1, n_tokens=2, token_dim=8),
        decoder=DecoderConfig(n_channels=32, n_blocks=2, refiner=RefinerConfig(n_channels=8, n_blocks=1)),
    ),
    discriminator=DiscriminatorConfig(
        n_scales=2, n_channels=4, max_channels=16, n_strided=3, projection_dim=16
    ),
    cluit=CLUITConfig(
        discriminator_samples=4_096,
        discriminator_batch=0,
        convert_from=1,
        back_translate_from=1,
        adversary_from=2,
        bank_size=16,
    ),
)
BASE = TrainConfig(
    loop=LoopConfig(steps=300_000, save_every=2_000, sample_every=5_000, mixed_precision="bf16", workers=8),
    data=DataConfig(batch=40, crop_samples=32_000, reference_samples=64_000, equal_speakers=True),
    pairs=PairConfig(batch=24, crop_samples=32_000, reference_samples=64_000),
    converter=ConverterConfig(
        content=CausalEncoderConfig(n_channels=384, n_blocks=12, dim=96),
        style=StyleConfig(n_channels=384, n_blocks=6, n_tokens=16, token_dim=48),
        decoder=DecoderConfig(n_channels=512, n_blocks=12, refiner=RefinerConfig(n_channels=256, n_blocks=6)),
    ),
    discriminator=DiscriminatorConfig(max_channels=1_024),
    pretrained=PretrainedConfig(),
    cluit=CLUITConfig(convert_from=2_000, adversary_from=50_000, discriminator_batch=32),
    optim_converter=OptimConfig(
        lr=5e-4,
        betas=(0.8, 0.99),
        gradient_clip=5.0,
        warmup_steps=1_000,
        schedule="exponential",
        decay_steps=300_000,
        final=0.02,
    ),
    optim_discriminator=OptimConfig(lr=2e-4, betas=(0.5, 0.9), gradient_clip=10.0),
)


def at_24_khz(config: TrainConfig) -> TrainConfig:
    """The same in frames and seconds, at 24 kHz."""
    cluit = config.cluit

    def cut(data: Any) -> Any:
        crops = {n: getattr(data, n) * 3 // 2 for n in ("crop_samples", "reference_samples")}
        return replace(data, sample_rate=24_000, **crops)

    return replace(
        config,
        pretrained=PretrainedConfig(),  # the student that comes with the code hears 16 kHz
        converter=replace(config.converter, sample_rate=24_000),
        cluit=replace(cluit, discriminator_samples=cluit.discriminator_samples * 3 // 2),
        data=cut(config.data),
        pairs=cut(config.pairs),
    )


PRESETS = {
    "small": SMALL,
    "tiny": TINY,
    "base": BASE,
    "small_24k": at_24_khz(SMALL),
    "base_24k": at_24_khz(BASE),
    "finetune": replace(SMALL, **SETTINGS),
}


def build(config: TrainConfig) -> CLUIT:
    """The task; the frozen teacher is loaded only where a loss with a weight uses it."""
    weights = config.cluit.weights
    teacher = None
    if config.teacher and (weights.content or weights.distil):
        from pretrain.teachers import load_teacher

        teacher = load_teacher(config.teacher)
    task = CLUIT(
        config.cluit,
        config.converter,
        config.discriminator,
        config.optim_converter,
        config.optim_discriminator,
        teacher=teacher,
        pretrained=config.pretrained,
    )
    if config.pretrained.student and teacher is not None:
        head = load_student(config.pretrained.student).head
        if head.weight.shape == task.teacher_head.weight.shape:  # another teacher's would be no help
            task.teacher_head.load_state_dict(head.state_dict())
    init = str(folder_of(config.finetune)) if config.finetune else config.init
    if init and not newest_checkpoint(config.loop.out):
        begin_from(task, init)
    return task


def train(config: TrainConfig) -> Together:
    """Train, or continue; leave the converter for use in ``export``, and return what was learned from."""
    if config.finetune:
        config = replace(config, converter=sizes_of(config.finetune), pretrained=PretrainedConfig())
    else:
        config = replace(config, converter=with_encoders(config.converter, config.pretrained))
    here = accelerator(config.loop)
    loop, n_ranks = config.loop, here.num_processes
    crops = batches_together(config.data, config.pairs, n_ranks=n_ranks, **addressing(loop, here))
    config.check_labels(len(crops.crops.human.speakers))
    task, _ = fit(lambda: build(config), crops, loop, full_config=config)
    if here.is_main_process:
        folder = export(loop.out / "export", config.converter, task.converter_ema.module)
        if config.finetune:
            save_voice(folder, task.converter_ema.module, config.data)
        print(f"exported to {folder}")
    return crops.crops


TASKS = {
    "w2w": "w2w.train",
    "cluit-mel": "w2w.baselines.cluit_mel.train",
    "stargan": "w2w.baselines.stargan.train",
}
"""What ``--task`` may name: modules with ``PRESETS`` and ``train``."""


def task_of(args: Sequence[str]) -> tuple[str, list[str]]:
    """The task that the command line names, w2w without one, and the arguments that are left."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--task", default="w2w")
    try:
        known, rest = parser.parse_known_args(args)
    except ArgumentError:
        raise UserError(f"--task needs a value: {', '.join(TASKS)}") from None
    if known.task not in TASKS:
        raise UserError(f"there is no task {known.task!r}; choose from {', '.join(TASKS)}")
    return known.task, rest


@exits_cleanly
def main() -> None:
    """Train the task that ``--task`` names."""
    name, args = task_of(sys.argv[1:])
    if name == "w2w":  # options were renamed; a run's command should go on serving
        args = [re.sub(r"\bcritic\b", "discriminator", a) if a.startswith("--") else a for a in args]
        finetunes = any(arg.split("=")[0] == "--finetune" for arg in args)
        crops = train(cli(PRESETS, default="finetune" if finetunes else "small", argv=args))
    else:
        module = import_module(TASKS[name])
        crops = module.train(cli(module.PRESETS, argv=args))
    end_training(crops)


if __name__ == "__main__":
    main()
