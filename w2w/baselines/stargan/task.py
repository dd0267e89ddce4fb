"""StarGAN: five updates of the discriminator, then one of the generator that converts, returns and keeps."""

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
    """The critic's side of the Wasserstein distance: scores of fakes down, of real ones up."""
    return fake.float().mean() - real.float().mean()


def gradient_penalty(
    score: Callable[[Spectrograms], Float[Tensor, "batch 1 height width"]],
    real: Spectrograms,
    fake: Spectrograms,
    share: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, ""]:
    """How far the critic's slope is from 1 between real and fake (Gulrajani et al. 2017): mean (‖∇‖ − 1)².

    ``share`` in [0, 1] is how real each point is. The slope is that of the sum over the map of scores, as in
    StarGAN's own code (Choi et al. 2018), beside which the other losses' weights of 10 were chosen; the slope
    of the mean would let the adversary pull 16 times as hard. Always float32: the slope is differentiated.
    """
    with torch.autocast(real.device.type, enabled=False):
        between = (share * real.float() + (1 - share) * fake.detach().float()).requires_grad_()
        (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def masked_cross_entropy(
    logits: Float[Tensor, "batch labels"], target: Float[Tensor, "batch labels"], *, summed: bool = False
) -> Float[Tensor, ""]:
    """Sigmoid cross-entropy, mean over all known labels of the batch; without any, 0.

    Targets below 0 belong to groups that are not known of a clip and count nothing. ``summed`` over a clip's
    labels it is StarGAN's own code's: the one label that matters is not drowned in 1475 zeros.
    """
    known = target >= 0
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.clamp_min(0.0), reduction="none")
    return (loss * known).sum() / (len(logits) if summed else known.sum().clamp_min(1))


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean squared distance of a converted clip's last feature from its source's: 1024 × 4 × 4 numbers.

    ``real`` receives no gradient. The source is the only clip with the same words, so this, too, rewards
    leaving it as it is.
    """
    return F.mse_loss(fake[-1].float(), real[-1].detach().float())


def mean_feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Squared distance of the batch's mean features, mean over layers (Salimans et al. 2016).

    Means over the batch, not pairs, so that not being converted is not rewarded. ``real`` receives no
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
    """The algorithm. The defaults are the experiment's."""

    losses: Literal["experiment", "own"] = "experiment"
    """The experiment's: mean squares, pairs of features, a mean over known labels. Our own: L1, the batch's
    mean features of all layers, a sum over known labels."""
    critic_updates: int = 5
    """Of the discriminator in each step, every one on clips of its own; the generator has one update a step,
    on the last of them."""
    gradient_penalty: float = 10.0
    """Weight of the slope's distance from 1."""
    classes: float = 1.0
    """Weight of the labels: the discriminator hears those of real clips, the generator the target's."""
    reconstruction: float = 10.0
    """Weight of the way back with the source's own labels."""
    identity: float = 10.0
    """Weight of staying the same under the source's own labels."""
    feature_matching: float = 10.0
    """Weight of converted clips' features, as the discriminator has them, being like real ones'."""

    def __post_init__(self) -> None:
        at_least(1, self, "critic_updates", prefix="task.")


class StarGAN:
    """The task. ``update`` is the algorithm."""

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
        """One step of both players: each update has a part of the batch, the generator the last one again."""
        spectrograms = self.spectrogram(batch.wave).chunk(self.config.critic_updates)
        labels = batch.labels.chunk(self.config.critic_updates)
        scalars: Scalars = {}
        for spectrogram, label in zip(spectrograms, labels, strict=True):
            loss = self.discriminator_loss(scalars, spectrogram, label, other_clips(label))
            self.players["discriminator"].step(loss)
        loss = self.generator_loss(scalars, spectrograms[-1], labels[-1], other_clips(labels[-1]))
        self.players["generator"].step(loss)
        self.last = spectrograms[-1], labels[-1]
        return {f"loss/{name}": value.detach() for name, value in scalars.items()}

    def discriminator_loss(
        self, scalars: Scalars, spectrogram: Spectrograms, label: Labels, target: Labels
    ) -> Float[Tensor, ""]:
        """Tell real from converted with a slope of 1, and real clips' labels where they are known."""
        config = self.config
        with torch.no_grad():
            fake = self.convert(spectrogram, target)
        real = self.discriminator(spectrogram)
        adversarial = wasserstein(real.score, self.discriminator(fake).score)
        share = torch.rand(len(spectrogram), 1, 1, 1, device=spectrogram.device)
        penalty = gradient_penalty(lambda x: self.discriminator(x).score, spectrogram, fake, share)
        classes = self._classes(real.labels, label)
        terms = {"adversarial": adversarial, "gradient_penalty": penalty, "classes": classes}
        scalars |= {f"discriminator/{name}": value for name, value in terms.items()}
        return adversarial + config.gradient_penalty * penalty + config.classes * classes

    def generator_loss(
        self, scalars: Scalars, spectrogram: Spectrograms, label: Labels, target: Labels
    ) -> Float[Tensor, ""]:
        """Sound real and like the target; come back, and stay, with the source's own labels."""
        config = self.config
        fake = self.convert(spectrogram, target)
        judged = self.discriminator(fake)
        with torch.no_grad():
            real = self.discriminator(spectrogram).features
        ours = config.losses == "own"
        distance, match = (F.l1_loss, mean_feature_matching) if ours else (F.mse_loss, feature_matching)
        terms = {
            "adversarial": -judged.score.float().mean(),
            "classes": self._classes(judged.labels, target),
            "reconstruction": distance(self.convert(fake, label), spectrogram),
            "identity": distance(self.convert(spectrogram, label), spectrogram),
            "feature_matching": match(real, judged.features),
        }
        scalars |= {f"generator/{name}": value for name, value in terms.items()}
        return (
            terms["adversarial"]
            + config.classes * terms["classes"]
            + config.reconstruction * terms["reconstruction"]
            + config.identity * terms["identity"]
            + config.feature_matching * terms["feature_matching"]
        )

    def _classes(self, logits: Float[Tensor, "batch n_out"], labels: Labels) -> Float[Tensor, ""]:
        target = output_label(labels, self.shape.labels)
        return masked_cross_entropy(logits, target, summed=self.config.losses == "own")

    def convert(self, spectrogram: Spectrograms, labels: Labels) -> Spectrograms:
        """The spectrogram as the labels' voice would have it."""
        return self.generator(spectrogram, input_label(labels, self.shape.labels))

    def samples(self, step: int) -> Samples:
        """The last clip, converted to its neighbour's labels, brought back, kept, and the neighbour."""
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
        """Whether the output is the input, on the last batch: all distances are mean L1 of spectrograms.

        ``moved`` is how far converted clips are from their sources, ``apart`` how far clips are from each
        other, ``label`` how far two labels take one clip apart, and ``obeyed`` the share of known target
        labels that the discriminator hears first in their group.
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
        """The last clips, their labels, their neighbours'; the generator as it is in use."""
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
    """Every clip gets the labels of another clip of its part: all turned by one random distance."""
    return labels.roll(int(torch.randint(1, len(labels), ())), 0)
