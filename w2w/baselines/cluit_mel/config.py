"""Sizes of CLUIT's networks on mels, and what decides its training."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from data.frontends import NAMED, MelConfig
from engine.user_error import UserError, at_least, within
from w2w.baselines.cluit_mel.augment import AugmentConfig

Norm = Literal["instance", "frame", "frozen"]
Mel = Float[Tensor, "batch n_mels frames"]


@dataclass(frozen=True, kw_only=True)
class CluitMelConfig:
    """All that it takes to build the networks. The defaults are the published sizes."""

    mel: MelConfig = NAMED["speech16k"]
    """What is converted; its vocoder must share it."""
    crop_frames: int = 128
    """Frames of a training crop, a power of two: the networks' depth follows from it as it follows from the
    image's size in the recipe, log2 - 4 blocks down in the converter and log2 - 2 in the critic."""
    n_channels: int = 64
    """Channels behind the stem; every block that halves time doubles them."""
    max_channels: int = 512
    """Most channels."""
    n_bottleneck: int = 2
    """Blocks at the lowest rate, of the encoder and again of the decoder."""
    style_dim: int = 128
    """Numbers of a voice."""
    projection_dim: int = 256
    """Numbers of the critic's projection."""
    n_speakers: int = 0
    """Speakers that the critic's label head tells apart; 0 leaves the head out."""
    causal: bool = False
    """Hear nothing behind the block of ``frames_per_step`` frames at hand, so that speech can be converted
    live."""
    norm: Norm = "instance"
    """``instance``: every channel at zero mean and unit variance over the utterance, as published. ``frame``:
    every frame so over its channels, which needs no time. ``frozen``: as ``instance`` in
    training, then with the statistics of a clip, which the weights keep (10 s of standardised log-mels): of
    the last training crops or of what ``freeze_statistics`` was given."""
    mel_mean: float = -5.8
    """Of natural log-mels of read speech (speech16k); taken away before a network."""
    mel_std: float = 2.2
    """Likewise; divided by."""

    def __post_init__(self) -> None:
        if self.crop_frames < 32 or self.crop_frames & (self.crop_frames - 1):
            raise UserError(
                f"crop_frames={self.crop_frames} must be a power of two, 32 or more: depth is its logarithm"
            )
        if self.causal and self.norm == "instance":
            raise UserError(
                "causal=True does not go with norm='instance', which hears the whole utterance: "
                "take norm='frame' or 'frozen'"
            )
        if not 1 <= self.n_channels <= self.max_channels:
            raise UserError(
                f"n_channels={self.n_channels} must lie between 1 and max_channels={self.max_channels}"
            )
        at_least(1, self, "n_bottleneck")
        within("(0, inf)", self, "mel_std")

    @property
    def n_down(self) -> int:
        """Blocks of the converter that halve time; as many double it again."""
        return self.crop_frames.bit_length() - 1 - 4

    @property
    def n_critic_blocks(self) -> int:
        """Blocks of the critic's and the style encoder's trunk: they leave 4 frames of a crop."""
        return self.crop_frames.bit_length() - 1 - 2

    @property
    def frames_per_step(self) -> int:
        """Frames that make one at the lowest rate."""
        return 2**self.n_down

    def widths(self, n_blocks: int) -> list[int]:
        """Channels behind the stem and behind each of ``n_blocks`` halvings."""
        return [min(self.n_channels * 2**i, self.max_channels) for i in range(n_blocks + 1)]

    def standardised(self, mel: Mel) -> Mel:
        """Mels as the networks hear them, near zero mean and unit variance."""
        return (mel - self.mel_mean) / self.mel_std

    def restored(self, standard: Mel) -> Mel:
        """Natural log-mels again, float32."""
        return standard.float() * self.mel_std + self.mel_mean


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
    """Features and posteriors of the released recogniser of phones, in the converted mel and the source's."""
    reconstruction: float = 0.0
    """A clip with its own style, L1 to itself. Not in the recipe, whose only such term is the cycle."""

    def __post_init__(self) -> None:
        at_least(0, self, *(field.name for field in fields(self)), prefix="weights.")


@dataclass(frozen=True, kw_only=True)
class CluitMelTaskConfig:
    """The algorithm around the networks; the defaults are the published recipe's."""

    GONE: ClassVar[Mapping[str, Any]] = {"positives": "augmented"}
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
        at_least(1, self, "n_negatives", "r1_every", prefix="task.")
        at_least(0, self, "bank_slots", prefix="task.")
        within("[0, 1)", self, "bank_momentum", "ema", prefix="task.")
        within("(0, inf)", self, "temperature", prefix="task.")

    @property
    def uses_labels(self) -> bool:
        return bool(self.weights.label_critic or self.weights.label_generator)
