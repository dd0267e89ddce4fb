"""Distilling CLIP's picture tower into an audio encoder (Wav2CLIP), its rate lowered where nothing is won.

The teacher's embeddings are data.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from engine.optim import OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import UserError, at_least, within
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig, projection
from pretrain.clip.audio_images import AudioImageBatch
from pretrain.clip.losses import LogitScale, clip_loss, cx_loss, retrieval


@dataclass(frozen=True, kw_only=True)
class PlateauConfig:
    """When the learning rate falls, and how far."""

    patience: int = 5
    """Evaluations in a row without a better validation loss before the rate falls; 0 never lowers it."""
    factor: float = 0.1
    """What the rate is then multiplied by."""
    threshold: float = 1e-4
    """Share of the best loss by which a better one must be lower."""
    least: float = 1e-3
    """Share of the first rate below which it does not fall."""

    def __post_init__(self) -> None:
        at_least(0, self, "patience", prefix="plateau.")
        within("(0, 1)", self, "factor", prefix="plateau.")
        within("(0, 1]", self, "least", prefix="plateau.")


class PlateauPlayer(Player):
    """A player whose learning rate falls with the validation loss; stored with its optimiser."""

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        config: OptimConfig,
        plateau: PlateauConfig,
        name: str = "player",
    ) -> None:
        super().__init__(modules, config, name)
        self.plateau = plateau
        self.share = 1.0
        """Of the configured learning rate."""
        self.best = math.inf
        self.waited = 0

    @property
    def lr(self) -> float:
        return self.share * super().lr

    def observe(self, loss: float) -> None:
        if loss < self.best * (1 - self.plateau.threshold):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.plateau.patience and self.waited > self.plateau.patience:
            self.share = max(self.share * self.plateau.factor, self.plateau.least)
            self.waited = 0

    def agree(self) -> None:
        """Take over the first process's learning rate, which alone evaluates."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            share = torch.tensor(self.share, dtype=torch.float64, device=self.parameters[0].device)
            dist.broadcast(share, src=0)
            self.share = float(share)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next update depends on, besides the parameters."""
        plateau = {"share": self.share, "best": self.best, "waited": self.waited}
        return {**super().state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        plateau = state["plateau"]
        self.share, self.best, self.waited = plateau["share"], plateau["best"], plateau["waited"]


WAV2CLIP_OPTIM = OptimConfig(lr=1e-3, betas=(0.9, 0.999))
"""The paper's Adam."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Which loss brings sounds to their pictures."""

    loss: Literal["clip", "cx"] = "cx"
    """clip: the embedding meets the picture in CLIP's space. cx: besides, the encoder's pooled vector meets
    the picture's projection f into its own space (the released weights)."""
    hidden: int = 512
    """Units inside the projection f."""
    dropout: float = 0.1
    """Share of those units left out in training."""
    plateau: PlateauConfig = field(default_factory=PlateauConfig)


class Distillation:
    """The task: an audio encoder, its loss's own weights, and what it is validated on.

    ``validation`` are batches scored at each evaluation; only evaluations at multiples of
    ``evaluated_every`` change the learning rate, so that a run's last one does not change its continuation.
    """

    def __init__(
        self,
        config: DistillationConfig,
        encoder_config: AudioEncoderConfig,
        image_dim: int,
        optim: OptimConfig = WAV2CLIP_OPTIM,
        validation: Sequence[AudioImageBatch] = (),
        evaluated_every: int = 1,
    ) -> None:
        if encoder_config.dim != image_dim:
            raise UserError(
                f"the encoder's dim={encoder_config.dim} must be the picture tower's {image_dim}: "
                f"set --encoder.dim {image_dim}"
            )
        if config.loss == "cx" and not encoder_config.transform:
            raise UserError("the loss cx needs the encoder's transform: choose the loss clip, or keep it")
        self.config, self.validation, self.evaluated_every = config, validation, max(evaluated_every, 1)
        self.encoder = AudioEncoder(encoder_config)
        self.modules: dict[str, nn.Module] = {"encoder": self.encoder, "scale_image": LogitScale()}
        if config.loss == "cx":
            sizes = image_dim, config.hidden, encoder_config.channels
            self.modules |= {
                "image_transform": projection(*sizes, config.dropout),
                "scale_audio": LogitScale(),
            }
        self.player = PlateauPlayer(self.modules.values(), optim, config.plateau, "encoder")
        self.players: dict[str, Player] = {"encoder": self.player}

    def update(self, batch: AudioImageBatch, step: int) -> Mapping[str, Tensor]:
        self._train(True)
        self.player.agree()
        loss = self.loss(batch)
        self.player.step(loss)
        for module in self.modules.values():
            if isinstance(module, LogitScale):
                module.clamp()
        scalars = {f"loss/encoder/{self.config.loss}": loss}
        return scalars | {
            name.replace("_", "/"): m() for name, m in self.modules.items() if isinstance(m, LogitScale)
        }

    def loss(self, batch: AudioImageBatch, *, gathered: bool = True) -> Float[Tensor, ""]:
        """Return the loss of a batch; no gradient reaches the pictures' embeddings."""
        image = batch.image.detach()
        audio = self.encoder.pooled(batch.wave)
        audio_as_image = self.encoder.transform(audio)
        if self.config.loss == "clip":
            return clip_loss(audio_as_image, image, self.modules["scale_image"](), gathered=gathered)
        return cx_loss(
            audio,
            image,
            audio_as_image,
            self.modules["image_transform"](image),
            self.modules["scale_audio"](),
            self.modules["scale_image"](),
            gathered=gathered,
        )

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Return the validation loss, and how well sounds find their pictures and pictures their sounds."""
        if not self.validation:
            return {}
        device = next(self.encoder.parameters()).device
        self._train(False)
        losses, sounds, images = [], [], []
        for batch in self.validation:
            batch = AudioImageBatch(*(part.to(device) for part in batch))
            # Not gathered: the other processes are not here.
            losses.append(self.loss(batch, gathered=False) * len(batch.wave))
            sounds.append(self.encoder(batch.wave))
            images.append(batch.image)
        audio, image = torch.cat(sounds), torch.cat(images)
        loss = float(torch.stack(losses).sum()) / len(audio)
        if step % self.evaluated_every == 0:
            self.player.observe(loss)
        to_image = {f"audio_to_image/{k}": v for k, v in retrieval(audio, image).items()}
        to_audio = {f"image_to_audio/{k}": v for k, v in retrieval(image, audio).items()}
        return {"loss": loss, **to_image, **to_audio}

    @torch.no_grad()
    def samples(self, step: int) -> Samples:
        """Return the first validation clips, and how near each sound is to each one's picture."""
        if not self.validation:
            return Samples()
        device = next(self.encoder.parameters()).device
        self._train(False)
        batch = AudioImageBatch(*(part[:16].to(device) for part in self.validation[0]))
        audio = nn.functional.normalize(self.encoder(batch.wave), dim=-1)
        nearness = audio @ nn.functional.normalize(batch.image.float(), dim=-1).T
        rate = self.encoder.config.sample_rate
        spectrogram = self.encoder.spectrogram(batch.wave[:1])[0]
        return Samples(
            audio={f"validation {i}": (batch.wave[i], rate) for i in range(min(2, len(audio)))},
            mels={"validation 0": spectrogram, "audio by picture": nearness},
        )

    def _train(self, training: bool) -> None:
        for module in self.modules.values():
            module.train(training)
