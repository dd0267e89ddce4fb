"""A run that trains three heads: its config, the towers it begins with, and what it leaves behind."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from data.audiovisual.scenes import Scene
from engine.checkpoint import export, save_weights
from engine.config import free
from engine.loop import LoopConfig, accelerator, fit
from engine.optim import OptimConfig
from engine.seeding import seed_step
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoderConfig
from pretrain.clip.distillation import WAV2CLIP_OPTIM
from pretrain.clip.heard import HeardConfig
from pretrain.clip.scene_batches import heard_clips, in_epochs, split_scenes
from pretrain.clip.small_clip import SmallCLIP, SmallCLIPConfig, save_small_clip, train_tokeniser
from pretrain.clip.three_heads import ThreeHeads, ThreeHeadsConfig
from pretrain.clip.towers import FOLDER_CONFIG, HUB, OWN_WEIGHTS, Towers, TowersConfig, open_towers
from pretrain.clip.triples import Triples, described, words_of

WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class AudioCLIPConfig:
    """An audio encoder and CLIP's two towers, trained together."""

    KIND: ClassVar[str] = "audioclip_training"
    encoder: AudioEncoderConfig = field(default_factory=AudioEncoderConfig)
    """Its ``dim`` is set to the towers'."""
    heads: ThreeHeadsConfig = field(default_factory=ThreeHeadsConfig)
    data: HeardConfig = field(default_factory=HeardConfig)
    towers: TowersConfig | SmallCLIPConfig = field(default_factory=TowersConfig)
    """The towers' first weights: a trained CLIP's, or (SmallCLIPConfig) a small one's at random."""
    optim: OptimConfig = WAV2CLIP_OPTIM
    """Of the audio head."""
    max_epochs: int = free(30)
    """The run ends after so many passes through the clips though ``loop.steps`` be more, and is evaluated in
    each; 0: steps alone count."""
    loop: LoopConfig = field(default_factory=LoopConfig)


def train_three_heads(config: AudioCLIPConfig) -> ThreeHeads:
    """Train, write RUN/export (the audio encoder) and RUN/clip (the towers), and return the task."""
    here, loop, data = accelerator(config.loop), config.loop, config.data
    train, held_out = (described(scenes, data.path) for scenes in split_scenes(data))
    with here.main_process_first():
        start = first_towers(config.towers, train, loop)
    towers = open_towers(start)
    config = replace(config, encoder=replace(config.encoder, dim=towers.dim))

    def triples(scenes: Sequence[Scene], batch: int, n_ranks: int = 1, accumulate: int = 1) -> Triples:
        sizes = replace(data, batch=batch), config.encoder
        nothing = torch.zeros(len(scenes), 1)
        heard = heard_clips(scenes, nothing, *sizes, n_ranks=n_ranks, accumulate=accumulate)
        return Triples(scenes, heard, towers)

    clips = triples(train, data.batch, here.num_processes, loop.accumulate)
    n_held_out = len(held_out)
    validation = triples(held_out, min(data.batch, n_held_out)).first(n_held_out) if n_held_out > 1 else []
    loop = in_epochs(loop, config.max_epochs, clips.heard.steps_per_epoch)

    def build() -> ThreeHeads:
        sizes = config.heads, config.encoder, towers, config.optim
        return ThreeHeads(*sizes, validation=validation, evaluated_every=loop.sample_every)

    batches = clips.batches(loop.seed, workers=loop.workers, rank=here.process_index)
    task, _ = fit(build, batches, loop, full_config=config)
    if here.is_main_process:
        folder = save_towers(task.towers, start, loop.out / "clip")
        trained = replace(config.encoder, teacher=open_towers(TowersConfig(name=str(folder))).key)
        encoder = export(loop.out / "export", trained, task.encoder.eval())
        print(f"exported to {encoder}, the towers to {folder}")
    return task


def first_towers(
    towers: TowersConfig | SmallCLIPConfig, scenes: Sequence[Scene], loop: LoopConfig
) -> TowersConfig:
    """Return where the towers' first weights are, after making them if they are to be random."""
    if isinstance(towers, TowersConfig):
        return towers
    folder = loop.out / "start"
    if not (folder / FOLDER_CONFIG).is_file():
        seed_step(loop.seed, 0)
        words = [text for scene in scenes for text in words_of(scene)]
        save_small_clip(SmallCLIP(towers, train_tokeniser(words, towers)), folder)
    return TowersConfig(name=str(folder))


def save_towers(towers: Towers, start: TowersConfig, folder: Path) -> Path:
    """Write trained towers as a folder that open_clip, and ``TowersConfig(name=folder)``, can open."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    source = _folder_of(start)
    if source is not None:  # architecture and tokeniser as they were
        for file in source.iterdir():
            if file.is_file() and file.suffix not in OWN_WEIGHTS:
                shutil.copyfile(file, folder / file.name)
    else:
        sizes: dict[str, Any] = open_clip.get_model_config(start.name) or {}
        tag = open_clip.get_pretrained_cfg(start.name, start.pretrained) or {}
        if tag.get("quick_gelu"):
            sizes["quick_gelu"] = True
        settings = towers.clip.visual.preprocess_cfg  # pyright: ignore[reportAttributeAccessIssue]
        about = {"model_cfg": sizes, "preprocess_cfg": settings}
        (folder / FOLDER_CONFIG).write_text(json.dumps(about, indent=2) + "\n")
    save_weights(towers.clip, folder / WEIGHTS)
    return folder


def _folder_of(towers: TowersConfig) -> Path | None:
    """Return the folder with the towers' configuration; None for an architecture that open_clip knows."""
    if Path(towers.name).is_dir():
        return Path(towers.name)
    if not towers.name.startswith(HUB):
        return None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(towers.name.removeprefix(HUB), FOLDER_CONFIG)).parent
    except Exception as error:
        raise UserError(f"the configuration of {towers.name} cannot be had: {error}") from None
