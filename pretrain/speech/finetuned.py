"""A recogniser of letters or phones: a speech encoder and one linear layer on its frames, read by CTC."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engine.checkpoint import fill, load_export
from pretrain.recogniser import RecogniserOutput
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig
from pretrain.speech.units import BLANK, Characters, Units, UnitsConfig

Wave = Float[Tensor, "batch 1 samples"]
LogProbs = Float[Tensor, "batch frames tokens"]


@dataclass(frozen=True, kw_only=True)
class SpeechRecogniserConfig:
    """What an exported recogniser is made of."""

    encoder: SpeechEncoderConfig = field(default_factory=SpeechEncoderConfig)
    units: UnitsConfig = field(default_factory=Characters)
    """What the tokens after the blank stand for."""
    head_dropout: float = 0.1
    """Share of the last features dropped before the linear layer while training."""
    mix_layers: bool = False
    """Read a learned average of all layers instead of the last: for an encoder that is not tuned itself."""


class SpeechRecogniser(nn.Module):
    """CTC over units; ``forward`` is differentiable with respect to the wave, as ``Recogniser``'s is."""

    def __init__(self, config: SpeechRecogniserConfig) -> None:
        super().__init__()
        self.config, self.units = config, Units(config.units)
        self.encoder = SpeechEncoder(config.encoder)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.encoder.hidden, len(self.units) + 1)
        layers = config.encoder.layers
        self.mixture = nn.Parameter(torch.zeros(layers)) if config.mix_layers else None

    @property
    def sample_rate(self) -> int:
        """Hz of the waves it takes."""
        return self.config.encoder.sample_rate

    @property
    def hop(self) -> int:
        """Samples to one frame of the output."""
        return self.config.encoder.hop

    def forward(self, wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> RecogniserOutput:
        encoded = self.encoder(wave, n_samples)
        features = [frames.transpose(1, 2) for frames in encoded.features]
        return RecogniserOutput(features, self.read(encoded.features))

    def read(self, features: list[Float[Tensor, "batch frames hidden"]]) -> LogProbs:
        """Return the tokens' log-probabilities, given what each layer of the encoder makes of the frames."""
        if self.mixture is None:
            frames = features[-1]
        else:
            # Normalised, so that no layer counts for more because its features are larger.
            each = torch.stack([nn.functional.layer_norm(f, f.shape[-1:]) for f in features])
            frames = torch.einsum("l,lbfd->bfd", self.mixture.softmax(0), each)
        return self.head(self.dropout(frames)).float().log_softmax(-1)

    @torch.no_grad()
    def transcribe(self, wave: Wave) -> list[str]:
        """Return the likeliest text (phones parted by spaces) of each wave."""
        return [self.units.between.join(symbols) for symbols in self.decode(self(wave).log_probs)]

    def decode(self, log_probs: LogProbs) -> list[list[str]]:
        """Take the likeliest token of each frame, merge repetitions, drop blanks."""
        symbols = self.units.symbols
        return [[symbols[token - 1] for token in tokens] for tokens in greedy(log_probs)]


def greedy(log_probs: LogProbs, valid: Bool[Tensor, "batch frames"] | None = None) -> list[list[int]]:
    """Return the tokens along the likeliest path: repetitions merged, blanks dropped."""
    best = log_probs.argmax(-1)
    if valid is not None:
        best = best.masked_fill(~valid, BLANK)
    return [[t for t in torch.unique_consecutive(row).tolist() if t != BLANK] for row in best.cpu()]


def load_speech_recogniser(folder: str | Path) -> SpeechRecogniser:
    """Load an exported recogniser, frozen, ready to judge."""
    config, state = load_export(folder, SpeechRecogniserConfig)
    recogniser = SpeechRecogniser(config)
    state = {name: tensor.float() for name, tensor in state.items()}
    fill(recogniser, state, Path(folder) / "model.safetensors")
    return recogniser.eval().requires_grad_(False)
