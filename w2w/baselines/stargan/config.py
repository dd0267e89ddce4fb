"""What decides StarGAN's networks: the spectrogram, the labels, the widths, and what remedies its finding."""

from dataclasses import dataclass, field
from typing import Literal

from engine.user_error import UserError
from w2w.baselines.stargan.labels import LabelsConfig
from w2w.baselines.stargan.spectrogram import SpectrogramConfig


@dataclass(frozen=True, kw_only=True)
class StarGANConfig:
    """Generator and discriminator. The defaults are the experiment's."""

    spectrogram: SpectrogramConfig = field(default_factory=SpectrogramConfig)
    """The spectrogram."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """What is known of clips."""
    n_channels: int = 32
    """Of the generator at full size; twice as many at a half, four times as many at a quarter."""
    dilations: tuple[int, ...] = (1, 1, 1)
    """A residual block each, at a quarter of the size, after the labels are merged. With 1 2 4 8 16 every
    output sees the whole input after the merge (63 quarter columns to each side)."""
    norm: Literal["batch", "instance"] = "batch"
    """How the generator is normalised."""
    norm_of_merge: bool = True
    """Whether the layer that merges the labels is normalised. Leave it out with InstanceNorm: a label adds
    a constant to a whole map, which InstanceNorm subtracts again, all but at the map's edges."""
    critic_channels: int = 32
    """Of the discriminator's first layer; each further one has twice as many."""
    critic_layers: int = 6
    """Halvings of the discriminator: 256 × 256 becomes 4 × 4."""

    def __post_init__(self) -> None:
        for name in ("n_channels", "critic_channels", "critic_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if any(dilation < 1 for dilation in self.dilations):
            raise UserError(f"dilations={self.dilations} must be at least 1 each")
        shape, size = self.spectrogram, 2**self.critic_layers
        if shape.n_bins % size or shape.n_frames % size:
            raise UserError(
                f"spectrograms of {shape.n_bins} × {shape.n_frames} cannot be halved {self.critic_layers} "
                "times: set critic_layers, or sizes that are multiples of 2 to that power"
            )
