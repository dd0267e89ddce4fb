"""Training in the probes: linear classifiers and perceptrons on frozen embeddings, or a small encoder."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from data.augment import Augment
from data.augment import AugmentConfig as WaveAugmentConfig
from data.manifest import Row
from data.recordings import Recordings
from engine.optim import OptimConfig, Player
from engine.seeding import step_seed
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.losses import LogitScale
from pretrain.spectral_augment import AugmentConfig, change_speed, mask


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
    """Sizes and training (AdamW with a constant learning rate) of a perceptron on embeddings."""

    hidden: int = 256
    dropout: float = 0.3
    lr: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 32
    """Clips per step."""
    epochs: int = 200
    """Maximum number of epochs."""
    patience: int = 30
    """Epochs without a lower validation loss before training stops."""


class Perceptron(nn.Module):
    """A 2-layer perceptron from embeddings, standardised by the training clips' statistics, to class logits.

    With ``captions``, it maps into their space, and logits are scaled cosine similarities to the captions.
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
        """Return the vector that is compared with captions or, without captions, the logits."""
        return self.layers((embedding - self.mean) / self.scale)


class CaptionHead(nn.Module):
    """A classifier whose logits are scaled cosine similarities to fixed captions."""

    captions: Tensor

    def __init__(self, captions: Float[Tensor, "n_classes dim"]) -> None:
        super().__init__()
        self.register_buffer("captions", F.normalize(captions, dim=-1))
        self.scale = LogitScale()

    def forward(self, embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch n_classes"]:
        return self.scale() * F.normalize(embedding, dim=-1) @ self.captions.T


def fit_perceptron(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    seed: int,
    multi_label: bool = False,
    config: PerceptronConfig | None = None,
    captions: Float[Tensor, "n_classes dim"] | None = None,
) -> Perceptron:
    """Train on (embeddings, targets in [0, 1]) and return the perceptron with the lowest validation loss."""
    config, (x, y) = config or PerceptronConfig(), train
    loss_of = F.binary_cross_entropy_with_logits if multi_label else F.cross_entropy
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        model = Perceptron(x, y.shape[1], config, captions)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        best, best_loss, since = copy.deepcopy(model.state_dict()), float("inf"), 0
        for _ in range(config.epochs):
            model.train()
            for index in torch.randperm(len(x)).split(config.batch):
                loss = loss_of(model(x[index]), y[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                now = loss_of(model(validation[0]), validation[1]).item()
            since += 1
            if now < best_loss:
                best, best_loss, since = copy.deepcopy(model.state_dict()), now, 0
            if since >= config.patience:
                break
    model.load_state_dict(best)
    return model.eval().requires_grad_(False)


def fit_linear(
    train: Float[Tensor, "clips dim"], labels: Int[Tensor, "clips"], *, penalty: float = 1e-2
) -> Callable[[Float[Tensor, "others dim"]], Int[Tensor, "others"]]:
    """Fit a multinomial logistic regression on standardised vectors and return its prediction function.

    ``penalty`` is the weight of half the squared norm relative to the mean cross-entropy. The problem is
    convex, so the result does not depend on a seed.
    """
    if (labels == labels[0]).all():
        return lambda others: labels[:1].expand(len(others))
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    solver = LogisticRegression(C=1 / (penalty * len(train)), max_iter=1000)
    fitted = make_pipeline(StandardScaler(), solver).fit(train.numpy(force=True), labels.numpy(force=True))
    return lambda others: torch.from_numpy(fitted.predict(others.numpy(force=True))).to(others.device)


SMALL = AudioEncoderConfig(hop=512, width=16, blocks=(1, 1, 1, 1), dim=128, transform=False)
"""A ResNet-10 with 0.31 million parameters, on the paper's spectrogram with fewer frames."""
MASKS = AugmentConfig(speed=0.2, time_masks=2, time_mask_frames=16, band_masks=2, band_mask_bands=24)
"""Augmentation of spectrograms."""
CHANGES = WaveAugmentConfig(eq=0.5, reverberation=0.2, noise=0.3, gain=0.0, snr_db=(15.0, 40.0))
"""Augmentation of waves."""
TRIES = 3
"""Candidate positions drawn per crop; the loudest is used, since many clips end in digital silence."""


Waves = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class SmallEncoderConfig:
    """Training of an encoder on a few hundred clips."""

    encoder: AudioEncoderConfig = SMALL
    crop_s: float = 2.5
    """Length of a crop in seconds."""
    batch: int = 16
    epochs: int = 30
    least_steps: int = 60
    """Minimum number of steps, if the epochs have fewer."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, weight_decay=0.05, schedule="cosine", gradient_clip=5.0)
    )
    """Optimiser; warm-up and decay are scaled to the number of steps."""
    longest_s: float = 10.0
    """Maximum length of a validation clip in seconds."""


def train_on_labels(
    train: tuple[Sequence[Path], Float[Tensor, "clips n_classes"]],
    validation: tuple[Sequence[Path], Float[Tensor, "held n_classes"]],
    *,
    seed: int,
    config: SmallEncoderConfig | None = None,
    captions: Float[Tensor, "n_classes dim"] | None = None,
    about: str = "supervised",
) -> tuple[AudioEncoder, nn.Module]:
    """Train an encoder and a classifier by cross-entropy; return both with the lowest validation loss.

    With ``captions``, the logits are cosine similarities to the classes' captions, times a learnable scale:
    the encoder is distilled into the captions' space, by these classes only.
    """
    config = config or SmallEncoderConfig()
    if captions is not None:
        config = replace(config, encoder=replace(config.encoder, dim=captions.shape[1], transform=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        encoder = AudioEncoder(config.encoder)
        classes = nn.Linear(config.encoder.dim, train[1].shape[1])
        head = classes if captions is None else CaptionHead(captions)
        crops, held = Crops(train[0], config), Crops(validation[0], config)
        modules, epoch = nn.ModuleList([encoder, head]), -(-len(train[0]) // config.batch)
        steps = max(config.epochs * epoch, config.least_steps)
        warmup = max(steps // 20, 1)
        optim = replace(config.optim, warmup_steps=warmup, decay_steps=max(steps - warmup, 1))
        player = Player(modules, optim)
        best, least = copy.deepcopy(modules.state_dict()), float("inf")
        for step in tqdm(range(steps), desc=about, unit="step", delay=2.0, leave=False):
            modules.train()
            index = _chosen(len(train[0]), config.batch, seed, step)
            wave, targets = crops.draw(index, (seed, step)), train[1][index]
            player.step(F.cross_entropy(head(encode_augmented(encoder, wave)), targets))
            if (step + 1) % (5 * epoch) == 0 or step + 1 == steps:
                modules.eval()
                loss = _validation_loss(encoder, head, held, validation[1])
                if loss < least:
                    best, least = copy.deepcopy(modules.state_dict()), loss
    modules.load_state_dict(best)
    return encoder.eval(), head.eval()


def encode_augmented(encoder: AudioEncoder, wave: Waves) -> Float[Tensor, "batch dim"]:
    """Embed waves with augmented spectrograms: changed speed, masked frames and bands."""
    level = encoder.spectrogram(wave)
    lengths = torch.full((len(level),), level.shape[-1], device=level.device)
    level, _ = change_speed(level, lengths, MASKS.speed)
    return encoder.transform(encoder.trunk(mask(level, MASKS)[:, None]).mean((2, 3)))


def _chosen(n_clips: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Return the clip indices of a step; each epoch is a permutation of the clips."""
    epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), n_clips)
    orders = {e: np.random.default_rng([seed, int(e)]).permutation(n_clips) for e in set(epochs)}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs, places)])


class Crops:
    """Random augmented crops of clips in memory, by address."""

    def __init__(self, paths: Sequence[Path], config: SmallEncoderConfig) -> None:
        rows, rate = [Row(path=path) for path in paths], config.encoder.sample_rate
        self.recordings = Recordings(rows, sample_rate=rate, silence_db=-200.0, progress=False)
        self.crop_samples, self.longest_samples = round(config.crop_s * rate), round(config.longest_s * rate)
        self.augment = Augment(CHANGES, rate)

    def draw(self, indices: Int[np.ndarray, "batch"], address: Sequence[int]) -> Waves:
        """Return an augmented crop of each clip; the same address gives the same crops."""
        rng = np.random.default_rng(list(address))
        wave = torch.from_numpy(np.stack([self._loudest(int(i), rng) for i in indices]))[:, None]
        return self.augment(wave, torch.Generator().manual_seed(int(rng.integers(2**62))))

    def whole(self, index: int) -> Float[Tensor, "1 1 samples"]:
        """Return the beginning of a clip, for validation, without augmentation."""
        n_samples = min(int(self.recordings.lengths[index]), self.longest_samples)
        return torch.from_numpy(self.recordings.read(index, 0, n_samples))[None, None]

    def _loudest(self, index: int, rng: np.random.Generator) -> Float[np.ndarray, "samples"]:
        room = max(int(self.recordings.lengths[index]) - self.crop_samples, 0)
        starts = rng.integers(room + 1, size=TRIES if room else 1)
        crops = [self.recordings.read(index, int(start), self.crop_samples) for start in starts]
        return max(crops, key=lambda crop: float(np.square(crop).sum()))


@torch.no_grad()
def _validation_loss(encoder: AudioEncoder, head: nn.Module, held: Crops, targets: Tensor) -> float:
    logits = torch.cat([head(encoder(held.whole(i))) for i in range(len(targets))])
    return float(F.cross_entropy(logits, targets))
