"""Distillation of CLIP's precomputed image embeddings into an audio encoder (Wav2CLIP)."""

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
from pretrain.clip.losses import LogitScale, clip_loss, retrieval


@dataclass(frozen=True, kw_only=True)
class PlateauConfig:
    """Learning rate reduction when the validation loss stops improving."""

    patience: int = 5
    """Consecutive evaluations without improvement before the learning rate is reduced; 0: constant rate."""
    factor: float = 0.1
    """Factor of each reduction."""
    threshold: float = 1e-4
    """Minimum relative decrease of the validation loss that counts as an improvement."""
    least: float = 1e-3
    """Minimum learning rate, relative to the initial one."""

    def __post_init__(self) -> None:
        at_least(0, self, "patience", prefix="plateau.")
        within("(0, 1)", self, "factor", prefix="plateau.")
        within("(0, 1]", self, "least", prefix="plateau.")


class PlateauPlayer(Player):
    """An optimiser with learning rate reduction on plateaus of the validation loss, part of its state."""

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
        """Factor of the configured learning rate."""
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

    def synchronise(self) -> None:
        """Broadcast the learning rate of the first process, the only one that evaluates."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            share = torch.tensor(self.share, dtype=torch.float64, device=self.parameters[0].device)
            dist.broadcast(share, src=0)
            self.share = float(share)

    def state_dict(self) -> dict[str, Any]:
        plateau = {"share": self.share, "best": self.best, "waited": self.waited}
        return {**super().state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        plateau = state["plateau"]
        self.share, self.best, self.waited = plateau["share"], plateau["best"], plateau["waited"]


WAV2CLIP_OPTIM = OptimConfig(lr=1e-3, betas=(0.9, 0.999))
"""The paper's settings of Adam."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Loss between sounds and images."""

    loss: Literal["clip", "cx"] = "cx"
    """clip: contrastive loss in CLIP's space. cx: additionally, contrastive loss between the encoder's pooled
    features and a projection f of the image embedding (as for the released weights)."""
    hidden: int = 512
    """Hidden units of the projection f."""
    dropout: float = 0.1
    """Dropout of these units."""
    plateau: PlateauConfig = field(default_factory=PlateauConfig)


class Distillation:
    """The training task of Wav2CLIP.

    ``validation``: batches used in each evaluation. Only evaluations at multiples of ``evaluated_every``
    affect the learning rate, so that the final one does not affect a resumed run.
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
                f"the encoder's dim={encoder_config.dim} must be the image tower's {image_dim}: "
                f"set --encoder.dim {image_dim}"
            )
        if config.loss == "cx" and not encoder_config.transform:
            raise UserError("the loss cx needs the encoder's transform: choose the loss clip, or keep it")
        self.config, self.validation, self.evaluated_every = config, validation, max(evaluated_every, 1)
        self.encoder = AudioEncoder(encoder_config)
        self.modules: dict[str, nn.Module] = {"encoder": self.encoder, "scale_image": LogitScale()}
        if config.loss == "cx":
            sizes = image_dim, config.hidden, encoder_config.channels
            self.modules["image_transform"] = projection(*sizes, config.dropout)
            self.modules["scale_audio"] = LogitScale()
        self.scales = {name: m for name, m in self.modules.items() if isinstance(m, LogitScale)}
        self.player = PlateauPlayer(self.modules.values(), optim, config.plateau, "encoder")
        self.players: dict[str, Player] = {"encoder": self.player}

    def update(self, batch: AudioImageBatch, step: int) -> Mapping[str, Tensor]:
        self._train(True)
        self.player.synchronise()
        loss = self.loss(batch)
        self.player.step(loss)
        for scale in self.scales.values():
            scale.clamp()
        scales = {name.replace("_", "/"): scale() for name, scale in self.scales.items()}
        return {f"loss/encoder/{self.config.loss}": loss, **scales}

    def loss(self, batch: AudioImageBatch, *, gathered: bool = True) -> Float[Tensor, ""]:
        """Return the loss of a batch; no gradient reaches the image embeddings."""
        image = batch.image.detach()
        audio = self.encoder.pooled(batch.wave)
        audio_as_image = self.encoder.transform(audio)
        if self.config.loss == "clip":
            return clip_loss(audio_as_image, image, self.scales["scale_image"](), gathered=gathered)
        # The paper's ½ [CLIP(a, f(i)) + CLIP(g(a), i)], with a temperature for each term.
        image_as_audio = self.modules["image_transform"](image)
        in_audio = clip_loss(audio, image_as_audio, self.scales["scale_audio"](), gathered=gathered)
        in_image = clip_loss(audio_as_image, image, self.scales["scale_image"](), gathered=gathered)
        return (in_audio + in_image) / 2

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Return the validation loss, and retrieval scores from sounds to images and back."""
        if not self.validation:
            return {}
        device = next(self.encoder.parameters()).device
        self._train(False)
        losses, sounds, images = [], [], []
        for batch in self.validation:
            batch = AudioImageBatch(*(part.to(device) for part in batch))
            # Not gathered: only the first process evaluates.
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
        """Return the first validation clips and the similarity matrix of sounds and images."""
        if not self.validation:
            return Samples()
        device = next(self.encoder.parameters()).device
        self._train(False)
        batch = AudioImageBatch(*(part[:16].to(device) for part in self.validation[0]))
        audio = nn.functional.normalize(self.encoder(batch.wave), dim=-1)
        similarity = audio @ nn.functional.normalize(batch.image.float(), dim=-1).T
        rate = self.encoder.config.sample_rate
        spectrogram = self.encoder.spectrogram(batch.wave[:1])[0]
        return Samples(
            audio={f"validation {i}": (batch.wave[i], rate) for i in range(min(2, len(audio)))},
            mels={"validation 0": spectrogram, "audio by picture": similarity},
        )

    def _train(self, training: bool) -> None:
        for module in self.modules.values():
            module.train(training)
