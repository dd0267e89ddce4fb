"""Configuration and presets of CTC training."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.config import differences
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain.recogniser import RecogniserConfig
from pretrain.spectral_augment import AugmentConfig, FrameAugmentConfig
from pretrain.speech import encoder as encoders
from pretrain.speech.labelled import LabelledConfig
from pretrain.speech.loading import SpeechRecogniserConfig, load_speech_encoder
from pretrain.units import Phonemes


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Parts of a pretrained encoder that are frozen, and for how long."""

    convolutions: bool = True
    """Freeze the convolutions."""
    trunk_steps: int = 0
    """Number of initial steps in which only the linear layer is trained."""
    trunk: bool = False
    """Freeze the whole encoder: train only the linear layer (and the weights of the average of layers)."""


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Weights of the loss terms; 0 disables a term."""

    ctc: float = 1.0
    """Weight of the CTC loss of the labels, per unit."""
    pseudo_ctc: float = 1.0
    """Weight of the CTC loss of unlabelled speech, with transcripts of the EMA network as labels (momentum
    pseudo-labelling, Higuchi et al. 2021). It needs ``data.unlabelled_seconds``."""
    agreement: float = 0.0
    """Weight of the KL divergence, per unit, between two views' posteriors (CR-CTC, Yao et al. 2024)."""
    features: float = 0.0
    """Weight of 1 − cosine similarity of two views' features; views differ in voice and noise."""


@dataclass(frozen=True, kw_only=True)
class CTCConfig:
    """CTC training of a recogniser of characters or phones."""

    init: str = ""
    """Pretrained encoder for a SpeechRecogniserConfig: an export or run of pretrain/data2vec.py, or a
    Data2VecAudio checkpoint of transformers. Empty: random weights."""
    model: RecogniserConfig | SpeechRecogniserConfig = field(default_factory=RecogniserConfig)
    """A small network on log-mels, or a speech encoder with a linear layer; ``init`` determines the encoder's
    sizes."""
    data: LabelledConfig = field(default_factory=LabelledConfig)
    augment: AugmentConfig | FrameAugmentConfig = field(default_factory=AugmentConfig)
    """AugmentConfig for a RecogniserConfig, FrameAugmentConfig for a SpeechRecogniserConfig."""
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    agree_from: int = 500
    """First step with the consistency losses; until CTC has learned the units, they favour constants."""
    pseudo_from: int = 500
    """First step with unlabelled speech; earlier transcripts are too inaccurate as labels."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser of the whole network or, for a network on a speech encoder, of the encoder only."""
    head: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser of the linear layer on a speech encoder."""
    ema: float = 0.99
    """Decay of the averaged weights, which are evaluated, exported and used for pseudo-labels."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        on_encoder = isinstance(self.model, SpeechRecogniserConfig)
        if on_encoder != isinstance(self.augment, FrameAugmentConfig):
            wanted = "FrameAugmentConfig" if on_encoder else "AugmentConfig"
            raise UserError(f"a {type(self.model).__name__} needs --augment.kind {wanted}")
        if self.init and not on_encoder:
            raise UserError(
                "--init needs a recogniser on a speech encoder: choose --preset characters, phonemes or "
                "semi_supervised"
            )


def resolved(config: CTCConfig) -> CTCConfig:
    """Return the config with the sizes of ``init``'s encoder and with ``head_dropout`` in all its layers."""
    if not isinstance(config.model, SpeechRecogniserConfig):
        return config
    share = config.model.head_dropout
    dropout = {"dropout": share, "attention_dropout": share, "feature_dropout": share}
    encoder = replace(config.model.encoder, **dropout)
    if config.init:
        pretrained = replace(load_speech_encoder(config.init).config, **dropout)
        if encoder not in (pretrained, replace(encoders.SMALL, **dropout)):
            name, given, stored = next(differences(encoder, pretrained))
            raise UserError(
                f"{config.init} has {name} {stored!r}, not {given!r}: leave out --model.encoder.{name}, or "
                "give the folder of such an encoder"
            )
        encoder = pretrained
    return replace(config, model=replace(config.model, encoder=encoder))


SMALL = CTCConfig(
    data=LabelledConfig(batch_seconds=40.0, longest_seconds=18.0),
    weights=WeightsConfig(agreement=0.2, features=0.5),
    optim=OptimConfig(
        lr=2e-3,
        betas=(0.9, 0.98),
        weight_decay=0.02,
        warmup_steps=100,
        schedule="cosine",
        decay_steps=2300,
        gradient_clip=2.0,
    ),
    ema=0.998,
    loop=LoopConfig(
        out=Path("runs/ctc"), steps=2400, save_every=100, sample_every=200, mixed_precision="bf16"
    ),
)
_OPTIM = OptimConfig(
    betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, gradient_clip=1.0, schedule="cosine", final=0.05
)
CHARACTERS = CTCConfig(
    # The last layer of a small encoder is not its best, hence the average of layers.
    model=SpeechRecogniserConfig(encoder=encoders.SMALL, head_dropout=0.05, mix_layers=True),
    data=LabelledConfig(batch_seconds=20.0),
    augment=FrameAugmentConfig(time_share=0.02, channel_share=0.004),
    freeze=FreezeConfig(trunk_steps=200),
    optim=replace(_OPTIM, lr=1e-3, warmup_steps=80, hold_steps=400, decay_steps=820),
    head=replace(_OPTIM, lr=2e-2, warmup_steps=50, hold_steps=500, decay_steps=950),
    loop=LoopConfig(
        out=Path("runs/asr"), steps=1500, save_every=250, sample_every=250, mixed_precision="bf16"
    ),
)
_TINY_LOOP = LoopConfig(out=Path("runs/ctc"), steps=4, save_every=2, sample_every=4, log_every=2)
PRESETS = {
    "small": SMALL,
    "characters": CHARACTERS,
    "phonemes": replace(CHARACTERS, model=replace(CHARACTERS.model, units=Phonemes())),
    "semi_supervised": replace(
        CHARACTERS, data=LabelledConfig(share=0.1, batch_seconds=20.0, unlabelled_seconds=20.0)
    ),
    "tiny": replace(
        SMALL,
        model=RecogniserConfig(width=16, n_blocks=2, kernel=3),
        data=LabelledConfig(batch_seconds=4.0),
        loop=_TINY_LOOP,
    ),
    "characters_tiny": replace(
        CHARACTERS,
        model=SpeechRecogniserConfig(encoder=encoders.TINY),
        data=LabelledConfig(batch_seconds=4.0, unlabelled_seconds=4.0),
        freeze=FreezeConfig(convolutions=False, trunk_steps=1),
        pseudo_from=2,
        loop=_TINY_LOOP,
    ),
}
