"""Fine-tuning a speech encoder by CTC, with labels for all of the speech or for some of it."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engine.config import differences
from engine.loop import LoopConfig
from engine.optim import EMA, OptimConfig, Player
from engine.user_error import UserError
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig
from pretrain.speech.finetuned import SpeechRecogniser, SpeechRecogniserConfig, greedy
from pretrain.speech.labelled import Labelled, LabelledConfig, LabelledSpeech
from pretrain.speech.loading import load_speech_encoder
from pretrain.speech.units import BLANK, Characters, UnitsConfig


@dataclass(frozen=True, kw_only=True)
class HidingConfig:
    """What is hidden and changed while fine-tuning; 0 leaves a kind out."""

    time_share: float = 0.05
    """Share of the frames at which a hidden stretch begins."""
    time_frames: int = 10
    """Frames of a stretch, replaced by the vector that hid frames in pretraining."""
    channel_share: float = 0.008
    """Share of the channels at which a stretch of channels begins, hidden for the whole utterance."""
    channel_width: int = 16
    """Channels of such a stretch, set to 0."""
    speed: float = 0.1
    """Tempo and pitch of a batch are multiplied by 1 / (1 + speed) … 1 + speed."""

    def __post_init__(self) -> None:
        if min(self.time_share, self.channel_share, self.speed) < 0 or self.time_share >= 1:
            raise UserError(
                "hiding.time_share, channel_share and speed must be 0 or more, and shares below 1"
            )
        if min(self.time_frames, self.channel_width) < 1:
            raise UserError("hiding.time_frames and hiding.channel_width must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """What of the encoder learns, and when."""

    convolutions: bool = True
    """Leave the convolutions as they are: they have nothing to gain from few labels."""
    trunk_steps: int = 0
    """Train the linear layer alone for so many steps."""
    trunk: bool = False
    """Train nothing but the linear layer (and the average of layers)."""


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """A recogniser of letters or phones on a pretrained speech encoder, or on the same network untrained."""

    init: str = ""
    """Pretrained encoder: an export or run of pretrain/data2vec.py, or a Data2VecAudio checkpoint of
    transformers. Empty: random weights."""
    encoder: SpeechEncoderConfig | None = None
    """The network; none: that of ``init``."""
    units: UnitsConfig = field(default_factory=Characters)
    """What is written."""
    data: LabelledConfig = field(default_factory=LabelledConfig)
    hiding: HidingConfig = field(default_factory=HidingConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    dropout: float = 0.1
    """Share of features dropped while training: in the transformer, its attention, and before the head."""
    mix_layers: bool = False
    """Read a learned average of all layers instead of the last."""
    pseudo_weight: float = 1.0
    """What speech without labels counts: CTC on what the average of weights writes (momentum
    pseudo-labelling, Higuchi et al. 2021), per unit written. It needs ``data.unlabelled_seconds``."""
    pseudo_from: int = 500
    """Step at which speech without labels joins: earlier transcripts would teach nonsense."""
    trunk: OptimConfig = field(default_factory=OptimConfig)
    """How the encoder learns."""
    head: OptimConfig = field(default_factory=OptimConfig)
    """How the linear layer learns."""
    ema: float = 0.99
    """Decay of the average of weights, which writes pseudo-labels, is scored and exported."""
    loop: LoopConfig = field(default_factory=LoopConfig)


class Heard(NamedTuple):
    """The tokens' log-probabilities, with the marks of what is not padding."""

    log_probs: Float[Tensor, "batch frames tokens"]
    valid: Bool[Tensor, "batch frames"]


class FineTune:
    """CTC on the rows that have labels; on the others, CTC on the averaged network's own transcripts."""

    def __init__(
        self,
        config: FineTuneConfig,
        validation: LabelledSpeech | None = None,
        watch: Callable[[int, float], None] | None = None,
    ) -> None:
        config = resolved(config)
        self.config, self.validation, self.watch = config, validation, watch
        assert config.encoder is not None
        self.recogniser = SpeechRecogniser(
            SpeechRecogniserConfig(
                encoder=config.encoder,
                units=config.units,
                head_dropout=config.dropout,
                mix_layers=config.mix_layers,
            )
        )
        encoder = self.recogniser.encoder
        if config.init:
            encoder.load_state_dict(load_speech_encoder(config.init).state_dict())
        own = [p for name, p in self.recogniser.named_parameters() if not name.startswith("encoder.")]
        encoder.requires_grad_(not config.freeze.trunk)
        if config.freeze.convolutions:
            encoder.trunk.feature_extractor.requires_grad_(False)
        self.players = {"head": Player(nn.ParameterList(own), config.head, "head")}
        if not config.freeze.trunk:
            self.players["trunk"] = Player(encoder, config.trunk, "trunk")
        self.ema = EMA(self.recogniser, config.ema)
        self.average: SpeechRecogniser = self.ema.module  # pyright: ignore[reportAttributeAccessIssue]
        self.modules: dict[str, nn.Module] = {"recogniser": self.recogniser, "ema": self.ema.module}

    def update(self, batch: Labelled, step: int) -> Mapping[str, Tensor]:
        moving = "trunk" in self.players and step >= self.config.freeze.trunk_steps
        pseudo = step >= self.config.pseudo_from and self.config.pseudo_weight > 0
        if not pseudo and bool(batch.labelled.any()):
            batch = Labelled(*(part[batch.labelled] for part in batch))
        targets, n_targets = self.targets(batch) if pseudo else (batch.tokens, batch.n_tokens)

        self.recogniser.train()
        self.recogniser.encoder.train(moving)
        heard = self.hear(batch, moving)
        losses = ctc_losses(heard, targets, n_targets)
        supervised = _per_unit(losses, n_targets, batch.labelled)
        guessed = _per_unit(losses, n_targets, ~batch.labelled)

        loss = supervised + self.config.pseudo_weight * guessed
        if moving:  # first, as its gradient passes through the head, which must not have moved
            self.players["trunk"].descend(loss, retain_graph=True)
        self.players["head"].descend(loss)
        self.ema.update(step)
        return {"loss/head/ctc": supervised.detach(), "loss/head/pseudo_ctc": guessed.detach()}

    def hear(self, batch: Labelled, moving: bool) -> Heard:
        """Run the network on waves changed in speed, with stretches hidden."""
        encoder, freeze = self.recogniser.encoder, self.config.freeze
        wave, samples = change_speed(batch.wave, batch.samples, self.config.hiding.speed)
        with nullcontext() if moving and not freeze.convolutions else torch.no_grad():
            local = encoder.local(wave, samples)
        valid = encoder.valid_frames(samples, local)
        with nullcontext() if moving else torch.no_grad():
            frames = hide(encoder.project(local), encoder, self.config.hiding)
            features = encoder.layers(encoder.position(frames, valid), valid)
        return Heard(self.recogniser.read(features), valid)

    @torch.no_grad()
    def targets(self, batch: Labelled) -> tuple[Int[Tensor, "batch longest"], Int[Tensor, "batch"]]:
        """Return the labels, and for rows that have none what the averaged network writes; these are data."""
        rows = (~batch.labelled).nonzero()[:, 0]
        if not len(rows):
            return batch.tokens, batch.n_tokens
        encoded = self.average.encoder(batch.wave[rows], batch.samples[rows])
        written = greedy(self.average.read(encoded.features), encoded.valid)
        longest = max(batch.tokens.shape[1], *map(len, written))
        tokens = F.pad(batch.tokens, (0, longest - batch.tokens.shape[1])).clone()
        n_tokens = batch.n_tokens.clone()
        for row, each in zip(rows.tolist(), written):
            tokens[row, : len(each)] = tokens.new_tensor(each)
            n_tokens[row] = len(each)
        return tokens, n_tokens

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the error rate of the averaged weights on the validation split, in percent."""
        from pretrain.speech.finetune_score import error_rates, total

        if self.validation is None:
            return {}
        rate = 100 * total(error_rates(self.average, self.validation).values()).rate
        if self.watch is not None:
            self.watch(step, rate)
        return {f"{self.recogniser.units.name}_error_rate": rate}


def ctc_losses(
    heard: Heard, tokens: Int[Tensor, "batch longest"], n_tokens: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Return each row's negative log-likelihood; 0, without gradient, where the row is too short for it."""
    log_probs, frames = heard.log_probs.transpose(0, 1), heard.valid.sum(1)
    return F.ctc_loss(log_probs, tokens, frames, n_tokens, blank=BLANK, reduction="none", zero_infinity=True)


def _per_unit(
    losses: Float[Tensor, "batch"], n_tokens: Int[Tensor, "batch"], rows: Bool[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Return the loss of some rows per unit; a row without units counts nothing."""
    rows = rows & (n_tokens > 0)
    # Selected, not multiplied by 0: what is left out must give no gradient, whatever its value.
    return losses[rows].sum() / n_tokens[rows].sum().clamp(min=1)


def change_speed(
    wave: Float[Tensor, "batch 1 samples"], n_samples: Int[Tensor, "batch"], largest: float
) -> tuple[Float[Tensor, "batch 1 new"], Int[Tensor, "batch"]]:
    """Play a batch faster or slower by one random factor; pitch follows."""
    if not largest:
        return wave, n_samples
    factor = math.exp((2 * float(torch.rand(())) - 1) * math.log1p(largest))
    size = max(1, round(wave.shape[-1] / factor))
    new = F.interpolate(wave, size=size, mode="linear")
    return new, (n_samples * (size / wave.shape[-1])).floor().long().clamp(1, size)


def hide(
    frames: Float[Tensor, "batch frames hidden"], encoder: SpeechEncoder, config: HidingConfig
) -> Float[Tensor, "batch frames hidden"]:
    """Replace stretches of frames by the vector that hid them in pretraining, and silence some channels."""
    batch, n_frames, hidden = frames.shape
    if config.time_share:
        stretch = _stretches(batch, n_frames, config.time_share, config.time_frames, frames.device)
        frames = torch.where(stretch[..., None], encoder.trunk.masked_spec_embed.to(frames.dtype), frames)
    if config.channel_share:
        stretch = _stretches(batch, hidden, config.channel_share, config.channel_width, frames.device)
        frames = frames.masked_fill(stretch[:, None], 0.0)
    return frames


def _stretches(
    batch: int, length: int, share: float, width: int, device: torch.device
) -> Bool[Tensor, "batch length"]:
    begins = torch.rand(batch, 1, length, device=device) < share
    return F.max_pool1d(F.pad(begins.float(), (width - 1, 0)), width, 1)[:, 0] > 0


def resolved(config: FineTuneConfig) -> FineTuneConfig:
    """Say which network it is, with the dropout that fine-tuning wants."""
    encoder = config.encoder
    if config.init:
        pretrained = load_speech_encoder(config.init).config
        encoder = encoder or pretrained
        free = {"dropout", "attention_dropout", "feature_dropout"}
        for name, ours, theirs in differences(encoder, pretrained):
            if name not in free:
                raise UserError(
                    f"{config.init} has {name} {theirs!r}, not {ours!r}: leave out --encoder, "
                    "or give the folder of such an encoder"
                )
    encoder = encoder or small_encoder()
    share = config.dropout
    encoder = replace(encoder, dropout=share, attention_dropout=share, feature_dropout=share)
    return replace(config, encoder=encoder)


def small_encoder() -> SpeechEncoderConfig:
    """Return the network that ``pretrain/data2vec.py --preset small`` trains."""
    from pretrain.data2vec import SMALL_ENCODER

    return SMALL_ENCODER
