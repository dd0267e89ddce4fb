"""What decides a training run of StarGAN."""

from dataclasses import dataclass, field
from typing import ClassVar

from data.batches import DataConfig
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from w2w.baselines.stargan.config import StarGANConfig
from w2w.baselines.stargan.task import StarGANTaskConfig

RMSPROP = OptimConfig(optimizer="rmsprop", lr=1e-5)


@dataclass(frozen=True, kw_only=True)
class StarGANTrainConfig:
    """Everything that decides a run."""

    KIND: ClassVar[str] = "stargan_training"
    loop: LoopConfig = field(default_factory=LoopConfig)
    """When things happen, and where the run lives."""
    init: str = ""
    """A run to begin from instead of random weights: its newest checkpoint's networks, not its optimisers."""
    data: DataConfig = field(default_factory=lambda: DataConfig(batch=2, crop_samples=66_304))
    """Which speech. ``batch``: clips of one update; a step reads ``task.critic_updates`` times as many."""
    stargan: StarGANConfig = field(default_factory=StarGANConfig)
    """The networks, the picture and the labels."""
    task: StarGANTaskConfig = field(default_factory=StarGANTaskConfig)
    """The algorithm and its losses."""
    optim_generator: OptimConfig = RMSPROP
    """The generator's optimiser."""
    optim_discriminator: OptimConfig = RMSPROP
    """The discriminator's optimiser."""

    def __post_init__(self) -> None:
        shape = self.stargan.spectrogram
        if (self.data.sample_rate, self.data.crop_samples) != (shape.sample_rate, shape.crop_samples):
            raise UserError(
                f"data.sample_rate={self.data.sample_rate} and data.crop_samples={self.data.crop_samples} do "
                f"not make the picture: set {shape.sample_rate} and {shape.crop_samples}"
            )
        if self.data.batch < 2:
            raise UserError(
                f"data.batch={self.data.batch} must be at least 2: target labels are other clips'"
            )
