"""The content loss: a frozen recogniser must hear in the converted wave what it heard in the source."""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchaudio.functional import resample

from engine.user_error import UserError
from w2w.cluit.recognisers import (
    Backend,
    Listener,
    LocalRecogniser,
    SpeechFeatures,
    open_recogniser,
)

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class ContentLossConfig:
    """Which recogniser listens, and what must agree."""

    backend: Backend = field(default_factory=LocalRecogniser)
    """Whose ears."""
    features: float = 1.0
    """Weight of the distance between features; 0 leaves it out."""
    posteriors: float = 0.5
    """Weight of the divergence between posteriors, in nats per frame; 0 leaves it out. Encoders that were
    taught no tokens have none."""
    distance: Literal["l1", "cosine"] = "l1"
    """How features, standardised over their channels, are compared."""
    layers: tuple[int, ...] = ()
    """Numbers of the layers compared, −1 for the last; empty: the deeper half, the least of the voice."""
    silence_db: float = -40.0
    """Frames of the source this far below its loudest do not count."""

    def __post_init__(self) -> None:
        if min(self.features, self.posteriors) < 0:
            raise UserError("content weights must not be negative")
        if isinstance(self.backend, SpeechFeatures) and not self.features:
            raise UserError(
                "content.features=0 leaves nothing to compare: a speech encoder has no posteriors"
            )


class ContentLoss(nn.Module):
    """Distance of what is said in two waves; gradients reach ``converted`` and nothing else.

    Sums its terms by their weights. The waves may have any rate; the recogniser gets its own.
    """

    def __init__(self, config: ContentLossConfig, sample_rate: int) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        self.recogniser = recogniser = open_recogniser(config.backend)
        assert isinstance(recogniser, Listener)
        self.its_rate = recogniser.sample_rate

    def train(self, mode: bool = True) -> "ContentLoss":
        """Stay in evaluation mode: the judge does not change with its subject."""
        return super().train(False)

    def forward(self, converted: Wave, source: Wave) -> Float[Tensor, ""]:
        weights = {"features": self.config.features, "posteriors": self.config.posteriors}
        terms = self.terms(converted, source)
        return sum((weights[name] * term for name, term in terms.items()), start=converted.new_zeros(()))

    def terms(self, converted: Wave, source: Wave) -> dict[str, Float[Tensor, ""]]:
        """Return the unweighted terms whose weight is not 0."""
        samples = min(converted.shape[-1], source.shape[-1])
        source = source[..., :samples]
        with torch.no_grad():
            of_source = self.recogniser(self._at_its_rate(source))
        of_converted = self.recogniser(self._at_its_rate(converted[..., :samples]))
        counts = loud_frames(source, of_source.log_probs.shape[1], self.config.silence_db)
        terms = {}
        if self.config.features:
            distances = [
                feature_distance(
                    of_converted.features[i], of_source.features[i], counts, self.config.distance
                )
                for i in self._layers(len(of_source.features))
            ]
            terms["features"] = torch.stack(distances).mean()
        if self.config.posteriors and of_source.log_probs.shape[-1]:
            terms["posteriors"] = posterior_distance(of_converted.log_probs, of_source.log_probs, counts)
        return terms

    def _at_its_rate(self, wave: Wave) -> Float[Tensor, "batch 1 resampled"]:
        return resample(wave, self.sample_rate, self.its_rate)

    def _layers(self, n_layers: int) -> list[int]:
        for layer in self.config.layers:
            if not -n_layers <= layer < n_layers:
                raise UserError(f"content layer {layer} does not exist: the recogniser has {n_layers}")
        return list(self.config.layers) or list(range(n_layers // 2, n_layers))


def loud_frames(source: Wave, frames: int, silence_db: float) -> Bool[Tensor, "batch frames"]:
    """Tell which frames are less than ``-silence_db`` below their utterance's loudest, above −70 dBFS."""
    power = F.adaptive_avg_pool1d(source.detach().float().square(), frames)[:, 0]
    floor = (power.amax(-1, keepdim=True) * 10 ** (silence_db / 10)).clamp(min=1e-7)
    return power >= floor


def feature_distance(
    converted: Float[Tensor, "batch dim frames"],
    source: Float[Tensor, "batch dim frames"],
    counts: Bool[Tensor, "batch frames"],
    distance: Literal["l1", "cosine"] = "l1",
) -> Float[Tensor, ""]:
    """Return the mean distance of frames standardised over their channels; gradients reach ``converted``."""
    converted, source = (
        F.layer_norm(f.float().transpose(1, 2), f.shape[1:2]) for f in (converted, source.detach())
    )
    if distance == "l1":
        return _mean((converted - source).abs().mean(-1), counts)
    # Standardised vectors have a length of √dim; a product keeps the distance of equals at 0.
    return _mean((converted - source).square().mean(-1) / 2, counts)


def posterior_distance(
    converted: Float[Tensor, "batch frames tokens"],
    source: Float[Tensor, "batch frames tokens"],
    counts: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Mean Kullback-Leibler divergence of log-posteriors, in nats; gradients reach ``converted``."""
    divergence = F.kl_div(converted, source.detach(), log_target=True, reduction="none").sum(-1)
    return _mean(divergence, counts)


def _mean(values: Float[Tensor, "batch frames"], counts: Bool[Tensor, "batch frames"]) -> Float[Tensor, ""]:
    """Average where it counts; 0 where nothing does."""
    return (values * counts).sum() / counts.sum().clamp(min=1)
