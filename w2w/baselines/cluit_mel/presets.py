"""Presets: the four published variants of CLUIT on mels, each also at a CPU size, and streaming variants."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from data.batches import DataConfig
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from w2w.baselines.cluit_mel.config import CluitMelTaskConfig, Weights
from w2w.baselines.cluit_mel.network import CluitMelConfig

ADAM = OptimConfig(lr=5e-5, betas=(0.0, 0.99))
"""The recipe's optimiser for generator and critic."""


@dataclass(frozen=True, kw_only=True)
class CluitMelTrainConfig:
    """The complete configuration of a training run."""

    KIND: ClassVar[str] = "cluit_mel_training"
    GONE: ClassVar[Mapping[str, Any]] = {"content": ...}
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Training loop: output folder, steps, and intervals of logging and saving."""
    init: str = ""
    """Run whose newest checkpoint initialises the networks, without optimisers; empty: random weights."""
    data: DataConfig = field(default_factory=lambda: DataConfig(batch=8, crop_samples=20_480))
    """Training data; crops must be as long as ``network.crop_frames``."""
    network: CluitMelConfig = field(default_factory=CluitMelConfig)
    """Architecture of generator, style encoder and critic."""
    task: CluitMelTaskConfig = field(default_factory=CluitMelTaskConfig)
    """Hyperparameters of the training algorithm and its losses."""
    optim_generator: OptimConfig = ADAM
    """Optimiser of generator and style encoder."""
    optim_critic: OptimConfig = ADAM
    """Optimiser of the critic."""

    def __post_init__(self) -> None:
        mel, crop = self.network.mel, self.network.crop_frames * self.network.mel.hop
        if self.data.sample_rate != mel.sample_rate:
            raise UserError(
                f"data.sample_rate={self.data.sample_rate} and network.mel.sample_rate={mel.sample_rate} "
                "must be the same: set both"
            )
        if self.data.crop_samples != crop or self.data.reference_samples not in (0, crop):
            raise UserError(
                f"network.crop_frames={self.network.crop_frames} frames of {mel.hop} samples need "
                f"--data.crop-samples {crop} and --data.reference-samples 0, not {self.data.crop_samples} "
                f"and {self.data.reference_samples}"
            )
        if self.data.batch < 2:
            raise UserError("data.batch=1 has no second clip that could be the reference: give 2 or more")


PUBLISHED = CluitMelTrainConfig(
    loop=LoopConfig(steps=200_000, save_every=2_000, sample_every=5_000),
    data=DataConfig(batch=8, crop_samples=20_480, equal_speakers=True),
)
RATE = replace(ADAM, warmup_steps=100, schedule="cosine", decay_steps=8_000, final=0.1)
SMALL = replace(
    PUBLISHED,
    loop=LoopConfig(steps=8_000, save_every=500, sample_every=1_000),
    network=CluitMelConfig(n_channels=32, max_channels=256),
    # The recipe has a cycle weight of 3 and no reconstruction. A CPU does 8 000 of its 200 000 steps in half
    # an hour, and with the recipe's weights almost no content was learned in the first 900.
    task=CluitMelTaskConfig(weights=Weights(cycle=10.0, reconstruction=10.0)),
    optim_generator=replace(RATE, lr=1e-3),
    optim_critic=replace(RATE, lr=3e-4),
)


def weighted(config: CluitMelTrainConfig, **weights: float) -> CluitMelTrainConfig:
    task = replace(config.task, weights=replace(config.task.weights, **weights))
    return replace(config, task=task)


def variants(bank: CluitMelTrainConfig, norm_weight: float) -> dict[str, CluitMelTrainConfig]:
    """The four published variants: memory bank, + norm loss, + speaker label, + queue instead of the bank.

    The weights of the norm and label losses were not published.
    """
    norm = weighted(bank, norm=norm_weight)
    label = weighted(norm, label_critic=1.0, label_generator=1.0)
    queue = replace(label, task=replace(label.task, negatives="queue"))
    return {"bank": bank, "bank_norm": norm, "bank_norm_label": label, "moco_norm_label": queue}


def live(config: CluitMelTrainConfig, norm: str) -> CluitMelTrainConfig:
    """The streaming variant: no look-ahead and no statistics over a whole utterance."""
    return replace(config, network=replace(config.network, causal=True, norm=norm))


def masked(config: CluitMelTrainConfig) -> CluitMelTrainConfig:
    """Exclude same-speaker keys from the negatives if the variant uses labels."""
    return replace(config, task=replace(config.task, mask_same_speaker=config.task.uses_labels))


SMALL_VARIANTS = {name: masked(config) for name, config in variants(SMALL, 2.0).items()}
PRESETS = {
    **variants(PUBLISHED, 1.0),
    **{f"{name}_small": config for name, config in SMALL_VARIANTS.items()},
    "causal_small": live(SMALL_VARIANTS["bank_norm_label"], "frame"),
    "causal_frozen_small": live(SMALL_VARIANTS["bank_norm_label"], "frozen"),
    "tiny": replace(
        weighted(SMALL, norm=1.0),
        loop=LoopConfig(steps=4, log_every=1, save_every=2, sample_every=4),
        data=DataConfig(batch=2, crop_samples=5_120),
        network=CluitMelConfig(
            crop_frames=32, n_channels=8, max_channels=16, n_bottleneck=1, style_dim=8, projection_dim=8
        ),
        task=CluitMelTaskConfig(n_negatives=16, weights=Weights(norm=1.0)),
    ),
}
