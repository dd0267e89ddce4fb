"""What decides a StarGAN run, and presets: as the experiment had it, remedies, our own losses, for a CPU."""

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
    """Everything that decides a run."""

    KIND: ClassVar[str] = "stargan_training"
    loop: LoopConfig = field(default_factory=LoopConfig)
    """When things happen, and where the run lives."""
    init: str = ""
    """A run to begin from instead of random weights: its newest checkpoint's networks, not its optimisers."""
    data: DataConfig = field(default_factory=lambda: DataConfig(batch=2, crop_samples=66_304))
    """Which speech. ``batch``: clips of one update; a step reads ``task.critic_updates`` times as many."""
    stargan: StarGANConfig = field(default_factory=StarGANConfig)
    """The networks, the spectrogram and the labels."""
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
                f"not make the spectrogram: set {shape.sample_rate} and {shape.crop_samples}"
            )
        if self.data.batch < 2:
            raise UserError(
                f"data.batch={self.data.batch} must be at least 2: target labels are other clips'"
            )


WHOLE_INPUT = (1, 2, 4, 8, 16)
"""Dilations with which every output sees all 64 quarter columns: 1 for the merge, 2 · 31 for the blocks."""

SPECTROGRAM = SpectrogramConfig(maximum=(0.54 * 1024 / 2) ** 2 / 1024)
"""The experiment's. Its notes speak of a given maximum without its number: this one is a sine's at full scale
(74.6; 64 clips of the speech pack reach 32)."""
STARGAN = StarGANTrainConfig(
    loop=LoopConfig(steps=150_000, save_every=1_000, sample_every=2_000, workers=4),
    stargan=StarGANConfig(spectrogram=SPECTROGRAM),
)
"""The experiment's, with its label groups."""

OF_THE_DATA = LabelsConfig(
    first=LabelGroup(column="speaker"), second=LabelGroup(column="corpus"), third=LabelGroup(column="gender")
)
"""Groups as large as the data has names."""

# RMSprop's first steps are ten times its rate, as its average of squares begins at 0, hence the warm-up:
# without one the discriminator's slope leaves 1 by far before it is called back.
_FAST = OptimConfig(optimizer="rmsprop", lr=1e-3, warmup_steps=40)
_FAST_CRITIC = OptimConfig(optimizer="rmsprop", lr=3e-4, warmup_steps=200)
STARGAN_SMALL = StarGANTrainConfig(
    # A quarter of the widths, rates 100 and 30 times as high: for half an hour of one core.
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
    """Every output sees the whole input after the labels are merged."""
    return replace(config, stargan=replace(config.stargan, dilations=WHOLE_INPUT))


def instance_norm(config: StarGANTrainConfig) -> StarGANTrainConfig:
    """InstanceNorm in the generator, all but in the merge, where it would subtract the labels again."""
    return replace(config, stargan=replace(config.stargan, norm="instance", norm_of_merge=False))


def batch(config: StarGANTrainConfig, times: int = 8) -> StarGANTrainConfig:
    """More clips in an update, in as many updates."""
    return replace(config, data=replace(config.data, batch=times * config.data.batch))


def own(config: StarGANTrainConfig) -> StarGANTrainConfig:
    """Our own losses, on a scale that no wave exceeds."""
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
    # Four times on a CPU, where eight would take more than three hours.
    **_with_remedies("_small", STARGAN_SMALL, 4),
    **_with_remedies("", STARGAN, 8),
    "tiny": TINY,
}
