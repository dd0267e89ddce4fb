"""The sizes of Wav2CLIP's audio encoder, which a converter's config holds where it hears voices by it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from engine.user_error import UserError, at_least, within


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig:
    """Input and sizes of the encoder. The defaults are the paper's."""

    KIND: ClassVar[str] = "audio_encoder"
    sample_rate: int = 16_000
    """Hz."""
    n_fft: int = 512
    """Samples of one transform and of its Hann window; n_fft / 2 + 1 rows of the spectrogram."""
    hop: int = 353
    """Samples between frames."""
    width: int = 64
    """Channels of the stem; the last stage has ``width · 2 ** (stages − 1)``."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each stage; every stage but the first halves both axes."""
    dim: int = 512
    """Length of an embedding: CLIP's, which the transform leads to."""
    transform: bool = True
    """End in the transform g (Linear, ReLU, Dropout, Linear) into CLIP's space, as published embeddings do.
    Without it the pooled channels are the embedding and must be ``dim`` many."""
    hidden: int = 512
    """Units between the transform's two layers."""
    dropout: float = 0.1
    """Share of those units left out in training."""
    normalisation: Literal["clip", "reference"] = "clip"
    """Over what the log spectrogram is standardised: each clip by itself; or the whole batch tensor, as the
    published code does, where an embedding depends on its batch-mates."""

    teacher: str = ""
    """The key of the CLIP towers whose space the embeddings are in; empty: not known."""

    def __post_init__(self) -> None:
        at_least(1, self, "sample_rate", "hop", "width", "dim", "hidden")
        if self.n_fft < 2 or self.n_fft % 2:
            raise UserError(f"n_fft={self.n_fft} must be even and at least 2")
        if not self.blocks or min(self.blocks) < 1:
            raise UserError(f"blocks={self.blocks} must name at least one block for each stage")
        within("[0, 1)", self, "dropout")
        if not self.transform and self.dim != self.channels:
            raise UserError(
                f"without a transform dim={self.dim} must be {self.channels}, the channels that width="
                f"{self.width} and {len(self.blocks)} stages end in"
            )

    @property
    def channels(self) -> int:
        """Length of the pooled vector before the transform."""
        return self.width * 2 ** (len(self.blocks) - 1)
