"""What the probes train: linear layers and perceptrons on frozen embeddings, or a small encoder anew."""

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
from engine.user_error import UserError, at_least
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.losses import LogitScale
from pretrain.spectral_augment import AugmentConfig, change_speed, mask


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
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


def fit_linear(
    train: Float[Tensor, "clips dim"], labels: Int[Tensor, "clips"], *, penalty: float = 1e-2
) -> Callable[[Float[Tensor, "others dim"]], Int[Tensor, "others"]]:
    """Fit a multinomial logistic regression on standardised vectors and return what tells others' labels.

    ``penalty`` is half the weight of the squared norm beside the mean cross-entropy. The problem is convex
    and solved to the end: no seed enters.
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
"""A ResNet-10 of 0.31 million parameters on the paper's spectrogram, of fewer frames."""
MASKS = AugmentConfig(speed=0.2, time_masks=2, time_mask_frames=16, band_masks=2, band_mask_bands=24)
"""Changes of spectrograms while training."""
CHANGES = WaveAugmentConfig(eq=0.5, reverberation=0.2, noise=0.3, gain=0.0, snr_db=(15.0, 40.0))
"""Changes of waves while training."""
TRIES = 3
"""Places drawn for a crop, of which the loudest is taken: many clips end in digital silence."""


@dataclass(frozen=True, kw_only=True)
class SmallEncoderConfig:
    """The training of an encoder on some hundred clips."""

    encoder: AudioEncoderConfig = SMALL
    crop_s: float = 2.5
    """Seconds of a crop."""
    batch: int = 16
    """Crops in a step."""
    epochs: int = 30
    """Passes over the clips."""
    least_steps: int = 60
    """Steps however few the clips."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, weight_decay=0.05, schedule="cosine", gradient_clip=5.0)
    )
    """Its decay is stretched over the training."""
    longest_s: float = 10.0
    """Seconds of a validation clip that are used."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise UserError(f"epochs={self.epochs} must be at least 1 and batch={self.batch} at least 2")

    def steps(self, n_clips: int) -> int:
        return max(self.epochs * -(-n_clips // self.batch), self.least_steps)


def train_on_labels(
    train: tuple[Sequence[Path], Float[Tensor, "clips n_classes"]],
    validation: tuple[Sequence[Path], Float[Tensor, "held n_classes"]],
    *,
    seed: int,
    config: SmallEncoderConfig | None = None,
    captions: Float[Tensor, "n_classes dim"] | None = None,
    about: str = "supervised",
) -> tuple[AudioEncoder, nn.Module]:
    """Train an encoder and its classifier by cross-entropy; return both as of the least validation loss.

    With ``captions`` the classifier is no layer but the cosine with each class' caption, times a learnable
    scale: the encoder is distilled into the captions' space, of which it sees these classes alone.
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
        steps, modules = config.steps(len(train[0])), nn.ModuleList([encoder, head])
        warmup = max(steps // 20, 1)
        optim = replace(config.optim, warmup_steps=warmup, decay_steps=max(steps - warmup, 1))
        player = Player(modules, optim)
        every = max(1, -(-len(train[0]) // config.batch))
        best, least = copy.deepcopy(modules.state_dict()), float("inf")
        for step in tqdm(range(steps), desc=about, unit="step", delay=2.0, leave=False):
            modules.train()
            index = _chosen(len(train[0]), config.batch, seed, step)
            wave, targets = crops.draw(index, (seed, step)), train[1][index]
            player.step(F.cross_entropy(head(encode_changed(encoder, wave)), targets))
            if (step + 1) % (5 * every) == 0 or step + 1 == steps:
                modules.eval()
                loss = _validation_loss(encoder, head, held, validation[1], config)
                if loss < least:
                    best, least = copy.deepcopy(modules.state_dict()), loss
    modules.load_state_dict(best)
    return encoder.eval(), head.eval()


def encode_changed(
    encoder: AudioEncoder, wave: Float[Tensor, "batch 1 samples"]
) -> Float[Tensor, "batch dim"]:
    """Embed spectrograms played faster or slower, with stretches and bands masked."""
    level = encoder.spectrogram(wave)
    lengths = torch.full((len(level),), level.shape[-1], device=level.device)
    level, _ = change_speed(level, lengths, MASKS.speed)
    return encoder.transform(encoder.trunk(mask(level, MASKS)[:, None]).mean((2, 3)))


def _chosen(n_clips: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The clips of a step: each once an epoch, in an order of the epoch's own."""
    places = np.arange(step * batch, (step + 1) * batch)
    orders = {e: np.random.default_rng([seed, int(e)]).permutation(n_clips) for e in set(places // n_clips)}
    return np.array([orders[place // n_clips][place % n_clips] for place in places])


class Crops:
    """Random, changed crops of a few clips in memory, by address."""

    def __init__(self, paths: Sequence[Path], config: SmallEncoderConfig) -> None:
        rows, rate = [Row(path=path) for path in paths], config.encoder.sample_rate
        self.recordings = Recordings(rows, sample_rate=rate, silence_db=-200.0, progress=False)
        self.crop_samples, self.augment = round(config.crop_s * rate), Augment(CHANGES, rate)

    def draw(
        self, indices: Int[np.ndarray, "batch"], address: Sequence[int]
    ) -> Float[Tensor, "batch 1 samples"]:
        """Return a changed crop of each clip; the same address gives the same crops."""
        rng = np.random.default_rng(list(address))
        wave = torch.from_numpy(np.stack([self._loudest(int(i), rng) for i in indices]))[:, None]
        return self.augment(wave, torch.Generator().manual_seed(int(rng.integers(2**62))))

    def whole(self, index: int, longest: int) -> Float[Tensor, "1 1 samples"]:
        """Return the first ``longest`` samples of a clip, as they are."""
        n_samples = min(int(self.recordings.lengths[index]), longest)
        return torch.from_numpy(self.recordings.read(index, 0, n_samples))[None, None]

    def _loudest(self, index: int, rng: np.random.Generator) -> Float[np.ndarray, "samples"]:
        room = max(int(self.recordings.lengths[index]) - self.crop_samples, 0)
        starts = rng.integers(room + 1, size=TRIES if room else 1)
        crops = [self.recordings.read(index, int(start), self.crop_samples) for start in starts]
        return max(crops, key=lambda crop: float(np.square(crop).sum()))


@torch.no_grad()
def _validation_loss(
    encoder: AudioEncoder, head: nn.Module, held: Crops, targets: Tensor, config: SmallEncoderConfig
) -> float:
    longest = round(config.longest_s * config.encoder.sample_rate)
    logits = [head(encoder(held.whole(i, longest))) for i in range(len(targets))]
    losses = [F.cross_entropy(of, target[None]) for of, target in zip(logits, targets)]
    return float(torch.stack(losses).mean())
