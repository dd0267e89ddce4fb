"""Train a causal network to estimate F0.

accelerate launch pretrain/f0.py --data.path FOLDER --loop.out runs/f0

The labels come from non-causal trackers that process whole recordings. The trained network initialises the
converter's: ``w2w/train.py --pretrained.pitch runs/f0``.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

if __package__ in (None, ""):  # run as a file: this folder is on the import path, its parent is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.augment import Augment, AugmentConfig
from data.batches import Batches
from data.recordings import end_training
from engine.checkpoint import export
from engine.config import cli
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import EMA, OptimConfig, Player
from engine.user_error import exits_cleanly
from pretrain.pitch.labels import LabelledPitch, PitchDataConfig, PitchLabels
from pretrain.pitch.network import LearnedPitchTracker, PitchNetworkConfig
from pretrain.pitch.tracker import BINS_PER_OCTAVE

BLUR = 1.0
"""Standard deviation, in bins, of the Gaussian target around a label's F0 (Kim et al. 2018, eq. 4)."""


@dataclass(frozen=True, kw_only=True)
class PitchTrainConfig:
    """Training of a causal F0 tracker."""

    model: PitchNetworkConfig = field(default_factory=PitchNetworkConfig)
    data: PitchDataConfig = field(default_factory=PitchDataConfig)
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(eq=0.3, noise=0.5, hum=0.3, knock=0.3, gain=0.0)
    )
    """Augmentation of the network's input."""
    ema: float = 0.998
    """Decay of the exponential moving average of the weights, which is exported."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


SMALL = PitchTrainConfig(
    optim=OptimConfig(
        lr=2e-3, warmup_steps=100, schedule="cosine", decay_steps=2_900, final=0.02, gradient_clip=1.0
    ),
    loop=LoopConfig(out=Path("runs/f0"), steps=3_000, save_every=250, sample_every=0),
)
PRESETS = {
    "small": SMALL,
    "tiny": replace(
        SMALL,
        model=PitchNetworkConfig(n_channels=8, n_blocks=1),
        data=PitchDataConfig(batch=2, crop_frames=30),
        loop=replace(SMALL.loop, steps=4, save_every=2, log_every=1),
    ),
}


class PitchTask:
    """The training task: predict the labels of clean clips from augmented ones."""

    def __init__(self, config: PitchTrainConfig) -> None:
        self.config = config
        self.tracker = LearnedPitchTracker(config.model)
        self.ema = EMA(self.tracker, config.ema)
        self.modules: dict[str, nn.Module] = {"tracker": self.tracker, "ema": self.ema.module}
        self.players = {"tracker": Player(self.tracker, config.optim, "tracker")}
        self.augment = Augment(config.augment, config.model.sample_rate)

    def update(self, batch: LabelledPitch, step: int) -> Mapping[str, Tensor]:
        rng = torch.Generator(batch.wave.device).manual_seed(int(torch.randint(2**31, ())))
        wave = self.augment(batch.wave, rng)
        logits, _ = self.tracker.logits(wave, self.tracker.begin(len(wave)))
        target = self.soft_target(batch.log_f0)
        cross_entropy = -(target * logits.bins.log_softmax(1)).sum(1, keepdim=True)
        losses = {
            "f0": (cross_entropy * batch.weight).sum() / batch.weight.sum().clamp_min(1.0),
            "voicing": F.binary_cross_entropy_with_logits(logits.voicing, batch.voicing),
        }
        self.players["tracker"].step(losses["f0"] + losses["voicing"])
        self.ema.update(step)
        with torch.no_grad():
            error = (self.tracker.decode(logits).log_f0 - batch.log_f0).abs()
            off = error > 0.25 * torch.log(torch.tensor(2.0))  # a quarter of an octave
            voiced = batch.weight * (batch.voicing > 0.5)
            gross = (off * voiced).sum() / voiced.sum().clamp_min(1.0)
        named = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        return named | {"gross_error": gross}

    def soft_target(self, log_f0: Float[Tensor, "batch 1 frames"]) -> Float[Tensor, "batch bins frames"]:
        """Return each frame's target distribution over F0 bins: a Gaussian around the label."""
        bins = self.tracker.log_f0[:, None] * BINS_PER_OCTAVE / torch.log(torch.tensor(2.0))
        offset = bins - log_f0 * BINS_PER_OCTAVE / torch.log(torch.tensor(2.0))
        return (-0.5 * (offset / BLUR).square()).softmax(1).float()


@exits_cleanly
def main() -> None:
    config = cli(PRESETS, default="small")
    here, loop = accelerator(config.loop), config.loop
    with here.main_process_first():
        store = loop.out / "labels.npy"
        labels = PitchLabels(config.data, config.model, store, progress=here.is_main_process)
    batches = Batches(labels, **addressing(loop, here))
    task, _ = fit(lambda: PitchTask(config), batches, loop, full_config=config)
    if here.is_main_process:
        print(f"exported to {export(loop.out / 'export', config.model, task.ema.module)}")
    end_training(labels)


if __name__ == "__main__":
    main()
