"""A small CTC phone recogniser; its features depend on the content and little on the voice."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.checkpoint import load_network
from engine.config import stored_kind
from engine.user_error import UserError, at_least
from pretrain.units import PHONES, Phonemes, RecogniserOutput, Units, greedy

RELEASED = Path(__file__).with_name("released") / "recogniser"
"""The packaged recogniser."""
STRIDE = 2
"""Mel frames per output frame."""


@dataclass(frozen=True, kw_only=True)
class RecogniserConfig:
    """A stack of depthwise-separable convolutions on log-mels at 50 frames per second."""

    KIND: ClassVar[str] = "phone_recogniser"
    mel: MelConfig = field(default_factory=lambda: MelConfig(sample_rate=16_000, n_fft=512, win=400, hop=160))
    """Log-mels with a shorter window than vocoders use, which resolves formants but not harmonics."""
    width: int = 192
    """Channels."""
    n_blocks: int = 8
    """Residual blocks; the output of each is among the features."""
    kernel: int = 15
    """Kernel size of a block, in frames; odd."""
    expansion: int = 2
    """Ratio of a block's inner channels to ``width``."""
    dropout: float = 0.1
    """Dropout probability."""
    phones: tuple[str, ...] = PHONES
    """Phones in the order of their tokens, after the blank."""

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise UserError(f"kernel={self.kernel} must be odd")
        at_least(1, self, "width", "n_blocks", "kernel", "expansion")


Wave = Float[Tensor, "batch 1 samples"]
Lengths = Int[Tensor, "batch"]
Mel = Float[Tensor, "batch n_mels mel_frames"]
ValidMel = Bool[Tensor, "batch mel_frames"]
Frames = Float[Tensor, "batch frames width"]
Valid = Bool[Tensor, "batch frames"]


class Block(nn.Module):
    """A ConvNeXt-like residual block: x + W₂ gelu(W₁ norm(depthwise(x)))."""

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.expand = nn.Linear(width, config.expansion * width)
        self.project = nn.Linear(config.expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Frames, valid: Valid | None = None) -> Frames:
        masked = x if valid is None else x * valid[..., None]
        mixed = self.norm(self.depthwise(masked.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.project(F.gelu(self.expand(self.dropout(mixed))))


class Recogniser(nn.Module):
    """A CTC phone recogniser. Gradients reach the wave; padding beyond ``n_samples`` has no effect."""

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        self.config, self.units = config, Units(Phonemes(inventory=config.phones))
        self.mel = LogMel(config.mel)
        self.stem = nn.Conv1d(config.mel.n_mels, config.width, 5, stride=STRIDE, padding=2)
        self.stem_norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.head_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, len(config.phones) + 1)

    @property
    def sample_rate(self) -> int:
        return self.config.mel.sample_rate

    def forward(self, wave: Wave, n_samples: Lengths | None = None) -> RecogniserOutput:
        mel = self.log_mel(wave)
        valid = None if n_samples is None else self.valid_frames(n_samples, mel)
        return self.from_normalised(self.normalise(mel, valid), valid)

    def valid_frames(self, n_samples: Lengths, mel: Mel) -> ValidMel:
        """Mark the mel frames that lie within their wave, and always the first one."""
        frames = torch.arange(mel.shape[-1], device=mel.device)
        return frames < (n_samples // self.config.mel.hop).clamp(min=1).to(mel.device)[:, None]

    def log_mel(self, wave: Wave) -> Mel:
        """Return the log-mel of a wave, padded to at least one FFT window."""
        return self.mel(F.pad(wave, (0, max(0, self.config.mel.n_fft - wave.shape[-1]))))

    def normalise(self, mel: Mel, valid: ValidMel | None = None) -> Mel:
        """Subtract each utterance's mean spectrum over loud frames, which reflects voice and microphone."""
        level = mel.detach().mean(1)  # (batch, mel_frames)
        if valid is not None:
            level = level.masked_fill(~valid, -30.0)
        loud = torch.sigmoid(2 * (level - level.amax(1, keepdim=True) + 4.0))[:, None]
        return mel - (mel * loud).sum(-1, keepdim=True) / loud.sum(-1, keepdim=True)

    def from_normalised(self, mel: Mel, valid: ValidMel | None = None) -> RecogniserOutput:
        """Run the network on normalised log-mels; frames that are not ``valid`` are masked padding."""
        if valid is not None:
            mel, valid = mel * valid[:, None], valid[:, ::STRIDE]
        x = F.gelu(self.stem_norm(self.stem(mel).transpose(1, 2)))
        features = []
        for block in self.blocks:
            x = block(x, valid)
            features.append(x.transpose(1, 2))
        log_probs = self.head(self.head_norm(x)).float().log_softmax(-1)
        return RecogniserOutput(features, log_probs, valid)

    @torch.no_grad()
    def transcribe(self, wave: Wave) -> list[str]:
        """Return the phones of each wave by greedy decoding, separated by spaces."""
        return [self.units.text(tokens) for tokens in greedy(self(wave))]


def load_recogniser(folder: str | Path = RELEASED) -> Any:
    """Load an exported ``Recogniser`` or ``SpeechRecogniser``, frozen, in evaluation mode."""
    folder = Path(folder)
    if stored_kind(folder) == "speech_recogniser":
        from pretrain.speech.loading import SpeechRecogniser, SpeechRecogniserConfig

        return load_network(folder, SpeechRecogniserConfig, SpeechRecogniser).requires_grad_(False)
    return load_network(folder, RecogniserConfig, Recogniser).requires_grad_(False)
