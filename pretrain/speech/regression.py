"""Regression losses at masked frames: features of an EMA teacher (Baevski et al., 2022), or log-mels."""

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.user_error import UserError
from pretrain.speech.encoder import Frames, SpeechEncoder, SpeechEncoderConfig
from pretrain.speech.layers import transformer_layer

Steps = Float[Tensor, "rows steps dim"]


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The EMA teacher and its layers that the targets are computed from."""

    top: int = 8
    """Number of last layers whose feed-forward outputs are averaged as the target."""
    decay_first: float = 0.999
    """EMA decay in the first update."""
    decay_last: float = 0.9999
    """EMA decay from update ``decay_steps`` on."""
    decay_steps: int = 30_000
    """Updates over which the EMA decay rises linearly."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay_first <= self.decay_last <= 1 or self.decay_steps < 1 or self.top < 1:
            raise UserError(
                "a teacher needs 0 <= decay_first <= decay_last <= 1, decay_steps and top of at least 1"
            )

    def decay(self, update: int) -> float:
        done = min(update / self.decay_steps, 1.0)
        return self.decay_first + (self.decay_last - self.decay_first) * done


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """data2vec's regression loss, with the detection of collapse."""

    weight: float = 1.0
    """Loss weight."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    least_target_spread: float = 0.1
    """Minimum standard deviation of the targets over masked steps; below it, training stops."""
    least_prediction_spread: float = 0.01
    """Minimum standard deviation of the predictions over masked steps; below it, training stops."""
    guard_from: int = 5000
    """Number of updates before these two limits apply, since both are small at first."""


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """Regression loss of log-mels, for runs that are too short for useful teacher features."""

    weight: float = 1.0
    """Loss weight."""
    mel: MelConfig = field(
        default_factory=lambda: MelConfig(sample_rate=16_000, n_fft=512, win=400, hop=160, n_mels=40)
    )
    """Log-mel settings; the hop must divide the encoder's. One encoder frame predicts all its mel frames."""


class Teacher(nn.Module):
    """EMA of the encoder's transformer layers, in float32 and eval mode; all layers below are shared."""

    def __init__(self, encoder: SpeechEncoder, config: TeacherConfig) -> None:
        super().__init__()
        n_layers = len(encoder.trunk.encoder.layers)
        if config.top > n_layers:
            raise UserError(f"teacher.top={config.top} exceeds the encoder's {n_layers} layers")
        self.config = config
        self.layers = copy.deepcopy(encoder.trunk.encoder.layers)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, positioned: Frames) -> Frames:
        """Return the mean of the top layers' feed-forward outputs, each normalised over time, as float32."""
        x, total = positioned, torch.zeros_like(positioned, dtype=torch.float32)
        first = len(self.layers) - self.config.top
        for number, layer in enumerate(self.layers):
            x, feed_forward = transformer_layer(layer, x)
            if number >= first:
                total += normalised_over_time(feed_forward)
        return total / self.config.top

    @torch.no_grad()
    def follow(self, encoder: SpeechEncoder, update: int) -> None:
        """Update the average after the student's ``update``-th update, counted from 0."""
        average: list[Tensor] = list(self.layers.parameters())
        student: list[Tensor] = list(encoder.trunk.encoder.layers.parameters())
        torch._foreach_lerp_(average, student, 1 - self.config.decay(update))


class Regression(nn.Module):
    """A linear layer that predicts the teacher's targets from the student's states."""

    def __init__(self, config: RegressionConfig, dim: int, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(dim, hidden)

    def forward(
        self, states: Float[Tensor, "rows steps dim"], target: Float[Tensor, "rows steps hidden"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        prediction = self.head(states).float()
        loss = masked_regression(prediction, target)
        scalars = {
            "regression": loss,
            "spread/target": spread(target),
            "spread/prediction": spread(prediction.detach()),
            "variance_explained": variance_explained(prediction.detach(), target),
        }
        return loss, scalars

    def guard(self, scalars: dict[str, Tensor], update: int) -> None:
        """Raise an error if the targets or predictions have collapsed to one vector."""
        if update < self.config.guard_from:
            return
        for name, least in (
            ("target", self.config.least_target_spread),
            ("prediction", self.config.least_prediction_spread),
        ):
            value = float(scalars[f"spread/{name}"])
            if value < least:
                raise UserError(
                    f"collapsed after {update} updates: {name}s vary by {value:.3g} over "
                    f"masked steps, less than {least:g}; start again with a lower --optim.lr, a longer "
                    "warm-up or a higher --regression.teacher.decay-first"
                )


class Spectrum(nn.Module):
    """A linear layer that predicts the log-mels of masked frames from the student's states."""

    def __init__(self, config: SpectrumConfig, *, dim: int, encoder: SpeechEncoderConfig) -> None:
        super().__init__()
        hop = encoder.hop
        if hop % config.mel.hop:
            raise UserError(f"spectrum.mel.hop={config.mel.hop} must divide the encoder's hop of {hop}")
        self.config, self.per_frame = config, hop // config.mel.hop
        self.offset = max(0, encoder.receptive_field - hop) // 2  # centres a hop in the first receptive field
        self.mel = LogMel(config.mel)
        self.head = nn.Linear(dim, config.mel.n_mels * self.per_frame)

    def target(
        self, wave: Float[Tensor, "batch 1 samples"], frames: int
    ) -> Float[Tensor, "batch frames mels"]:
        """Return each frame's log-mels, with each band normalised over the clip."""
        mel = self.mel(wave[..., self.offset :]).transpose(1, 2)[:, : frames * self.per_frame]
        return rearrange(
            normalised_over_time(mel), "batch (frame n) mel -> batch frame (n mel)", n=self.per_frame
        )

    def forward(
        self, states: Float[Tensor, "rows steps dim"], target: Float[Tensor, "rows steps mels"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        prediction = self.head(states).float()
        loss, explained = F.mse_loss(prediction, target), variance_explained(prediction.detach(), target)
        return loss, {"spectrum": loss, "spectrum_explained": explained}


def masked_regression(prediction: Steps, target: Steps) -> Float[Tensor, ""]:
    """Return the squared error over the square root of the number of channels, averaged over masked steps."""
    return (prediction - target).square().sum(-1).mean() * target.shape[-1] ** -0.5


def normalised_over_time(x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
    """Normalise each channel of each clip to zero mean and unit variance."""
    return F.instance_norm(x.float().transpose(1, 2)).transpose(1, 2)


def spread(x: Steps) -> Float[Tensor, ""]:
    """Return the standard deviation over all masked steps of the batch, averaged over channels."""
    return (x.flatten(0, 1).var(0) + 1e-6).sqrt().mean()


def variance_explained(prediction: Steps, target: Steps) -> Float[Tensor, ""]:
    """Return R², 1 − squared error over the targets' variance: 1 is perfect, 0 as good as the mean."""
    flat = target.flatten(0, 1)
    return 1 - (prediction.flatten(0, 1) - flat).square().mean() / flat.var(0, unbiased=False).mean()
