"""A recogniser of letters or phones: a speech encoder and one linear layer on its frames, read by CTC."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.checkpoint import fill, load_export
from pretrain.speech.encoder import Encoded, SpeechEncoder, SpeechEncoderConfig
from pretrain.units import Characters, RecogniserOutput, Units, UnitsConfig, greedy

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class SpeechRecogniserConfig:
    """What an exported recogniser is made of."""

    KIND: ClassVar[str] = "speech_recogniser"
    encoder: SpeechEncoderConfig = field(default_factory=SpeechEncoderConfig)
    units: UnitsConfig = field(default_factory=Characters)
    """What the tokens after the blank stand for."""
    head_dropout: float = 0.1
    """Share of the features dropped before the linear layer, and within the encoder, while training."""
    mix_layers: bool = False
    """Read a learned average of all layers instead of the last: for an encoder that is not tuned itself."""


class SpeechRecogniser(nn.Module):
    """CTC over units. Gradients reach the wave; padding beyond ``n_samples`` changes nothing."""

    def __init__(self, config: SpeechRecogniserConfig) -> None:
        super().__init__()
        self.config, self.units = config, Units(config.units)
        self.encoder = SpeechEncoder(config.encoder)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.encoder.hidden, len(self.units) + 1)
        self.mixture = nn.Parameter(torch.zeros(config.encoder.layers)) if config.mix_layers else None

    @property
    def sample_rate(self) -> int:
        """Hz of the waves it takes."""
        return self.config.encoder.sample_rate

    @property
    def hop(self) -> int:
        """Samples to one frame of the output."""
        return self.config.encoder.hop

    def forward(self, wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> RecogniserOutput:
        return self.read(self.encoder(wave, n_samples))

    def read(self, encoded: Encoded) -> RecogniserOutput:
        """Compute the posteriors of frames that the encoder has already seen."""
        if self.mixture is None:
            frames = encoded.last
        else:
            # Normalised, so that no layer counts for more because its features are larger.
            each = torch.stack([nn.functional.layer_norm(f, f.shape[-1:]) for f in encoded.features])
            frames = torch.einsum("l,lbfd->bfd", self.mixture.softmax(0), each)
        log_probs = self.head(self.dropout(frames)).float().log_softmax(-1)
        return RecogniserOutput([f.transpose(1, 2) for f in encoded.features], log_probs, encoded.valid)

    @torch.no_grad()
    def transcribe(self, wave: Wave) -> list[str]:
        """Return the likeliest text (phones separated by spaces) of each wave."""
        return [self.units.text(tokens) for tokens in greedy(self(wave))]


def load_speech_recogniser(folder: str | Path) -> SpeechRecogniser:
    """Load an exported recogniser, frozen, in evaluation mode."""
    config, state = load_export(folder, SpeechRecogniserConfig)
    recogniser = SpeechRecogniser(config)
    state = {name: tensor.float() for name, tensor in state.items()}
    fill(recogniser, state, Path(folder) / "model.safetensors")
    return recogniser.eval().requires_grad_(False)
