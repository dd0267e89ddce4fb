"""Wav2CLIP in a synthetic audio-visual world: train a small CLIP, distil it into an audio encoder, evaluate.

accelerate launch pretrain/wav2clip.py --preset world --loop.out runs/world

Nothing is downloaded, and the same command resumes an interrupted run. The run's folder then contains
``clip`` (in open_clip's format), ``export`` (the audio encoder), ``report.json`` and ``answers.png``.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from data.batches import Address, Batches
from data.synthetic.world import World
from engine.checkpoint import export
from engine.config import free
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import OptimConfig
from engine.seeding import seed_step
from engine.user_error import UserError, at_least
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.audio_images import AudioImageBatch
from pretrain.clip.distillation import Distillation, DistillationConfig, PlateauConfig
from pretrain.clip.small_clip import SmallCLIPConfig, save_small_clip, train_small_clip
from pretrain.clip.towers import Towers, TowersConfig, open_towers
from pretrain.clip.world_report import Study, write_report

FRESH = 1 << 30
"""Upper bound of draw numbers of training sounds, large enough that none is repeated."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Wav2CLIP in a synthetic audio-visual world."""

    KIND: ClassVar[str] = "world_training"
    clip: SmallCLIPConfig = field(default_factory=SmallCLIPConfig)
    """The small CLIP; its learning rate is still high at the last step, since there are few steps."""
    clip_steps: int = 160
    """Training steps of the small CLIP."""
    draws: int = 3
    """Images per training combination; sounds are generated for every batch."""
    encoder: AudioEncoderConfig = field(
        default_factory=lambda: AudioEncoderConfig(width=16, hop=353, dim=128, hidden=256)
    )
    """The audio encoder; its ``dim`` and ``teacher`` are replaced by the small CLIP's values."""
    distillation: DistillationConfig = field(
        default_factory=lambda: DistillationConfig(loss="clip", plateau=PlateauConfig(patience=0))
    )
    batch: int = 256
    """Sounds per batch, all of different combinations."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=2e-3,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup_steps=20,
            schedule="cosine",
            decay_steps=230,
            gradient_clip=1.0,
        )
    )
    control: Literal["shuffled", "none"] = free("shuffled")
    """shuffled: also distil a control encoder from mismatched pairs, which should score at chance level."""
    n_sounds: int = free(3)
    """Sounds per held-out combination used as retrieval queries."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            out=Path("runs/world"), steps=250, save_every=50, sample_every=0, log_every=10, threads=2
        )
    )

    def __post_init__(self) -> None:
        at_least(1, self, "clip_steps", "draws", "n_sounds")
        if self.batch < 2:
            raise UserError(f"batch={self.batch} must be at least 2: the negatives are the other sounds")


class WorldPairs(Dataset[AudioImageBatch]):
    """Batches by address of new sounds, each with an image embedding of its combination.

    ``partner``: the combination that each combination's image is taken from; by default itself.
    """

    def __init__(
        self, world: World, images: Float[Tensor, "n dim"], batch: int, partner: np.ndarray | None = None
    ) -> None:
        self.world, self.images, self.batch = world, images, min(batch, world.n_combinations)
        self.partner = np.arange(world.n_combinations) if partner is None else partner

    def __getitem__(self, address: Address) -> AudioImageBatch:
        rng = np.random.default_rng(list(address))
        chosen = rng.choice(self.world.n_combinations, self.batch, replace=False)
        sounds = chosen + self.world.n_combinations * rng.integers(self.world.draws, FRESH, self.batch)
        draws = rng.integers(self.world.draws, size=self.batch)
        pictures = self.partner[chosen] + self.world.n_combinations * draws
        return AudioImageBatch(self.world.waves(sounds), self.images[pictures], torch.from_numpy(chosen))


def run(config: WorldConfig) -> dict[str, Any]:
    """Run or resume the study and return the report."""
    here, out = accelerator(config.loop), config.loop.out
    seconds = {"start-up": time.process_time()}
    world = World(config.loop.seed, "train", draws=config.draws)
    with timed("drawing", seconds):
        pictures = world.pictures(world.indices)
    with timed("small CLIP", seconds):
        towers = small_towers(config, world, pictures).to(here.device)
    with timed("embedding", seconds):
        images = towers.images(pictures).cpu()
    with timed("distillation", seconds):
        encoder = distil(config, towers, WorldPairs(world, images, config.batch))
    seed_step(config.loop.seed, 0)
    encoders = {"distilled": encoder, "random": AudioEncoder(encoder.config).to(here.device).eval()}
    if config.control == "shuffled":
        with timed("shuffled pairs", seconds):
            wrong = WorldPairs(world, images, config.batch, derangement(world.n_combinations))
            control = replace(config, loop=replace(config.loop, out=out / "shuffled"))
            encoders["shuffled"] = distil(control, towers, wrong)
    if not here.is_main_process:
        return {}
    exported = export(out / "export", encoder.config, encoder)
    held_out = World(config.loop.seed, "held_out", draws=config.n_sounds)
    study = Study(towers=towers, encoders=encoders, held_out=held_out)
    return write_report(study, out, seconds, exported)


@contextmanager
def timed(phase: str, seconds: dict[str, float]) -> Iterator[None]:
    began = time.process_time()
    yield
    seconds[phase] = time.process_time() - began


def small_towers(config: WorldConfig, world: World, pictures: Tensor) -> Towers:
    """Train the small CLIP unless it is trained, save it in the run's folder, and load it from there."""
    here, out = accelerator(config.loop), config.loop.out
    loop = replace(config.loop, out=out / "clip_training", steps=config.clip_steps, keep=1)
    captions, groups = world.captions(world.indices), world.groups(world.indices)
    clip = train_small_clip(pictures, captions, groups, config.clip, loop)
    if here.is_main_process:
        save_small_clip(clip, out / "clip", half=True)
    here.wait_for_everyone()
    return open_towers(TowersConfig(name=str(out / "clip")))


def distil(config: WorldConfig, towers: Towers, pairs: WorldPairs) -> AudioEncoder:
    """Train, or resume training, an audio encoder on the image embeddings."""
    here = accelerator(config.loop)
    config = replace(config, encoder=replace(config.encoder, dim=towers.dim, teacher=towers.key))
    sizes = config.distillation, config.encoder, towers.dim, config.optim
    batches = Batches(pairs, **addressing(config.loop, here))
    task, _ = fit(lambda: Distillation(*sizes), batches, config.loop, full_config=config)
    return task.encoder.eval()


def derangement(n: int) -> np.ndarray:
    """Return a random permutation without fixed points."""
    order = np.random.default_rng(0).permutation(n)
    shuffled = np.empty(n, dtype=int)
    shuffled[order] = np.roll(order, 1)
    return shuffled
