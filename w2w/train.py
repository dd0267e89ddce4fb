"""Train the converter: ``accelerate launch w2w/train.py --data.path FOLDER --loop.out runs/voice``.

Run the same command again to continue; ``--preset small`` suits a CPU, ``base`` one large GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from data.batches import DataConfig, SpeechCrops, batches
from engine.config import cli
from engine.loop import LoopConfig, accelerator, fit
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from w2w.networks.content import ContentConfig
from w2w.networks.critic import CriticConfig
from w2w.networks.decoder import DecoderConfig
from w2w.networks.network import ConverterConfig
from w2w.networks.style import StyleConfig
from w2w.objectives.cluit import CLUIT, CLUITConfig, Weights


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    """When things happen, and where the run lives."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which speech."""
    converter: ConverterConfig = field(default_factory=ConverterConfig)
    """The networks for use."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The adversary."""
    cluit: CLUITConfig = field(default_factory=CLUITConfig)
    """The algorithm and its losses."""
    optim_converter: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, betas=(0.8, 0.99), gradient_clip=5.0))
    """The converter's optimiser."""
    optim_critic: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-4, betas=(0.5, 0.9), gradient_clip=5.0))
    """The critic's optimiser."""

    def __post_init__(self) -> None:
        if self.data.sample_rate != self.converter.sample_rate:
            raise UserError(
                f"data.sample_rate={self.data.sample_rate} and converter.sample_rate={self.converter.sample_rate} "
                "must be the same: set both"
            )


SMALL = TrainConfig(
    loop=LoopConfig(steps=10_000, save_every=250, sample_every=1_000),
    data=DataConfig(batch=8, crop_samples=24_000, reference_samples=32_000, equal_speakers=True),
    cluit=CLUITConfig(critic_samples=8_192, critic_batch=4),
    optim_converter=OptimConfig(
        lr=1e-3, betas=(0.8, 0.99), gradient_clip=5.0, warmup_steps=100, schedule="cosine", decay_steps=10_000, final=0.05
    ),
)
PRESETS = {"small": SMALL}


@exits_cleanly
def main() -> None:
    """Train, or continue."""
    config = cli(PRESETS, default="small")
    place = accelerator(config.loop)
    crops = batches(
        config.data, seed=config.loop.seed, workers=config.loop.workers, rank=place.process_index,
        n_ranks=place.num_processes, accumulate=config.loop.accumulate,
    )
    fit(
        lambda: CLUIT(config.cluit, config.converter, config.critic, config.optim_converter, config.optim_critic),
        crops, config.loop, full_config=config,
    )


if __name__ == "__main__":
    main()
