"""Sizes of CLUIT's networks on mels."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from data.frontends import NAMED, MelConfig
from engine.user_error import UserError

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
        if self.n_bottleneck < 1:
            raise UserError(f"n_bottleneck={self.n_bottleneck} must be at least 1")
        if self.mel_std <= 0:
            raise UserError(f"mel_std={self.mel_std} must be above 0: mels are divided by it")

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
