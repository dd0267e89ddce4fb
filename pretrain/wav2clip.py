"""Distil CLIP's image embeddings into an audio encoder (Wav2CLIP), or train three heads (AudioCLIP).

accelerate launch pretrain/wav2clip.py --preset wav2clip --data.path vggsound --towers.name ViT-B-32
"""

import sys
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

if __package__ in (None, ""):  # run as a file: this folder is on the import path, its parent is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.batches import Batches
from engine.checkpoint import export
from engine.config import cli, free, stored_kind
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import OptimConfig
from engine.user_error import exits_cleanly
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.audio_images import (
    AudioImageClips,
    AudioImageConfig,
    in_epochs,
    split_scenes,
    validation_batches,
)
from pretrain.clip.audioclip import AudioCLIPConfig, train_three_heads
from pretrain.clip.distillation import WAV2CLIP_OPTIM, Distillation, DistillationConfig
from pretrain.clip.embedded import embedded_scenes
from pretrain.clip.towers import TowersConfig, open_towers
from pretrain.clip.world_study import WorldConfig, run


@dataclass(frozen=True, kw_only=True)
class Wav2CLIPConfig:
    """An audio encoder distilled from a frozen image tower."""

    KIND: ClassVar[str] = "wav2clip_training"
    encoder: AudioEncoderConfig = field(default_factory=AudioEncoderConfig)
    """The audio encoder; its ``dim`` and ``teacher`` are replaced by the towers' values."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    data: AudioImageConfig = field(default_factory=AudioImageConfig)
    towers: TowersConfig = field(default_factory=TowersConfig)
    optim: OptimConfig = WAV2CLIP_OPTIM
    max_epochs: int = free(100)
    """Maximum number of passes through the clips, with an evaluation in each, even if ``loop.steps`` is
    larger; 0: no limit, ``loop.steps`` applies."""
    cache: Path = free(Path("runs/embeddings"))  # noqa: RUF009 - paths do not change
    """Cache folder for the teacher's embeddings, which are computed once."""
    loop: LoopConfig = field(default_factory=LoopConfig)


# VGGSound's 183,730 training clips are 1435 steps per epoch; the plateau's patience counts evaluations.
PAPER = Wav2CLIPConfig(
    loop=LoopConfig(
        out=Path("runs/wav2clip"), steps=143_500, save_every=1435, sample_every=1435, log_every=50, workers=8
    )
)
PRESETS: dict[str, Any] = {
    "wav2clip": PAPER,
    "tiny": replace(
        PAPER,
        encoder=AudioEncoderConfig(width=4, blocks=(1, 1, 1, 1), hidden=32),
        distillation=DistillationConfig(hidden=32),
        data=AudioImageConfig(crop_seconds=0.5, batch=4),
        max_epochs=0,
        loop=replace(PAPER.loop, steps=4, save_every=2, sample_every=4, log_every=2, workers=0),
    ),
    "audioclip": AudioCLIPConfig(
        data=AudioImageConfig(batch=64), loop=replace(PAPER.loop, out=Path("runs/audioclip"), steps=86_000)
    ),
    "world": WorldConfig(),
}


def train(config: Wav2CLIPConfig) -> AudioEncoder:
    here = accelerator(config.loop)
    parts = split_scenes(config.data)
    towers = open_towers(config.towers).to(here.device)
    rate = config.data.frame_rate
    training, held_out = (embedded_scenes(part, towers, config.cache, frame_rate=rate) for part in parts)
    config = replace(config, encoder=replace(config.encoder, dim=towers.dim, teacher=towers.key))
    del towers

    sizes = config.data, config.encoder
    ranks = {"n_ranks": here.num_processes, "accumulate": config.loop.accumulate}
    clips = AudioImageClips(*training, *sizes, **ranks)
    validation = validation_batches(*held_out, *sizes)
    loop = in_epochs(config.loop, config.max_epochs, clips.steps_per_epoch)

    def build() -> Distillation:
        sizes = config.distillation, config.encoder, config.encoder.dim, config.optim
        return Distillation(*sizes, validation=validation, evaluated_every=loop.sample_every)

    task, _ = fit(build, Batches(clips, **addressing(loop, here)), loop, full_config=config)
    encoder = task.encoder.eval()
    if here.is_main_process:
        print(f"exported to {export(loop.out / 'export', config.encoder, encoder)}")
    return encoder


@exits_cleanly
def main() -> None:
    # A stored config is read as the class of the first preset of its kind.
    kinds = [stored_kind(file) for word, file in pairwise(sys.argv) if word == "--config"]
    like = next((name for name, preset in PRESETS.items() if preset.KIND in kinds), None)
    match cli(PRESETS, default=like):
        case AudioCLIPConfig() as config:
            train_three_heads(config)
        case WorldConfig() as config:
            run(config)
        case config:
            train(config)


if __name__ == "__main__":
    main()
