"""The probe: a 2-layer perceptron on frozen embeddings, stopped where the validation clips like it best."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.seeding import step_seed
from engine.user_error import at_least
from pretrain.clip.losses import LogitScale


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
    """Size and training of the probe."""

    hidden: int = 256
    """Width of the layer between."""
    dropout: float = 0.3
    """Share of that layer that is left out in training."""
    lr: float = 1e-3
    """Of AdamW, constant."""
    weight_decay: float = 1e-2
    """Per unit of learning rate."""
    batch: int = 32
    """Clips a step."""
    epochs: int = 200
    """At most."""
    patience: int = 30
    """Epochs without a better validation loss before training stops."""

    def __post_init__(self) -> None:
        at_least(1, self, "hidden", "batch", "epochs", "patience")


class Perceptron(nn.Module):
    """Logits of the classes from an embedding, standardised by what the training clips were like.

    With ``captions`` it maps into their space, and a class is as likely as its caption is near.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        train: Float[Tensor, "clips dim"],
        n_classes: int,
        config: PerceptronConfig,
        captions: Float[Tensor, "n_classes space"] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", train.mean(0))
        self.register_buffer("scale", train.std(0, correction=0).clamp_min(1e-6))
        self.layers = nn.Sequential(
            nn.Linear(train.shape[1], config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, n_classes if captions is None else captions.shape[1]),
        )
        self.head = nn.Identity() if captions is None else CaptionHead(captions)

    def forward(self, embedding: Float[Tensor, "clips dim"]) -> Float[Tensor, "clips n_classes"]:
        return self.head(self.into(embedding))

    def into(self, embedding: Float[Tensor, "clips dim"]) -> Float[Tensor, "clips outputs"]:
        """What the head compares with captions, or the logits themselves."""
        return self.layers((embedding - self.mean) / self.scale)


class CaptionHead(nn.Module):
    """Logits as scaled cosines with fixed captions."""

    captions: Tensor

    def __init__(self, captions: Float[Tensor, "n_classes dim"]) -> None:
        super().__init__()
        self.register_buffer("captions", F.normalize(captions, dim=-1))
        self.scale = LogitScale()

    def forward(self, embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch n_classes"]:
        return self.scale() * F.normalize(embedding, dim=-1) @ self.captions.T


def classification_loss(
    logits: Float[Tensor, "clips n_classes"], targets: Float[Tensor, "clips n_classes"], *, multi_label: bool
) -> Float[Tensor, ""]:
    """Cross-entropy with the one class of each clip, or with each class on its own."""
    return (
        F.binary_cross_entropy_with_logits(logits, targets)
        if multi_label
        else F.cross_entropy(logits, targets)
    )


def fit_perceptron(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    multi_label: bool,
    seed: int,
    config: PerceptronConfig | None = None,
    captions: Float[Tensor, "n_classes dim"] | None = None,
) -> Perceptron:
    """Train on (embeddings, targets between 0 and 1) and return the state of the best validation loss."""
    config = config or PerceptronConfig()
    x, y = train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        model = Perceptron(x, y.shape[1], config, captions)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        best, best_loss, since = copy.deepcopy(model.state_dict()), float("inf"), 0
        for _ in range(config.epochs):
            model.train()
            for index in torch.randperm(len(x)).split(config.batch):
                loss = classification_loss(model(x[index]), y[index], multi_label=multi_label)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                now = classification_loss(model(validation[0]), validation[1], multi_label=multi_label).item()
            since += 1
            if now < best_loss:
                best, best_loss, since = copy.deepcopy(model.state_dict()), now, 0
            if since >= config.patience:
                break
    model.load_state_dict(best)
    return model.eval().requires_grad_(False)
