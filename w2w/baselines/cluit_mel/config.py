"""Configuration of CLUIT's networks on mels, its loss weights and its training algorithm."""

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
    """Architecture of the networks. The defaults are the published sizes."""

    mel: MelConfig = NAMED["speech16k"]
    """The mel definition, which the vocoder must share."""
    crop_frames: int = 128
    """Frames of a training crop, a power of two. It sets the networks' depth as the image size does in the
    recipe: log2 - 4 downsampling blocks in the converter and log2 - 2 in the critic."""
    n_channels: int = 64
    """Channels after the stem; every downsampling block doubles them."""
    max_channels: int = 512
    """Largest number of channels."""
    n_bottleneck: int = 2
    """Blocks at the lowest rate, in the encoder and again in the decoder."""
    style_dim: int = 128
    """Dimensions of the voice embedding."""
    projection_dim: int = 256
    """Dimensions of the critic's projection."""
    n_speakers: int = 0
    """Classes of the critic's speaker head; 0: no such head."""
    causal: bool = False
    """Use no look-ahead beyond the current block of ``frames_per_step`` frames, as live conversion needs."""
    norm: Norm = "instance"
    """``instance``: each channel normalised over the utterance, as published. ``frame``: each frame over its
    channels, which needs no other frames. ``frozen``: as ``instance`` in training, afterwards with the
    statistics of a clip that is stored with the weights (10 s of standardised log-mels): the last training
    crops, or the clip given to ``freeze_statistics``."""
    mel_mean: float = -5.8
    """Mean of natural log-mels of read speech (speech16k), subtracted from the networks' input."""
    mel_std: float = 2.2
    """Standard deviation of the same log-mels, by which the networks' input is divided."""

    def __post_init__(self) -> None:
        if self.crop_frames < 32 or self.crop_frames & (self.crop_frames - 1):
            raise UserError(
                f"crop_frames={self.crop_frames} must be a power of two, 32 or more, as it sets the depth"
            )
        if self.causal and self.norm == "instance":
            raise UserError(
                "causal=True excludes norm='instance', which needs the whole utterance: "
                "use norm='frame' or 'frozen'"
            )
        if not 1 <= self.n_channels <= self.max_channels:
            raise UserError(
                f"n_channels={self.n_channels} must lie between 1 and max_channels={self.max_channels}"
            )
        at_least(1, self, "n_bottleneck")
        within("(0, inf)", self, "mel_std")

    @property
    def n_down(self) -> int:
        """Downsampling blocks of the converter; it has as many upsampling blocks."""
        return self.crop_frames.bit_length() - 1 - 4

    @property
    def n_critic_blocks(self) -> int:
        """Downsampling blocks of the trunk of critic and style encoder; they reduce a crop to 4 frames."""
        return self.crop_frames.bit_length() - 1 - 2

    @property
    def frames_per_step(self) -> int:
        """Mel frames per frame at the lowest rate."""
        return 2**self.n_down

    def widths(self, n_blocks: int) -> list[int]:
        """Channels after the stem and after each of ``n_blocks`` downsampling blocks."""
        return [min(self.n_channels * 2**i, self.max_channels) for i in range(n_blocks + 1)]

    def standardised(self, mel: Mel) -> Mel:
        """Standardise log-mels to about zero mean and unit variance, the networks' input."""
        return (mel - self.mel_mean) / self.mel_std

    def restored(self, standard: Mel) -> Mel:
        """Undo ``standardised``: natural log-mels in float32."""
        return standard.float() * self.mel_std + self.mel_mean


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Loss weights; 0 disables a loss, and what only that loss needs is not computed."""

    adversarial: float = 1.0
    """Weight of the adversarial loss (non-saturating, softplus), for critic and generator."""
    r1: float = 10.0
    """γ of the critic's R1 gradient penalty on real mels."""
    contrast_critic: float = 0.1
    """Weight of the critic's contrastive loss between clips and their positives."""
    contrast_generator: float = 1.0
    """Weight of the generator's contrastive loss between converted clips and references (not published)."""
    cycle: float = 3.0
    """Weight of the cycle loss: L1 between the source and the converted mel converted back."""
    norm: float = 0.0
    """Weight of the norm loss: L1 between the log frame energies of converted and source mel."""
    label_critic: float = 0.0
    """Weight of the critic's speaker cross-entropy; unlabelled clips are ignored."""
    label_generator: float = 0.0
    """Weight of the generator's cross-entropy between converted clips and their references' labels."""
    content: float = 0.0
    """Weight of the content loss: distance of converted and source mel in the released phone recogniser."""
    reconstruction: float = 0.0
    """Weight of the L1 reconstruction of a clip with its own style; not part of the recipe."""

    def __post_init__(self) -> None:
        at_least(0, self, *(field.name for field in fields(self)), prefix="weights.")


@dataclass(frozen=True, kw_only=True)
class CluitMelTaskConfig:
    """Hyperparameters of the training algorithm; the defaults are the published recipe's."""

    GONE: ClassVar[Mapping[str, Any]] = {"positives": "augmented"}
    weights: Weights = field(default_factory=Weights)
    """Loss weights."""
    negatives: Literal["bank", "queue"] = "bank"
    """bank: one slot per recording (Wu et al. 2018); queue: the most recent keys (MoCo, He et al. 2020)."""
    n_negatives: int = 2048
    """Length of the queue, or number of bank slots drawn per step."""
    bank_slots: int = 0
    """Slots of the bank; 0: one per recording. With fewer slots, recordings share them."""
    bank_momentum: float = 0.5
    """Momentum of a slot's running mean when a new key of its recording is added."""
    mask_same_speaker: bool = False
    """Exclude keys of the query's own speaker from the negatives, if labelled. Keys of its own recording are
    always excluded."""
    temperature: float = 0.07
    """Temperature of both contrastive losses."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation that turns clips into their positives."""
    r1_every: int = 16
    """Steps between gradient penalties, which are weighted by this number."""
    ema: float = 0.999
    """EMA decay of the converter for inference and of the critic that computes the keys."""

    def __post_init__(self) -> None:
        at_least(1, self, "n_negatives", "r1_every", prefix="task.")
        at_least(0, self, "bank_slots", prefix="task.")
        within("[0, 1)", self, "bank_momentum", "ema", prefix="task.")
        within("(0, inf)", self, "temperature", prefix="task.")

    @property
    def uses_labels(self) -> bool:
        return bool(self.weights.label_critic or self.weights.label_generator)
