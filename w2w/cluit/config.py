"""Configuration of the CLUIT algorithm: when and how each loss of ``losses.Weights`` is applied."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from data.augment import AugmentConfig
from engine.config import free
from engine.user_error import UserError, at_least
from w2w.cluit.losses import Weights


@dataclass(frozen=True, kw_only=True)
class CLUITConfig:
    """Settings of the training algorithm."""

    GONE: ClassVar[Mapping[str, Any]] = {"gan": "hinge", "r1_every": ...}
    weights: Weights = field(default_factory=Weights)
    """Loss weights."""
    convert_share: float = 0.4
    """Fraction of the human utterances that are converted to another voice; the rest are reconstructed."""
    convert_from: int = 500
    """First step with conversions; before it, all utterances are reconstructed."""
    back_translate_share: float = 0.3
    """Fraction of the human utterances that are reconstructed from their own conversion to another voice,
    made by the averaged converter, so that the source contains nothing of the voice to be reconstructed."""
    back_translate_from: int = free(3_000)
    """First step with back-translation; earlier conversions lose too many words."""
    adversary_from: int = free(10_000)
    """First step at which the discriminator is trained and used."""
    adversary_warmup: int = 500
    """Steps of the linear ramp of the converter's losses through the discriminator; without it, an untrained
    discriminator's balanced gradient would be as large as any other and carry no information."""
    discriminator_every: int = 2
    """Steps per update of the discriminator."""
    discriminator_samples: int = 8_192
    """Length in samples of the windows given to the discriminator."""
    discriminator_batch: int = 8
    """Rows of a batch that are given to the discriminator; 0: all."""
    keys: Literal["bank", "moco"] = "moco"
    """Network that computes the memory bank's keys: the discriminator, or its moving average (MoCo)."""
    bank_size: int = 2048
    """Keys in each memory bank."""
    mask_same_speaker: bool = True
    """Exclude keys of the query's speaker from the negatives, where labels exist. Keys of its own recording
    are always excluded."""
    temperature: float = 0.07
    """Temperature of all contrastive losses."""
    warp: float = 0.15
    """Largest random, relative formant shift of the content encoder's input; keeps the voice out of codes."""
    code_noise: float = 0.1
    """Standard deviation of the noise added to the code in training; the code's own mean square is 1."""
    speeds: tuple[float, ...] = (0.88, 0.94, 1.0, 1.07, 1.14)
    """Playback speeds of human clips, drawn at random; each makes another voice of a speaker."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(eq=0.3, eq_gain_db=6.0, noise=0.25, gain=0.0, sign=0.0)
    )
    """Augmentation of the content encoder's input; the ground truth is unchanged."""
    reference_augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(noise=0.3, gain=0.0, sign=0.0)
    )
    """Augmentation of the style encoder's input."""
    level_dbfs: float = -23.0
    """Level of training clips, dBFS RMS of their louder half; the network does not depend on it."""
    earlier_level_db: float = 15.0
    """Largest level difference of the imagined speech before a clip: a random half of the clips start as if
    speech up to this much louder or softer had preceded, the other half from silence."""
    ema: float = 0.999
    """Decay of the averaged networks: the converter that is exported, and the MoCo discriminator."""

    def __post_init__(self) -> None:
        at_least(1, self, "adversary_warmup")
        shares = self.convert_share, self.back_translate_share
        if min(shares) < 0.0 or sum(shares) > 1.0:
            raise UserError(
                f"convert_share={shares[0]} and back_translate_share={shares[1]} must be 0 or more, and their"
                " sum at most 1"
            )
