"""Small encoders trained here on a corpus' own training clips: by labels, by captions, or by neither."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from engine.optim import OptimConfig, Player
from engine.seeding import step_seed
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.losses import LogitScale, clip_loss
from pretrain.probe.crops import Crops
from pretrain.probe.perceptron import CaptionHead
from pretrain.spectral_augment import AugmentConfig, change_speed, mask

SMALL = AudioEncoderConfig(hop=512, width=16, blocks=(1, 1, 1, 1), dim=128, transform=False)
"""A ResNet-10 of 0.31 million parameters on the paper's spectrogram, of fewer frames."""
MASKS = AugmentConfig(speed=0.2, time_masks=2, time_mask_frames=16, band_masks=2, band_mask_bands=24)
"""What is done to spectrograms while training."""


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
    mix: float = 0.0
    """Share of batches whose crops are mixed in pairs, and their targets too (Tokozume et al., 2018)."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, weight_decay=0.05, schedule="cosine", gradient_clip=5.0)
    )
    """Its decay is stretched over the training."""
    longest_s: float = 10.0
    """Seconds of a validation clip that are heard."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise UserError(f"epochs={self.epochs} must be at least 1 and batch={self.batch} at least 2")

    def steps(self, n_clips: int) -> int:
        """Updates of a training on so many clips."""
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
        head = (
            CaptionHead(captions)
            if captions is not None
            else nn.Linear(config.encoder.dim, train[1].shape[1])
        )
        crops, held = (_crops(paths, config) for paths in (train[0], validation[0]))
        steps, modules = config.steps(len(train[0])), nn.ModuleList([encoder, head])
        player = Player(modules, _stretched(config.optim, steps))
        every = max(1, -(-len(train[0]) // config.batch))
        best, least = copy.deepcopy(modules.state_dict()), float("inf")
        for step in tqdm(range(steps), desc=about, unit="step", delay=2.0, leave=False):
            modules.train()
            index = _chosen(len(train[0]), config.batch, seed, step)
            wave, targets = crops.draw(index, (seed, step)), train[1][index]
            wave, targets = _mixed(wave, targets, config.mix)
            player.descend(F.cross_entropy(head(encode_changed(encoder, wave)), targets))
            if (step + 1) % (5 * every) == 0 or step + 1 == steps:
                modules.eval()
                loss = _validation_loss(encoder, head, held, validation[1], config)
                if loss < least:
                    best, least = copy.deepcopy(modules.state_dict()), loss
    modules.load_state_dict(best)
    return encoder.eval(), head.eval()


def train_on_sound(
    paths: Sequence[Path], *, seed: int, config: SmallEncoderConfig | None = None, about: str = "contrastive"
) -> AudioEncoder:
    """Train an encoder without labels: of all crops in a batch, which other is of the same clip?

    The contrastive loss of COLA and SimCLR on two differently changed crops of each clip, through a
    projection that is thrown away.
    """
    config = config or SmallEncoderConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        encoder, dim = AudioEncoder(config.encoder), config.encoder.dim
        projection = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        scale, crops = LogitScale(), _crops(paths, config)
        modules, steps = nn.ModuleList([encoder, projection, scale]), config.steps(len(paths))
        player = Player(modules, _stretched(config.optim, steps))
        modules.train()
        for step in tqdm(range(steps), desc=about, unit="step", delay=2.0, leave=False):
            index = _chosen(len(paths), config.batch, seed, step)
            views = [projection(encode_changed(encoder, crops.draw(index, (seed, step, i)))) for i in (0, 1)]
            player.descend(clip_loss(views[0], views[1], scale(), gathered=False))
            scale.clamp()
    return encoder.eval()


def encode_changed(
    encoder: AudioEncoder, wave: Float[Tensor, "batch 1 samples"]
) -> Float[Tensor, "batch dim"]:
    """The embedding of a spectrogram played faster or slower, with stretches and bands hidden."""
    level = encoder.spectrogram(wave)
    lengths = torch.full((len(level),), level.shape[-1], device=level.device)
    level, _ = change_speed(level, lengths, MASKS.speed)
    return encoder.transform(encoder.trunk(mask(level, MASKS)[:, None]).mean((2, 3)))


def _crops(paths: Sequence[Path], config: SmallEncoderConfig) -> Crops:
    return Crops(paths, sample_rate=config.encoder.sample_rate, crop_s=config.crop_s)


def _stretched(optim: OptimConfig, steps: int) -> OptimConfig:
    warmup = max(steps // 20, 1)
    return replace(optim, warmup_steps=warmup, decay_steps=max(steps - warmup, 1))


def _chosen(n_clips: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The clips of a step: each once an epoch, in an order of the epoch's own."""
    places = np.arange(step * batch, (step + 1) * batch)
    orders = {e: np.random.default_rng([seed, int(e)]).permutation(n_clips) for e in set(places // n_clips)}
    return np.array([orders[place // n_clips][place % n_clips] for place in places])


def _mixed(wave: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Mix every crop with another of the batch, both at unit power, by one ratio for all."""
    if float(torch.rand(())) >= share:
        return wave, targets
    wave = wave / wave.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-5)
    ratio, other = float(torch.rand(())), torch.randperm(len(wave))
    return ratio * wave + (1 - ratio) * wave[other], ratio * targets + (1 - ratio) * targets[other]


@torch.no_grad()
def _validation_loss(
    encoder: AudioEncoder, head: nn.Module, held: Crops, targets: Tensor, config: SmallEncoderConfig
) -> float:
    longest = round(config.longest_s * config.encoder.sample_rate)
    losses = [
        F.cross_entropy(head(encoder(held.whole(i, longest))), targets[i : i + 1])
        for i in range(len(targets))
    ]
    return float(torch.stack(losses).mean())
