"""Training of StarGAN: five discriminator updates, then a generator update with cycle and identity losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.optim import OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import at_least
from w2w.baselines.stargan.labels import LabelledBatch, input_label, output_label
from w2w.baselines.stargan.networks import Discriminator, Generator, StarGANConfig
from w2w.baselines.stargan.spectrogram import Spectrogram

Spectrograms = Float[Tensor, "batch 1 bins frames"]


def wasserstein(
    real: Float[Tensor, "batch 1 height width"], fake: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, ""]:
    """The critic's Wasserstein loss: mean score of fakes minus mean score of real ones."""
    return fake.float().mean() - real.float().mean()


def gradient_penalty(
    score: Callable[[Spectrograms], Float[Tensor, "batch 1 height width"]],
    real: Spectrograms,
    fake: Spectrograms,
    share: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, ""]:
    """Gradient penalty (Gulrajani et al. 2017): mean (‖∇‖ − 1)² at points between real and fake.

    ``share`` in [0, 1] is the weight of the real spectrogram at each point. The gradient is that of the sum
    over the score map, as in StarGAN's published code (Choi et al. 2018), for which the other losses' weights
    of 10 were chosen; with the mean, the adversarial loss would have 16 times the influence. Computed in
    float32, as the gradient is differentiated again.
    """
    with torch.autocast(real.device.type, enabled=False):
        between = (share * real.float() + (1 - share) * fake.detach().float()).requires_grad_()
        (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def masked_cross_entropy(
    logits: Float[Tensor, "batch labels"], target: Float[Tensor, "batch labels"], *, summed: bool = False
) -> Float[Tensor, ""]:
    """Sigmoid cross-entropy, averaged over all known labels of the batch; 0 if there are none.

    Targets below 0 are unknown and ignored. ``summed``: the sum over each clip's labels, as in StarGAN's
    published code, so that the one positive label is not outweighed by 1475 negative ones.
    """
    known = target >= 0
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.clamp_min(0.0), reduction="none")
    return (loss * known).sum() / (len(logits) if summed else known.sum().clamp_min(1))


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean squared distance between the last features (1024 × 4 × 4) of a converted clip and of its source.

    ``real`` receives no gradient. As the target is the clip's own source, this also rewards not converting.
    """
    return F.mse_loss(fake[-1].float(), real[-1].detach().float())


def mean_feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Squared distance between the batch means of features, averaged over layers (Salimans et al. 2016).

    Comparing batch means instead of pairs does not reward leaving clips unconverted. ``real`` receives no
    gradient.
    """
    terms = [
        F.mse_loss(f.float().mean(0), r.detach().float().mean(0)) for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


Labels = Int[Tensor, "batch groups"]
Scalars = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class StarGANTaskConfig:
    """Hyperparameters of the training algorithm. The defaults are the experiment's."""

    losses: Literal["experiment", "own"] = "experiment"
    """``experiment``: squared errors, features compared in pairs, label loss averaged over known labels.
    ``own``: L1, batch means of the features of all layers, label loss summed over known labels."""
    critic_updates: int = 5
    """Discriminator updates per step, each on different clips; the generator has one update per step, on the
    last of them."""
    gradient_penalty: float = 10.0
    """Weight of the discriminator's gradient penalty."""
    classes: float = 1.0
    """Weight of the label loss: real clips' labels for the discriminator, target labels for the generator."""
    reconstruction: float = 10.0
    """Weight of the cycle reconstruction, converted back with the source's labels."""
    identity: float = 10.0
    """Weight of the identity loss, between the source and its conversion with its own labels."""
    feature_matching: float = 10.0
    """Weight of the feature matching of converted and real clips in the discriminator."""

    def __post_init__(self) -> None:
        at_least(1, self, "critic_updates", prefix="task.")


class StarGAN:
    """The training task; ``update`` is the algorithm."""

    def __init__(
        self,
        config: StarGANTaskConfig,
        shape: StarGANConfig,
        optim_generator: OptimConfig,
        optim_discriminator: OptimConfig,
    ) -> None:
        self.config, self.shape = config, shape
        self.generator, self.discriminator = Generator(shape), Discriminator(shape)
        self.spectrogram = Spectrogram(shape.spectrogram)
        self.players = {
            "generator": Player(self.generator, optim_generator, "generator"),
            "discriminator": Player(self.discriminator, optim_discriminator, "discriminator"),
        }
        self.curved = ("discriminator",)
        self.modules: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
        }
        self.frozen: dict[str, nn.Module] = {"spectrogram": self.spectrogram}
        self.last: tuple[Spectrograms, Labels] | None = None

    def update(self, batch: LabelledBatch, step: int) -> Scalars:
        """One step: each discriminator update uses a part of the batch, and the generator the last part."""
        spectrograms = self.spectrogram(batch.wave).chunk(self.config.critic_updates)
        labels, critic = batch.labels.chunk(self.config.critic_updates), Scalars()
        for spectrogram, label in zip(spectrograms, labels, strict=True):
            critic = self.discriminator_losses(spectrogram, label, other_clips(label))
            self.players["discriminator"].step(self.total(critic))
        generator = self.generator_losses(spectrograms[-1], labels[-1], other_clips(labels[-1]))
        self.players["generator"].step(self.total(generator))
        self.last = spectrograms[-1], labels[-1]
        scalars = {f"loss/discriminator/{name}": loss for name, loss in critic.items()}
        scalars |= {f"loss/generator/{name}": loss for name, loss in generator.items()}
        return {name: loss.detach() for name, loss in scalars.items()}

    def total(self, losses: Scalars) -> Float[Tensor, ""]:
        """Sum of the losses, weighted by the fields of the config that have their names."""
        weights = vars(self.config) | {"adversarial": 1.0}
        return sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(()))

    def discriminator_losses(self, spectrogram: Spectrograms, label: Labels, target: Labels) -> Scalars:
        """The discriminator's losses: Wasserstein with gradient penalty, and real clips' known labels."""
        with torch.no_grad():
            fake = self.convert(spectrogram, target)
        real = self.discriminator(spectrogram)
        adversarial = wasserstein(real.score, self.discriminator(fake).score)
        share = torch.rand(len(spectrogram), 1, 1, 1, device=spectrogram.device)
        penalty = gradient_penalty(lambda x: self.discriminator(x).score, spectrogram, fake, share)
        classes = self._classes(real.labels, label)
        return {"adversarial": adversarial, "gradient_penalty": penalty, "classes": classes}

    def generator_losses(self, spectrogram: Spectrograms, label: Labels, target: Labels) -> Scalars:
        """The generator's losses: adversarial, target labels, reconstruction, identity, feature matching."""
        fake = self.convert(spectrogram, target)
        scored = self.discriminator(fake)
        with torch.no_grad():
            real = self.discriminator(spectrogram).features
        ours = self.config.losses == "own"
        distance, match = (F.l1_loss, mean_feature_matching) if ours else (F.mse_loss, feature_matching)
        return {
            "adversarial": -scored.score.float().mean(),
            "classes": self._classes(scored.labels, target),
            "reconstruction": distance(self.convert(fake, label), spectrogram),
            "identity": distance(self.convert(spectrogram, label), spectrogram),
            "feature_matching": match(real, scored.features),
        }

    def _classes(self, logits: Float[Tensor, "batch n_out"], labels: Labels) -> Float[Tensor, ""]:
        target = output_label(labels, self.shape.labels)
        return masked_cross_entropy(logits, target, summed=self.config.losses == "own")

    def convert(self, spectrogram: Spectrograms, labels: Labels) -> Spectrograms:
        return self.generator(spectrogram, input_label(labels, self.shape.labels))

    def samples(self, step: int) -> Samples:
        """A clip, its conversion to another clip's labels and back, its identity, and that other clip."""
        spectrogram, label, target = self._shown()
        fake = self.convert(spectrogram, target)
        shown = {
            "source": spectrogram,
            "converted": fake,
            "returned": self.convert(fake, label),
            "kept": self.convert(spectrogram, label),
            "target": spectrogram.roll(1, 0),
        }
        self.generator.train()
        return Samples(mels={name: of[0, 0] for name, of in shown.items()})

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics on the last batch that show whether clips are changed; distances are L1 of spectrograms.

        ``moved``: between converted clips and their sources. ``apart``: between different clips. ``label``:
        between conversions of a clip to two labels. ``obeyed``: accuracy of the discriminator's prediction
        of the known target labels, per group, on converted clips.
        """
        spectrogram, label, target = self._shown()
        fake = self.convert(spectrogram, target)
        scores = {
            "moved": F.l1_loss(fake, spectrogram).item(),
            "apart": F.l1_loss(spectrogram.roll(1, 0), spectrogram).item(),
            "label": F.l1_loss(fake, self.convert(spectrogram, label)).item(),
            "obeyed": self._obeyed(fake, target),
        }
        self.generator.train()
        return scores

    def _shown(self) -> tuple[Spectrograms, Labels, Labels]:
        """The last clips, their labels, and their neighbours'; sets the generator to evaluation mode."""
        assert self.last is not None
        self.generator.eval()
        spectrogram, label = self.last
        return spectrogram, label, label.roll(1, 0)

    def _obeyed(self, fake: Spectrograms, target: Labels) -> float:
        groups = self.discriminator(fake).labels.split(self.shape.labels.sizes, dim=1)
        correct = [
            logits.argmax(1)[of >= 0] == of[of >= 0]
            for logits, of in zip(groups, target.unbind(1), strict=True)
            if logits.shape[1]
        ]
        return torch.cat(correct).float().mean().item()


def other_clips(labels: Labels) -> Labels:
    """Labels of another clip of the batch for every clip: all rotated by one random distance."""
    return labels.roll(int(torch.randint(1, len(labels), ())), 0)
