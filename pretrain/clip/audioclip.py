"""AudioCLIP (Guzhov et al., 2022): joint training of image, text and audio heads by CLIP's loss per pair."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor, nn

from data.audiovisual.scenes import Scene
from data.batches import Batches
from engine.checkpoint import export, save_weights
from engine.config import free
from engine.files import write_json
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import OptimConfig, Player
from engine.seeding import seed_step
from engine.user_error import UserError, at_least
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.audio_images import AudioImageClips, AudioImageConfig, in_epochs, split_scenes
from pretrain.clip.distillation import WAV2CLIP_OPTIM, PlateauConfig, PlateauPlayer
from pretrain.clip.losses import LogitScale, Rows, clip_loss, retrieval
from pretrain.clip.small_clip import SmallCLIP, SmallCLIPConfig, save_small_clip, train_tokeniser
from pretrain.clip.towers import FOLDER_CONFIG, HUB, OWN_WEIGHTS, Towers, TowersConfig, open_towers
from pretrain.clip.triples import Triple, Triples, descriptions_of, with_descriptions

WEIGHTS = "open_clip_model.safetensors"
PAIRS = (("audio", "image"), ("audio", "text"), ("image", "text"))


@dataclass(frozen=True, kw_only=True)
class ThreeHeadsConfig:
    """Loss weights, and the optimiser of CLIP's heads."""

    audio_image: float = 1.0
    """Weight of the loss between sounds and images."""
    audio_text: float = 1.0
    """Weight of the loss between sounds and captions."""
    image_text: float = 1.0
    """Weight of the loss between images and captions."""
    towers: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-5, betas=(0.9, 0.999)))
    """Optimiser of the image and text heads, which are initialised by CLIP; the audio head uses ``optim``."""
    plateau: PlateauConfig = field(default_factory=PlateauConfig)

    def __post_init__(self) -> None:
        at_least(0, self, "audio_image", "audio_text", "image_text", prefix="heads.")


@dataclass(frozen=True, kw_only=True)
class AudioCLIPConfig:
    """Joint training of an audio encoder and CLIP's two towers."""

    KIND: ClassVar[str] = "audioclip_training"
    encoder: AudioEncoderConfig = field(default_factory=AudioEncoderConfig)
    """The audio encoder; its ``dim`` is replaced by the towers'."""
    heads: ThreeHeadsConfig = field(default_factory=ThreeHeadsConfig)
    data: AudioImageConfig = field(default_factory=AudioImageConfig)
    towers: TowersConfig | SmallCLIPConfig = field(default_factory=TowersConfig)
    """The towers' initial weights: a trained CLIP, or (SmallCLIPConfig) a small one at random."""
    optim: OptimConfig = WAV2CLIP_OPTIM
    """Optimiser of the audio head."""
    max_epochs: int = free(30)
    """Maximum number of passes through the clips, with an evaluation in each, even if ``loop.steps`` is
    larger; 0: no limit, ``loop.steps`` applies."""
    loop: LoopConfig = field(default_factory=LoopConfig)


class ThreeHeads:
    """The training task: an audio encoder and CLIP's towers, all trained.

    ``towers`` is modified in place: its parameters are unfrozen and trained.
    """

    def __init__(
        self,
        config: ThreeHeadsConfig,
        encoder_config: AudioEncoderConfig,
        towers: Towers,
        optim: OptimConfig,
        validation: Sequence[Triple] = (),
        evaluated_every: int = 1,
    ) -> None:
        if encoder_config.dim != towers.dim:
            raise UserError(f"the encoder's dim={encoder_config.dim} must be the towers' {towers.dim}")
        self.config, self.validation, self.evaluated_every = config, validation, max(evaluated_every, 1)
        self.encoder, self.towers = AudioEncoder(encoder_config), towers
        self.scales = nn.ModuleDict({f"{one}_{other}": LogitScale() for one, other in PAIRS})
        towers.clip.requires_grad_(True)
        parts: dict[str, nn.Module] = {"encoder": self.encoder, "towers": towers.clip, "scales": self.scales}
        self.modules = parts
        self.frozen: dict[str, nn.Module] = {"preparation": towers}
        self.plateaus = {
            "audio": PlateauPlayer([self.encoder, self.scales], optim, config.plateau, "audio"),
            "towers": PlateauPlayer(towers.clip, config.towers, config.plateau, "towers"),
        }
        self.players: dict[str, Player] = {**self.plateaus}

    def update(self, batch: Triple, step: int) -> Mapping[str, Tensor]:
        self._train(True)
        losses = self.losses(self.embed(batch))
        total = torch.stack([getattr(self.config, pair) * loss for pair, loss in losses.items()]).sum()
        for player in self.plateaus.values():
            player.synchronise()
        self.players["towers"].step(total, retain_graph=True)
        self.players["audio"].step(total)
        for scale in self.scales.values():
            scale.clamp()  # pyright: ignore[reportCallIssue]
        return {f"loss/audio/{pair}": loss for pair, loss in losses.items()}

    def embed(self, batch: Triple) -> dict[str, Rows]:
        text = self.towers.clip.encode_text(batch.tokens)  # pyright: ignore[reportCallIssue]
        return {
            "audio": self.encoder(batch.sounds.wave),
            "image": self.towers.embed(batch.picture.float() / 255),
            "text": F.normalize(text.float(), dim=-1),
        }

    def losses(self, heads: Mapping[str, Rows], *, gathered: bool = True) -> dict[str, Float[Tensor, ""]]:
        """Return the contrastive loss of each pair of heads, by name."""
        scales = {pair: self.scales["_".join(pair)]() for pair in PAIRS}
        return {
            f"{one}_{other}": clip_loss(heads[one], heads[other], scale, gathered=gathered)
            for (one, other), scale in scales.items()
        }

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        if not self.validation:
            return {}
        self._train(False)
        device = next(self.encoder.parameters()).device
        embedded, losses = [], {f"{one}_{other}": 0.0 for one, other in PAIRS}
        for batch in self.validation:
            heads = self.embed(Triple(*send_to_device(batch, device)))
            embedded.append(heads)
            for name, value in self.losses(heads, gathered=False).items():
                losses[name] += float(value) * len(heads["audio"])
        whole = {name: torch.cat([heads[name] for heads in embedded]) for name in embedded[0]}
        losses = {name: total / len(whole["audio"]) for name, total in losses.items()}
        loss = sum(getattr(self.config, name) * value for name, value in losses.items())
        if step % self.evaluated_every == 0:
            for player in self.plateaus.values():
                player.observe(loss)
        scores = {f"loss/{name}": value for name, value in losses.items()} | {"loss": loss}
        for one, other in (*PAIRS, *((other, one) for one, other in PAIRS)):
            recalls = retrieval(whole[one], whole[other])
            scores |= {f"{one}_to_{other}/{name}": value for name, value in recalls.items()}
        return scores

    def _train(self, training: bool) -> None:
        for module in self.modules.values():
            module.train(training)


def train_three_heads(config: AudioCLIPConfig) -> ThreeHeads:
    """Train, write RUN/export (the audio encoder) and RUN/clip (the towers), and return the task."""
    here, loop, data = accelerator(config.loop), config.loop, config.data
    train, held_out = (with_descriptions(scenes, data.path) for scenes in split_scenes(data))
    with here.main_process_first():
        start = first_towers(config, train)
    towers = open_towers(start)
    config = replace(config, encoder=replace(config.encoder, dim=towers.dim))

    def triples(scenes: Sequence[Scene], batch: int, n_ranks: int = 1, accumulate: int = 1) -> Triples:
        ranks = {"n_ranks": n_ranks, "accumulate": accumulate}
        no_images, part = torch.zeros(len(scenes), 1), replace(data, batch=batch)
        return Triples(AudioImageClips(scenes, no_images, part, config.encoder, **ranks), towers)

    clips = triples(train, data.batch, here.num_processes, loop.accumulate)
    n_held_out = len(held_out)
    validation = triples(held_out, min(data.batch, n_held_out)).first(n_held_out) if n_held_out > 1 else []
    loop = in_epochs(loop, config.max_epochs, clips.sounds.steps_per_epoch)

    def build() -> ThreeHeads:
        sizes = config.heads, config.encoder, towers, config.optim
        return ThreeHeads(*sizes, validation=validation, evaluated_every=loop.sample_every)

    task, _ = fit(build, Batches(clips, **addressing(loop, here)), loop, full_config=config)
    if here.is_main_process:
        folder = save_towers(task.towers, start, loop.out / "clip")
        trained = replace(config.encoder, teacher=open_towers(TowersConfig(name=str(folder))).key)
        encoder = export(loop.out / "export", trained, task.encoder.eval())
        print(f"exported to {encoder}, the towers to {folder}")
    return task


def first_towers(config: AudioCLIPConfig, scenes: Sequence[Scene]) -> TowersConfig:
    """Return the config of the initial weights, after creating them in the run if they are random."""
    towers, folder = config.towers, config.loop.out / "start"
    if isinstance(towers, TowersConfig):
        return towers
    if not (folder / FOLDER_CONFIG).is_file():
        seed_step(config.loop.seed, 0)
        texts = [text for scene in scenes for text in descriptions_of(scene)]
        save_small_clip(SmallCLIP(towers, train_tokeniser(texts, towers)), folder)
    return TowersConfig(name=str(folder))


def save_towers(towers: Towers, start: TowersConfig, folder: Path) -> Path:
    """Write trained towers as a folder for open_clip and ``TowersConfig(name=folder)``."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    source = _folder_of(start)
    if source is not None:  # same architecture and tokeniser
        for file in source.iterdir():
            if file.is_file() and file.suffix not in OWN_WEIGHTS:
                shutil.copyfile(file, folder / file.name)
    else:
        sizes: dict[str, Any] = open_clip.get_model_config(start.name) or {}
        tag = open_clip.get_pretrained_cfg(start.name, start.pretrained) or {}
        if tag.get("quick_gelu"):
            sizes["quick_gelu"] = True
        settings = towers.clip.visual.preprocess_cfg  # pyright: ignore[reportAttributeAccessIssue]
        write_json(folder / FOLDER_CONFIG, {"model_cfg": sizes, "preprocess_cfg": settings})
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
        raise UserError(f"the configuration of {towers.name} cannot be downloaded: {error}") from None
