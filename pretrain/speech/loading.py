"""Loading of speech encoders (our own, or Data2VecAudio of transformers), and recognisers built on them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Data2VecAudioConfig, Data2VecAudioModel

from engine.checkpoint import fill, load_network, load_weights, newest_checkpoint
from engine.config import from_json
from engine.hub import hint, repository
from engine.user_error import UserError
from pretrain.speech.encoder import PUBLISHED_NAMES, Encoded, SpeechEncoder, SpeechEncoderConfig
from pretrain.units import Characters, RecogniserOutput, Units, UnitsConfig, greedy

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class SpeechRecogniserConfig:
    """A speech encoder with a linear CTC layer."""

    KIND: ClassVar[str] = "speech_recogniser"
    encoder: SpeechEncoderConfig = field(default_factory=SpeechEncoderConfig)
    units: UnitsConfig = field(default_factory=Characters)
    """Output units: characters or phones."""
    head_dropout: float = 0.1
    """Dropout before the linear layer and within the encoder."""
    mix_layers: bool = False
    """Use a learned average of all layers instead of the last one, for an encoder that is not fine-tuned."""


class SpeechRecogniser(nn.Module):
    """A CTC recogniser. Gradients reach the wave; padding beyond ``n_samples`` has no effect."""

    def __init__(self, config: SpeechRecogniserConfig) -> None:
        super().__init__()
        self.config, self.units = config, Units(config.units)
        self.encoder = SpeechEncoder(config.encoder)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.encoder.hidden, len(self.units) + 1)
        self.mixture = nn.Parameter(torch.zeros(config.encoder.layers)) if config.mix_layers else None

    @property
    def sample_rate(self) -> int:
        return self.config.encoder.sample_rate

    def forward(self, wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> RecogniserOutput:
        return self.read(self.encoder(wave, n_samples))

    def read(self, encoded: Encoded) -> RecogniserOutput:
        """Compute the posteriors of already encoded frames."""
        if self.mixture is None:
            frames = encoded.last
        else:
            # Normalised, so that no layer dominates by the scale of its features.
            each = torch.stack([nn.functional.layer_norm(f, f.shape[-1:]) for f in encoded.features])
            frames = torch.einsum("l,lbfd->bfd", self.mixture.softmax(0), each)
        log_probs = self.head(self.dropout(frames)).float().log_softmax(-1)
        return RecogniserOutput([f.transpose(1, 2) for f in encoded.features], log_probs, encoded.valid)

    @torch.no_grad()
    def transcribe(self, wave: Wave) -> list[str]:
        """Return the text of each wave by greedy decoding; phones are separated by spaces."""
        return [self.units.text(tokens) for tokens in greedy(self(wave))]


PUBLISHED = "data2vec-audio"
"""``model_type`` of the architecture in transformers."""
RELEASED = Path(__file__).parents[1] / "released" / "speech"
"""The packaged encoder, loaded by the path ``released``."""


def load_speech_encoder(path: str | Path) -> SpeechEncoder:
    """Load an encoder in evaluation mode.

    ``path`` is an export, a run (its export, else its newest checkpoint), a folder written by transformers'
    ``save_pretrained``, or ``hub:owner/name``, a Data2VecAudio checkpoint on the Hugging Face hub;
    ``released`` is the packaged one.
    """
    if (name := repository(str(path))) is not None:
        return _published(name)
    folder = RELEASED if str(path) == "released" else Path(path)
    if (folder / "export" / "config.json").is_file():
        folder = folder / "export"
    if newest := newest_checkpoint(folder):
        return _from_checkpoint(newest)
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no speech encoder in {path}: config.json is missing{hint(str(path))}")
    if "model_type" in json.loads((folder / "config.json").read_text()):
        return _published(str(folder))
    return load_network(folder, SpeechEncoderConfig, SpeechEncoder)


def _published(name: str) -> SpeechEncoder:
    """Load with transformers, without heads for recognition or classification."""
    try:
        config = Data2VecAudioConfig.from_pretrained(name)
        if config.model_type != PUBLISHED:
            raise UserError(f"{name} is a {config.model_type}: only {PUBLISHED} checkpoints are loaded")
        model = Data2VecAudioModel.from_pretrained(name)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} cannot be loaded: {reason} (give a local folder instead)") from None
    if config.add_adapter or config.hidden_act != "gelu" or config.feat_extract_activation != "gelu":
        raise UserError(f"{name} has an adapter or an activation other than gelu: it cannot be used here")
    values: dict[str, Any] = {ours: getattr(config, theirs) for ours, theirs in PUBLISHED_NAMES.items()}
    values = {field: tuple(value) if isinstance(value, list) else value for field, value in values.items()}
    encoder = SpeechEncoder(SpeechEncoderConfig(**values))
    state = model.state_dict()
    # Only pretraining needs it; checkpoints fine-tuned without masks lack it.
    state.setdefault("masked_spec_embed", encoder.trunk.masked_spec_embed.detach())
    fill(encoder.trunk, state, name)
    return encoder.eval()


def _from_checkpoint(folder: Path) -> SpeechEncoder:
    """Load the student from a checkpoint of an unfinished run."""
    stored = json.loads((folder / "config.json").read_text())
    if not isinstance(stored.get("model"), dict) or not (folder / "encoder.safetensors").is_file():
        raise UserError(f"{folder} is not from a run of pretrain/data2vec.py: it contains no speech encoder")
    encoder = SpeechEncoder(from_json(SpeechEncoderConfig, json.dumps(stored["model"]), str(folder)))
    fill(encoder, load_weights(folder / "encoder.safetensors"), folder / "encoder.safetensors")
    return encoder.eval()
