"""What decides CLUIT on mels: the weight of every loss, where positives and negatives come from."""

from dataclasses import dataclass, field, fields
from typing import Literal

from engine.user_error import UserError
from w2w.baselines.cluit_mel.augment import AugmentConfig


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weight of every loss; 0 switches it off, and what only it needs is not computed."""

    adversarial: float = 1.0
    """The converted mel against the critic: non-saturating, softplus."""
    r1: float = 10.0
    """Critic: γ of the gradient penalty on real mels."""
    contrast_critic: float = 0.1
    """Critic: a clip's projection near that of its positive, far from the negatives."""
    contrast_generator: float = 1.0
    """Generator: the converted clip's projection near the reference's. Its value was never published."""
    cycle: float = 3.0
    """The converted mel converted back, L1 to the source."""
    norm: float = 0.0
    """Frame energies of converted and source, L1."""
    label_critic: float = 0.0
    """Critic: cross-entropy of the speaker's label; clips without one do not count."""
    label_generator: float = 0.0
    """Generator: cross-entropy of the reference's label for the converted clip."""
    content: float = 0.0
    """Distance in a frozen recogniser (its own terms are weighted in ``content``)."""
    reconstruction: float = 0.0
    """A clip with its own style, L1 to itself. Not in the recipe, whose only such term is the cycle."""

    def __post_init__(self) -> None:
        for weight in fields(self):
            if getattr(self, weight.name) < 0:
                raise UserError(f"weights.{weight.name}={getattr(self, weight.name)} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class CluitMelTaskConfig:
    """The algorithm around the networks; the defaults are the published recipe's."""

    weights: Weights = field(default_factory=Weights)
    """Of the losses."""
    negatives: Literal["bank", "queue"] = "bank"
    """bank: a slot for every recording (Wu et al. 2018); queue: the last keys (MoCo, He et al. 2020)."""
    n_negatives: int = 2048
    """Length of the queue, or how many of the bank's slots are drawn in a step."""
    bank_slots: int = 0
    """Slots of the bank; 0: as many as the data has recordings. With fewer, recordings share them."""
    bank_momentum: float = 0.5
    """Share of a slot that stays when its recording's next key comes."""
    positives: Literal["augmented", "recording", "speaker"] = "augmented"
    """What a clip's key is made of: the clip itself, augmented; another crop of its recording (which takes
    ``data.other`` with it); or of its speaker, where he is known and has another recording."""
    mask_same_speaker: bool = False
    """Take keys of the query's own speaker out of the negatives, where labels exist. Those of its own
    recording are never negatives."""
    temperature: float = 0.07
    """Of both contrasts."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How clips are changed into their own positives."""
    r1_every: int = 16
    """Steps between gradient penalties, each then as much heavier."""
    ema: float = 0.999
    """Decay of the averaged networks: the ones for use, and the critic that makes the keys."""

    def __post_init__(self) -> None:
        for name in ("n_negatives", "r1_every"):
            if getattr(self, name) < 1:
                raise UserError(f"task.{name}={getattr(self, name)} must be at least 1")
        if self.bank_slots < 0:
            raise UserError(f"task.bank_slots={self.bank_slots} must be 0 (as the data has) or more")
        for name in ("bank_momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"task.{name}={getattr(self, name)} must lie in [0, 1)")
        if self.temperature <= 0:
            raise UserError(f"task.temperature={self.temperature} must be above 0")

    @property
    def uses_labels(self) -> bool:
        """Whether a loss asks the critic who speaks."""
        return bool(self.weights.label_critic or self.weights.label_generator)
