"""Configuration of Wav2CLIP's audio encoder, also used by converters that have it as style encoder."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from engine.user_error import UserError, at_least, within


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig:
    """Input and sizes of the encoder. The defaults are the paper's."""

    KIND: ClassVar[str] = "audio_encoder"
    sample_rate: int = 16_000
    """Sample rate of the input, in Hz."""
    n_fft: int = 512
    """FFT size and length of the Hann window; the spectrogram has n_fft / 2 + 1 rows."""
    hop: int = 353
    """Samples between frames."""
    width: int = 64
    """Channels of the stem; the last stage has ``width · 2 ** (stages − 1)``."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each stage; every stage but the first halves both axes."""
    dim: int = 512
    """Channels of the embedding, those of CLIP's."""
    transform: bool = True
    """Apply the transform g (Linear, ReLU, Dropout, Linear) into CLIP's space, as for published embeddings.
    Without it, the embedding consists of the pooled channels, whose number must be ``dim``."""
    hidden: int = 512
    """Hidden units of the transform."""
    dropout: float = 0.1
    """Dropout of these units."""
    normalisation: Literal["clip", "reference"] = "clip"
    """Standardisation of the log spectrogram. clip: over each clip. reference: over the whole batch, as in
    the published code, so that an embedding depends on the other clips of the batch."""

    teacher: str = ""
    """Key of the CLIP towers that define the embedding space; empty: unknown."""

    def __post_init__(self) -> None:
        at_least(1, self, "sample_rate", "hop", "width", "dim", "hidden")
        if self.n_fft < 2 or self.n_fft % 2:
            raise UserError(f"n_fft={self.n_fft} must be even and at least 2")
        if not self.blocks or min(self.blocks) < 1:
            raise UserError(f"blocks={self.blocks} must have at least one block in each stage")
        within("[0, 1)", self, "dropout")
        if not self.transform and self.dim != self.channels:
            raise UserError(
                f"without a transform dim={self.dim} must be {self.channels}, the last stage's channels with "
                f"width={self.width} and {len(self.blocks)} stages"
            )

    @property
    def channels(self) -> int:
        """Channels of the pooled features before the transform."""
        return self.width * 2 ** (len(self.blocks) - 1)
