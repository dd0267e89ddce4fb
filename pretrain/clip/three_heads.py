"""AudioCLIP (Guzhov et al., 2022): image, text and audio heads learn together, each pair by CLIP's loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.optim import OptimConfig, Player
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.losses import LogitScale, clip_loss
from pretrain.clip.plateau import PlateauConfig, PlateauPlayer
from pretrain.clip.ranking import retrieval
from pretrain.clip.towers import Towers
from pretrain.clip.triples import Triple

PAIRS = (("audio", "image"), ("audio", "text"), ("image", "text"))


@dataclass(frozen=True, kw_only=True)
class ThreeHeadsConfig:
    """What each pair of heads counts, and how fast CLIP's own heads move."""

    audio_image: float = 1.0
    """Weight of the loss between sounds and pictures."""
    audio_text: float = 1.0
    """Weight of the loss between sounds and words."""
    image_text: float = 1.0
    """Weight of the loss between pictures and words."""
    towers: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-5, betas=(0.9, 0.999)))
    """Of the image and text heads, which begin as CLIP's; the audio head has ``optim``."""
    plateau: PlateauConfig = field(default_factory=PlateauConfig)

    def __post_init__(self) -> None:
        if min(self.audio_image, self.audio_text, self.image_text) < 0:
            raise UserError("the weights of the three losses must not be below 0")


class ThreeHeads:
    """The task: an audio encoder and CLIP's towers, all of which learn.

    The towers given are changed: they are thawed here and belong to the task from then on.
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
        self.modules: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "towers": towers.clip,
            "scales": self.scales,
        }
        self.frozen: dict[str, nn.Module] = {"preparation": towers}
        self.judged = {
            "audio": PlateauPlayer([self.encoder, self.scales], optim, config.plateau, "audio"),
            "towers": PlateauPlayer(towers.clip, config.towers, config.plateau, "towers"),
        }
        self.players: dict[str, Player] = {**self.judged}

    def update(self, batch: Triple, step: int) -> Mapping[str, Tensor]:
        self._train(True)
        losses = self.losses(self.embed(batch))
        total = torch.stack([getattr(self.config, pair) * loss for pair, loss in losses.items()]).sum()
        for player in self.judged.values():
            player.agree()
        self.players["towers"].descend(total, retain_graph=True)
        self.players["audio"].descend(total)
        for scale in self.scales.values():
            scale.clamp()  # pyright: ignore[reportCallIssue]
        return {f"loss/audio/{pair}": loss for pair, loss in losses.items()}

    def embed(self, batch: Triple) -> dict[str, Float[Tensor, "batch dim"]]:
        """Return each head's embeddings."""
        text = self.towers.clip.encode_text(batch.tokens)  # pyright: ignore[reportCallIssue]
        return {
            "audio": self.encoder(batch.heard.wave),
            "image": self.towers.embed(batch.picture.float() / 255),
            "text": F.normalize(text.float(), dim=-1),
        }

    def losses(
        self, heads: Mapping[str, Float[Tensor, "batch dim"]], *, gathered: bool = True
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the contrastive loss of each pair of heads, by name."""
        return {
            f"{one}_{other}": clip_loss(
                heads[one], heads[other], self.scales[f"{one}_{other}"](), gathered=gathered
            )
            for one, other in PAIRS
        }

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Return the validation losses and how well each head finds its partners in the others."""
        if not self.validation:
            return {}
        self._train(False)
        device = next(self.encoder.parameters()).device
        heads: dict[str, list[Tensor]] = {"audio": [], "image": [], "text": []}
        sums: dict[str, float] = {}
        for heard, picture, tokens in self.validation:
            heard = heard._replace(wave=heard.wave.to(device))
            found = self.embed(Triple(heard, picture.to(device), tokens.to(device)))
            for name, value in self.losses(found, gathered=False).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(picture)
            for name, rows in found.items():
                heads[name].append(rows)
        whole = {name: torch.cat(rows) for name, rows in heads.items()}
        losses = {name: total / len(whole["audio"]) for name, total in sums.items()}
        loss = sum(getattr(self.config, name) * value for name, value in losses.items())
        if step % self.evaluated_every == 0:
            for player in self.judged.values():
                player.judge(loss)
        scores = {f"loss/{name}": value for name, value in losses.items()} | {"loss": loss}
        for one, other in (*PAIRS, *((other, one) for one, other in PAIRS)):
            found = retrieval(whole[one], whole[other])
            scores |= {f"{one}_to_{other}/{name}": value for name, value in found.items()}
        return scores

    def _train(self, training: bool) -> None:
        for module in self.modules.values():
            module.train(training)
