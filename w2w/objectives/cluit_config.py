"""What decides the CLUIT algorithm: the weight of every loss, and when and how each is heard."""

from dataclasses import dataclass, field, fields
from typing import Literal

from engine.user_error import UserError


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weight of every loss; 0 switches it off, and what only it needs is not computed."""

    reconstruction: float = 10.0
    """The utterance with its own style, multi-resolution spectral distance."""
    adversarial: float = 1.0
    """The converted wave against the critic."""
    feature_matching: float = 2.0
    """The critic's features of the reconstruction against the utterance's."""
    contrast_critic: float = 0.1
    """Critic: projections of one voice near each other, against the bank (CLUIT)."""
    contrast_converter: float = 1.0
    """Converter: the converted wave's projection near the reference's, against the bank (CLUIT)."""
    contrast_style: float = 0.3
    """Style encoder: two clips of one voice near each other, other voices far."""
    contrast_voice: float = 1.0
    """Converter: the converted wave's style near the reference's, far from the source's and the others'."""
    cycle_code: float = 1.0
    """The converted wave's codes against the source's."""
    cycle_wave: float = 0.0
    """The converted wave converted back, spectral distance to the source (can hurt)."""
    norm: float = 0.5
    """Frame energies of converted and source."""
    content: float = 1.0
    """Distance in a frozen recogniser, features and posteriors (weighted among themselves in ``content``)."""
    label_critic: float = 0.0
    """Critic: cross-entropy of the speaker label; unlabelled items do not count. Needs critic.n_speakers."""
    label_converter: float = 0.0
    """Converter: cross-entropy of the reference's speaker label."""
    r1: float = 0.0
    """Critic: gradient penalty γ on real waves, applied lazily."""

    def __post_init__(self) -> None:
        for weight in fields(self):
            if getattr(self, weight.name) < 0:
                raise UserError(f"weights.{weight.name}={getattr(self, weight.name)} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class CLUITConfig:
    """The algorithm around the networks."""

    weights: Weights = field(default_factory=Weights)
    """Of the losses."""
    gan: Literal["hinge", "least_squares"] = "hinge"
    """Form of the adversarial loss."""
    keys: Literal["bank", "moco"] = "moco"
    """Where the bank's keys come from: the critic itself, or its exponential moving average (MoCo)."""
    bank_size: int = 2048
    """Keys in the memory bank."""
    mask_same_speaker: bool = True
    """Take keys of the query's own speaker out of the negatives, where labels exist. Those of its own
    recording are never negatives."""
    temperature: float = 0.07
    """Of all contrastive losses."""
    critic_every: int = 2
    """The critic descends every n-th step."""
    adversary_from: int = 1_000
    """Step before which the critic is not heard (nor trained)."""
    convert_from: int = 500
    """Step before which nothing is converted: reconstruction alone."""
    critic_samples: int = 16_384
    """Length of the windows that the critic hears."""
    critic_batch: int = 6
    """How many items of a batch the critic hears; 0: all."""
    r1_every: int = 16
    """Updates of the critic between gradient penalties, each then as much heavier."""
    warp: float = 0.18
    """The encoder hears formants moved at random by up to this share, lest the code carry the voice."""
    code_noise: float = 0.1
    """Standard deviation of noise on the unit-length code in training: narrows the bottleneck further."""
    speeds: tuple[float, ...] = (0.88, 0.94, 1.0, 1.07, 1.14)
    """Speeds at which clips are played: each makes another voice of a speaker. One entry: as they are."""
    gain_db: float = 9.0
    """Training clips are up to this much louder or softer, and of either sign."""
    ema: float = 0.999
    """Decay of the averaged converter (the one for use) and of the MoCo critic."""
