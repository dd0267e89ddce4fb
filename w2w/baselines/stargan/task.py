"""StarGAN: five updates of the discriminator, then one of the generator that converts, returns and keeps."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.optim import OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import UserError
from w2w.baselines.stargan.batches import LabelledBatch
from w2w.baselines.stargan.config import StarGANConfig
from w2w.baselines.stargan.discriminator import Discriminator
from w2w.baselines.stargan.generator import Generator
from w2w.baselines.stargan.labels import input_label, output_label
from w2w.baselines.stargan.losses import feature_matching, gradient_penalty, masked_cross_entropy, wasserstein
from w2w.baselines.stargan.spectrogram import Spectrogram

Picture = Float[Tensor, "batch 1 bins frames"]
Labels = Int[Tensor, "batch groups"]
Scalars = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class StarGANTaskConfig:
    """The algorithm. The defaults are the experiment's."""

    critic_updates: int = 5
    """Of the discriminator in each step, every one on clips of its own; the generator has one update a step,
    on the last of them."""
    gradient_penalty: float = 10.0
    """Weight of the slope's distance from 1."""
    classes: float = 1.0
    """Weight of the labels: the discriminator hears those of real clips, the generator the target's."""
    reconstruction: float = 10.0
    """Weight of the way back with the source's own labels, L1."""
    identity: float = 10.0
    """Weight of staying the same under the source's own labels, L1."""
    feature_matching: float = 10.0
    """Weight of converted clips' features, as the discriminator has them, being like real ones'."""

    def __post_init__(self) -> None:
        if self.critic_updates < 1:
            raise UserError(f"task.critic_updates={self.critic_updates} must be at least 1")


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
        self.modules: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
        }
        self.frozen: dict[str, nn.Module] = {"spectrogram": self.spectrogram}
        self.last: tuple[Picture, Labels] | None = None

    def update(self, batch: LabelledBatch, step: int) -> Scalars:
        """One step of both players: each update has a part of the batch, the generator the last one again."""
        pictures = self.spectrogram(batch.wave).chunk(self.config.critic_updates)
        labels = batch.labels.chunk(self.config.critic_updates)
        scalars: Scalars = {}
        for picture, label in zip(pictures, labels, strict=True):
            loss = self.discriminator_loss(scalars, picture, label, other_clips(label))
            self.players["discriminator"].descend(loss)
        loss = self.generator_loss(scalars, pictures[-1], labels[-1], other_clips(labels[-1]))
        self.players["generator"].descend(loss)
        self.last = pictures[-1], labels[-1]
        return {f"loss/{name}": value.detach() for name, value in scalars.items()}

    def discriminator_loss(
        self, scalars: Scalars, picture: Picture, label: Labels, target: Labels
    ) -> Float[Tensor, ""]:
        """Tell real from converted with a slope of 1, and real clips' labels where they are known."""
        config = self.config
        with torch.no_grad():
            fake = self.convert(picture, target)
        real = self.discriminator(picture)
        adversarial = wasserstein(real.score, self.discriminator(fake).score)
        share = torch.rand(len(picture), 1, 1, 1, device=picture.device)
        penalty = gradient_penalty(lambda x: self.discriminator(x).score, picture, fake, share)
        classes = masked_cross_entropy(real.labels, output_label(label, self.shape.labels))
        terms = {"adversarial": adversarial, "gradient_penalty": penalty, "classes": classes}
        scalars |= {f"discriminator/{name}": value for name, value in terms.items()}
        return adversarial + config.gradient_penalty * penalty + config.classes * classes

    def generator_loss(
        self, scalars: Scalars, picture: Picture, label: Labels, target: Labels
    ) -> Float[Tensor, ""]:
        """Sound real and like the target; come back, and stay, with the source's own labels."""
        config = self.config
        fake = self.convert(picture, target)
        judged = self.discriminator(fake)
        with torch.no_grad():
            real = self.discriminator(picture).features
        terms = {
            "adversarial": -judged.score.float().mean(),
            "classes": masked_cross_entropy(judged.labels, output_label(target, self.shape.labels)),
            "reconstruction": F.l1_loss(self.convert(fake, label), picture),
            "identity": F.l1_loss(self.convert(picture, label), picture),
            "feature_matching": feature_matching(real, judged.features),
        }
        scalars |= {f"generator/{name}": value for name, value in terms.items()}
        return (
            terms["adversarial"]
            + config.classes * terms["classes"]
            + config.reconstruction * terms["reconstruction"]
            + config.identity * terms["identity"]
            + config.feature_matching * terms["feature_matching"]
        )

    def convert(self, picture: Picture, labels: Labels) -> Picture:
        """The picture as the labels' voice would have it."""
        return self.generator(picture, input_label(labels, self.shape.labels))

    def samples(self, step: int) -> Samples:
        """The last clip, converted to its neighbour's labels, brought back, kept, and the neighbour."""
        picture, label, target = self._shown()
        fake = self.convert(picture, target)
        shown = {
            "source": picture,
            "converted": fake,
            "returned": self.convert(fake, label),
            "kept": self.convert(picture, label),
            "target": picture.roll(1, 0),
        }
        self.generator.train()
        return Samples(mels={name: of[0, 0] for name, of in shown.items()})

    def evaluate(self, step: int) -> dict[str, float]:
        """Whether the output is the input, on the last batch: all distances are mean L1 of pictures.

        ``moved`` is how far converted clips are from their sources, ``apart`` how far clips are from each
        other, ``label`` how far two labels take one clip apart, and ``obeyed`` the share of known target
        labels that the discriminator hears first in their group.
        """
        picture, label, target = self._shown()
        fake = self.convert(picture, target)
        scores = {
            "moved": F.l1_loss(fake, picture).item(),
            "apart": F.l1_loss(picture.roll(1, 0), picture).item(),
            "label": F.l1_loss(fake, self.convert(picture, label)).item(),
            "obeyed": self._obeyed(fake, target),
        }
        self.generator.train()
        return scores

    def _shown(self) -> tuple[Picture, Labels, Labels]:
        """The last clips, their labels, their neighbours'; the generator as it is in use."""
        assert self.last is not None
        self.generator.eval()
        picture, label = self.last
        return picture, label, label.roll(1, 0)

    def _obeyed(self, fake: Picture, target: Labels) -> float:
        groups = self.discriminator(fake).labels.split(self.shape.labels.sizes, dim=1)
        heard = [
            logits.argmax(1)[of >= 0] == of[of >= 0]
            for logits, of in zip(groups, target.unbind(1), strict=True)
            if logits.shape[1]
        ]
        return torch.cat(heard).float().mean().item()


def other_clips(labels: Labels) -> Labels:
    """Every clip gets the labels of another clip of its part: all turned by one random distance."""
    return labels.roll(int(torch.randint(1, len(labels), ())), 0)
