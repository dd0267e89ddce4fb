"""An anchor in the sound: the masked frames' log-mels, for runs too short for a teacher to rise alone."""

from dataclasses import dataclass, field

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.user_error import UserError
from pretrain.speech.encoder import SpeechEncoderConfig
from pretrain.speech.regression import variance_explained
from pretrain.speech.targets import normalised_over_time


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """Which log-mels are guessed."""

    weight: float = 1.0
    """What the term counts in the loss."""
    mel: MelConfig = field(
        default_factory=lambda: MelConfig(sample_rate=16_000, n_fft=512, win=400, hop=160, n_mels=40)
    )
    """Its hop divides the encoder's: all of a frame's mels are guessed together."""


class Spectrum(nn.Module):
    """Guesses the log-mels of masked frames from the student's states by one linear layer."""

    def __init__(self, config: SpectrumConfig, *, dim: int, encoder: SpeechEncoderConfig) -> None:
        super().__init__()
        hop = encoder.hop
        if hop % config.mel.hop:
            raise UserError(f"spectrum.mel.hop={config.mel.hop} must divide the encoder's hop of {hop}")
        self.config, self.per_frame = config, hop // config.mel.hop
        self.lead = max(0, encoder.receptive_field - hop) // 2  # samples before the middle of what is seen
        self.mel = LogMel(config.mel)
        self.head = nn.Linear(dim, config.mel.n_mels * self.per_frame)

    def target(
        self, wave: Float[Tensor, "batch 1 samples"], frames: int
    ) -> Float[Tensor, "batch frames mels"]:
        """Return each frame's log-mels, each band normalised over the clip."""
        mel = self.mel(wave[..., self.lead :]).transpose(1, 2)[:, : frames * self.per_frame]
        return normalised_over_time(mel).reshape(len(wave), frames, -1)

    def forward(
        self, states: Float[Tensor, "rows steps dim"], target: Float[Tensor, "rows steps mels"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        guess = self.head(states).float()
        return F.mse_loss(guess, target), {"spectrum_explained": variance_explained(guess.detach(), target)}
