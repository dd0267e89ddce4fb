"""What decides the CLUIT algorithm: when and how each loss of ``losses.Weights`` is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from data.augment import AugmentConfig
from engine.config import free
from engine.user_error import UserError, at_least
from w2w.cluit.losses import Weights


@dataclass(frozen=True, kw_only=True)
class CLUITConfig:
    """The algorithm around the networks."""

    GONE: ClassVar[Mapping[str, Any]] = {"gan": "hinge", "r1_every": ...}
    weights: Weights = field(default_factory=Weights)
    """Of the losses."""
    convert_share: float = 0.4
    """Share of the human utterances that are converted to another voice; the others are rebuilt."""
    convert_from: int = 500
    """Step before which nothing is converted: all utterances are rebuilt."""
    back_translate_share: float = 0.3
    """Share of the human utterances that are rebuilt from what the averaged converter makes of them with
    another voice: sources that hold nothing of the voice they must become."""
    back_translate_from: int = free(3_000)
    """Step before which that is not done: until then, conversions lose too many words."""
    adversary_from: int = free(10_000)
    """Step before which the discriminator is neither used nor trained."""
    adversary_warmup: int = 500
    """Steps over which the converter's losses through the discriminator come in: one that has not learned yet
    pulls as hard as any and says nothing."""
    discriminator_every: int = 2
    """The discriminator learns every n-th step."""
    discriminator_samples: int = 8_192
    """Length of the windows that the discriminator sees."""
    discriminator_batch: int = 8
    """How many outputs of a batch the discriminator sees; 0: all."""
    keys: Literal["bank", "moco"] = "moco"
    """Where the bank's keys come from: the discriminator itself, or its moving average (MoCo)."""
    bank_size: int = 2048
    """Keys in the memory bank."""
    mask_same_speaker: bool = True
    """Take keys of the query's own speaker out of the negatives, where labels exist. Those of its own
    recording are never negatives."""
    temperature: float = 0.07
    """Of all contrastive losses."""
    warp: float = 0.15
    """The content encoder's input has its formants moved at random by up to this share, lest the code carry
    the voice."""
    code_noise: float = 0.1
    """Standard deviation of noise on the code in training; the code's own mean square is 1."""
    speeds: tuple[float, ...] = (0.88, 0.94, 1.0, 1.07, 1.14)
    """Speeds at which human clips are played: each makes another voice of a speaker."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(eq=0.3, eq_gain_db=6.0, noise=0.25, gain=0.0, sign=0.0)
    )
    """Changes to what the content encoder hears; the truth stays as it was."""
    reference_augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(noise=0.3, gain=0.0, sign=0.0)
    )
    """Changes to what the style encoder hears."""
    level_dbfs: float = -23.0
    """Level of the speech in training clips, dBFS RMS of their louder half; the network does not depend on
    it."""
    earlier_level_db: float = 15.0
    """Half of the clips begin as if speech up to this much louder or softer had gone before."""
    ema: float = 0.999
    """Decay of the averaged converter (the one for use) and of the MoCo discriminator."""

    def __post_init__(self) -> None:
        at_least(1, self, "adversary_warmup")
        shares = self.convert_share, self.back_translate_share
        if min(shares) < 0.0 or sum(shares) > 1.0:
            raise UserError(
                f"convert_share={shares[0]} and back_translate_share={shares[1]} must be 0 or more, and 1 at"
                " most together"
            )
