"""StarGAN's training configuration, and presets: the experiment, remedies, our own losses, and CPU sizes."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from data.batches import DataConfig
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from w2w.baselines.stargan.labels import LabelGroup, LabelsConfig
from w2w.baselines.stargan.networks import StarGANConfig
from w2w.baselines.stargan.spectrogram import SpectrogramConfig
from w2w.baselines.stargan.task import StarGANTaskConfig

RMSPROP = OptimConfig(optimizer="rmsprop", lr=1e-5)


@dataclass(frozen=True, kw_only=True)
class StarGANTrainConfig:
    """The complete configuration of a training run."""

    KIND: ClassVar[str] = "stargan_training"
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Training loop: output folder, steps, and intervals of logging and saving."""
    init: str = ""
    """Run whose newest checkpoint initialises the networks, without optimisers; empty: random weights."""
    data: DataConfig = field(default_factory=lambda: DataConfig(batch=2, crop_samples=66_304))
    """Training data. ``batch`` is the size of one update; a step uses ``task.critic_updates`` times that."""
    stargan: StarGANConfig = field(default_factory=StarGANConfig)
    """Networks, spectrogram and labels."""
    task: StarGANTaskConfig = field(default_factory=StarGANTaskConfig)
    """Hyperparameters of the training algorithm and its losses."""
    optim_generator: OptimConfig = RMSPROP
    """Optimiser of the generator."""
    optim_discriminator: OptimConfig = RMSPROP
    """Optimiser of the discriminator."""

    def __post_init__(self) -> None:
        shape = self.stargan.spectrogram
        if (self.data.sample_rate, self.data.crop_samples) != (shape.sample_rate, shape.crop_samples):
            raise UserError(
                f"data.sample_rate={self.data.sample_rate} and data.crop_samples={self.data.crop_samples} do "
                f"not fit stargan.spectrogram: set {shape.sample_rate} and {shape.crop_samples}"
            )
        if self.data.batch < 2:
            raise UserError(
                f"data.batch={self.data.batch} must be at least 2: target labels come from other clips"
            )


WHOLE_INPUT = (1, 2, 4, 8, 16)
"""Dilations for a receptive field of all 64 quarter columns: 1 from the merge, 2 · 31 from the blocks."""

SPECTROGRAM = SpectrogramConfig(maximum=(0.54 * 1024 / 2) ** 2 / 1024)
"""The experiment's spectrogram. Its notes mention a fixed maximum but not its value; this is the power of a
sine at full scale (74.6; 64 clips of the speech pack reach 32)."""
STARGAN = StarGANTrainConfig(
    loop=LoopConfig(steps=150_000, save_every=1_000, sample_every=2_000, workers=4),
    stargan=StarGANConfig(spectrogram=SPECTROGRAM),
)
"""The experiment's configuration, with its label groups."""

OF_THE_DATA = LabelsConfig(
    first=LabelGroup(column="speaker"), second=LabelGroup(column="corpus"), third=LabelGroup(column="gender")
)
"""Label groups sized by the data."""

# RMSprop's running average starts at 0, so its first steps are ten times the learning rate. Without warm-up,
# the discriminator's gradient norm departs far from 1 before the penalty takes effect.
_FAST = OptimConfig(optimizer="rmsprop", lr=1e-3, warmup_steps=40)
_FAST_CRITIC = OptimConfig(optimizer="rmsprop", lr=3e-4, warmup_steps=200)
STARGAN_SMALL = StarGANTrainConfig(
    # A quarter of the channels, and learning rates 100 and 30 times as high: for half an hour on one core.
    loop=LoopConfig(steps=1_500, save_every=250, sample_every=250, log_every=10),
    stargan=StarGANConfig(spectrogram=SPECTROGRAM, n_channels=8, critic_channels=8, labels=OF_THE_DATA),
    optim_generator=_FAST,
    optim_discriminator=_FAST_CRITIC,
)
TINY = StarGANTrainConfig(
    loop=LoopConfig(steps=4, log_every=1, save_every=2, sample_every=4),
    data=DataConfig(batch=2, crop_samples=1024 + 63 * 256),
    stargan=StarGANConfig(
        spectrogram=SpectrogramConfig(n_frames=64, n_bins=64),
        labels=OF_THE_DATA,
        n_channels=4,
        critic_channels=4,
        critic_layers=4,
        dilations=(1,),
    ),
    optim_generator=_FAST,
    optim_discriminator=_FAST_CRITIC,
)


def receptive(config: StarGANTrainConfig) -> StarGANTrainConfig:
    """A receptive field of the whole input after the label merge."""
    return replace(config, stargan=replace(config.stargan, dilations=WHOLE_INPUT))


def instance_norm(config: StarGANTrainConfig) -> StarGANTrainConfig:
    """InstanceNorm in the generator, except in the label merge, where it would remove the labels."""
    return replace(config, stargan=replace(config.stargan, norm="instance", norm_of_merge=False))


def batch(config: StarGANTrainConfig, times: int = 8) -> StarGANTrainConfig:
    """A larger batch with the same number of updates."""
    return replace(config, data=replace(config.data, batch=times * config.data.batch))


def own(config: StarGANTrainConfig) -> StarGANTrainConfig:
    """Our own losses, and a spectrogram scale that no wave exceeds."""
    shape = replace(config.stargan, spectrogram=replace(config.stargan.spectrogram, maximum=0.0))
    return replace(config, stargan=shape, task=replace(config.task, losses="own"))


def _with_remedies(ending: str, config: StarGANTrainConfig, times: int) -> dict[str, StarGANTrainConfig]:
    return {
        f"stargan{ending}": config,
        f"receptive{ending}": receptive(config),
        f"instance_norm{ending}": instance_norm(config),
        f"batch{ending}": batch(config, times),
        f"remedied{ending}": batch(instance_norm(receptive(config)), times),
        f"own{ending}": own(config),
    }


PRESETS: dict[str, StarGANTrainConfig] = {
    # The batch is 4 times as large on a CPU, where 8 times would take more than three hours.
    **_with_remedies("_small", STARGAN_SMALL, 4),
    **_with_remedies("", STARGAN, 8),
    "tiny": TINY,
}
