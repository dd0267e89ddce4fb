"""Train the converter: ``accelerate launch w2w/train.py --data.path FOLDER --loop.out runs/voice``.

Run the same command again to continue. ``--preset small`` suits a CPU, ``base`` one large GPU, ``tiny``
tests; ``--preset small_24k`` and ``base_24k`` are their 24 kHz forms. Pretrained encoders go inside with
``--pretrained.content runs/data2vec --pretrained.use fine_tuned`` and ``--pretrained.style runs/wav2clip``; a
speech encoder listens to what was said with ``--content.backend.kind SpeechFeatures``.

What the converter is compared with is trained by ``--task cluit-mel`` and ``--task stargan``, with presets of
their own: ``--task cluit-mel --help``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

from data.batches import DataConfig, batches
from engine.checkpoint import fill, load_weights, newest_checkpoint
from engine.config import cli
from engine.loop import LoopConfig, accelerator, fit
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from w2w.export import export_run
from w2w.networks.content import ContentConfig
from w2w.networks.discriminator import DiscriminatorConfig
from w2w.networks.decoder import DecoderConfig
from w2w.networks.network import ConverterConfig
from w2w.networks.style import StyleConfig
from w2w.cluit.task import CLUIT
from w2w.cluit.config import CLUITConfig, Weights
from w2w.cluit.content_loss import ContentLoss, ContentLossConfig
from w2w.pretrained import PretrainedConfig, with_encoders


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    """When things happen, and where the run lives."""
    init: str = ""
    """A run to begin from instead of random weights: its newest checkpoint's networks, not its optimisers."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which speech."""
    converter: ConverterConfig = field(default_factory=ConverterConfig)
    """The networks for use."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The adversary."""
    cluit: CLUITConfig = field(default_factory=CLUITConfig)
    """The algorithm and its losses."""
    content: ContentLossConfig = field(default_factory=ContentLossConfig)
    """The frozen recogniser of the content loss."""
    pretrained: PretrainedConfig = field(default_factory=PretrainedConfig)
    """Pretrained encoders inside the converter; their sizes are filled in above."""
    optim_converter: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, betas=(0.8, 0.99)))
    """The converter's optimiser."""
    optim_discriminator: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-4, betas=(0.5, 0.9)))
    """The critic's optimiser."""

    def __post_init__(self) -> None:
        if self.data.sample_rate != self.converter.sample_rate:
            raise UserError(
                f"data.sample_rate={self.data.sample_rate} and "
                f"converter.sample_rate={self.converter.sample_rate} must be the same: set both"
            )

    def check_labels(self, n_speakers: int) -> None:
        """Refuse label losses over fewer speakers than the data has."""
        weights, known = self.cluit.weights, self.critic.n_speakers
        if (weights.label_critic or weights.label_converter) and known < max(n_speakers, 1):
            raise UserError(
                f"the data has {n_speakers} speakers and critic.n_speakers is {known}: label losses need "
                f"--critic.n-speakers {n_speakers}, and labels in the data"
            )


SMALL = TrainConfig(
    loop=LoopConfig(steps=10_000, save_every=250, sample_every=1_000),
    data=DataConfig(batch=8, crop_samples=24_000, reference_samples=32_000, equal_speakers=True),
    cluit=CLUITConfig(
        # What the released converter's stages came to, in one run: see docs/experiments.md.
        weights=Weights(content=4.0, contrast_voice=4.0),
        convert_from=400,
        adversary_from=2_300,
        code_noise=0.05,
        discriminator_samples=8_192,
        discriminator_batch=4,
    ),
    optim_converter=OptimConfig(
        lr=1e-3,
        betas=(0.8, 0.99),
        gradient_clip=5.0,
        warmup_steps=100,
        schedule="cosine",
        decay_steps=10_000,
        final=0.05,
    ),
    optim_discriminator=OptimConfig(lr=2e-4, betas=(0.5, 0.9), gradient_clip=5.0),
)
TINY = replace(
    SMALL,
    loop=LoopConfig(steps=4, log_every=1, save_every=2, sample_every=4),
    data=DataConfig(batch=2, crop_samples=6_400, reference_samples=8_000),
    converter=ConverterConfig(
        n_mels=40,
        content=ContentConfig(n_channels=16, n_blocks=2),
        style=StyleConfig(n_channels=16, n_blocks=1, n_tokens=2, token_dim=8),
        decoder=DecoderConfig(n_channels=32, n_blocks=2),
    ),
    discriminator=DiscriminatorConfig(n_scales=2, n_channels=4, max_channels=16, n_strided=3, projection_dim=16),
    cluit=CLUITConfig(discriminator_samples=4_096, discriminator_batch=0, convert_from=1, adversary_from=2, bank_size=16),
)
BASE = TrainConfig(
    loop=LoopConfig(steps=300_000, save_every=2_000, sample_every=5_000, mixed_precision="bf16", workers=8),
    data=DataConfig(batch=64, crop_samples=32_000, reference_samples=64_000, equal_speakers=True),
    converter=ConverterConfig(
        content=ContentConfig(n_channels=384, n_blocks=9),
        style=StyleConfig(n_channels=384, n_blocks=6, n_tokens=16, token_dim=48),
        decoder=DecoderConfig(n_channels=512, n_blocks=12),
    ),
    discriminator=DiscriminatorConfig(max_channels=1_024),
    cluit=CLUITConfig(convert_from=5_000, adversary_from=10_000, discriminator_batch=32),
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
    data, cluit = config.data, config.cluit
    return replace(
        config,
        converter=replace(config.converter, sample_rate=24_000),
        cluit=replace(cluit, discriminator_samples=cluit.discriminator_samples * 3 // 2),
        data=replace(
            data,
            sample_rate=24_000,
            crop_samples=data.crop_samples * 3 // 2,
            reference_samples=data.reference_samples * 3 // 2,
        ),
    )


PRESETS = {
    "small": SMALL,
    "tiny": TINY,
    "base": BASE,
    "small_24k": at_24_khz(SMALL),
    "base_24k": at_24_khz(BASE),
}


def build(config: TrainConfig) -> CLUIT:
    """The task; the recogniser is loaded only where its loss has a weight."""
    content = (
        ContentLoss(config.content, config.converter.sample_rate) if config.cluit.weights.content else None
    )
    players = config.optim_converter, config.optim_discriminator
    task = CLUIT(config.cluit, config.converter, config.critic, *players, content, config.pretrained)
    if config.init:
        begin_from(task, Path(config.init))
    return task


def begin_from(task: CLUIT, run: Path) -> None:
    """Fill the networks from another run's newest checkpoint; banks begin empty."""
    folder = newest_checkpoint(run)
    if folder is None:
        raise UserError(f"init={run} holds no checkpoint of a run: give the folder that --loop.out named")
    for name, module in task.modules.items():
        if name not in ("bank", "voices"):
            path = folder / f"{name}.safetensors"
            fill(module, load_weights(path), path)


def train(config: TrainConfig) -> None:
    """Train, or continue; leave the converter for use in ``export`` beside the checkpoints."""
    config = replace(config, converter=with_encoders(config.converter, config.pretrained))
    here = accelerator(config.loop)
    loop, rank, n_ranks = config.loop, here.process_index, here.num_processes
    crops = batches(config.data, loop.seed, loop.workers, rank, n_ranks, loop.accumulate)
    config.check_labels(len(crops.crops.speakers))
    fit(lambda: build(config), crops, loop, full_config=config)
    if here.is_main_process:
        print(f"exported to {export_run(loop.out, loop.out / 'export')}")


TASKS = {
    "w2w": "w2w.train",
    "cluit-mel": "w2w.baselines.cluit_mel.train",
    "stargan": "w2w.baselines.stargan.train",
}
"""What ``--task`` may name; each module has ``PRESETS`` and ``train``."""


def task_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The task that the command line names, w2w without one, and the words that are left."""
    name, rest, words = "w2w", [], list(words)
    while words:
        word = words.pop(0)
        if word == "--task" and not words:
            raise UserError(f"--task needs a value: {', '.join(TASKS)}")
        if word == "--task":
            name = words.pop(0)
        elif word.startswith("--task="):
            name = word.removeprefix("--task=")
        else:
            rest.append(word)
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}; choose from {', '.join(TASKS)}")
    return name, rest


@exits_cleanly
def main() -> None:
    """Train the task that ``--task`` names."""
    name, words = task_of(sys.argv[1:])
    if name == "w2w":
        train(cli(PRESETS, argv=words))
    else:
        module = import_module(TASKS[name])
        module.train(cli(module.PRESETS, argv=words))


if __name__ == "__main__":
    main()
