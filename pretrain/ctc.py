"""Train recognisers by CTC: a small one from scratch, or on a pretrained speech encoder.

accelerate launch pretrain/ctc.py --preset small --data.paths speech/metadata.csv voices/manifest.csv
python -m pretrain.ctc --preset characters --init runs/speech/export --data.paths speech/metadata.csv

The small one hears phones, from two augmented views of each utterance that must agree; it is below. Letters
or phones on a pretrained encoder (presets characters, phonemes, semi_supervised) are fine-tuned by
``pretrain/speech/finetune.py``.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

if __package__ in (None, ""):  # `accelerate launch pretrain/ctc.py` knows this folder, not the one above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.checkpoint import export
from engine.config import cli
from engine.loop import LoopConfig, accelerator, fit
from engine.optim import EMA, OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import exits_cleanly
from pretrain.phone_batches import PhoneSpeech, Transcribed, TranscribedConfig
from pretrain.recogniser import BLANK, STRIDE, Recogniser, RecogniserConfig, RecogniserOutput
from pretrain.spectral_augment import AugmentConfig, add_noise, change_speed, equalise, mask, warp_frequency
from pretrain.speech.finetune import FineTuneConfig
from pretrain.speech.finetune_run import PRESETS as FINE_TUNING
from pretrain.speech.finetune_run import finetune


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """What each term of the loss counts; 0 leaves it out."""

    ctc: float = 1.0
    """Negative log-likelihood of the phones, per phone."""
    agreement: float = 0.2
    """Divergence of the two views' posteriors (CR-CTC, Yao et al. 2024), per phone, as the CTC term."""
    features: float = 0.5
    """1 − cosine between the two views' features: voices are what the views differ in."""


@dataclass(frozen=True, kw_only=True)
class CTCConfig:
    """A recogniser of phones, trained by CTC."""

    model: RecogniserConfig = field(default_factory=RecogniserConfig)
    data: TranscribedConfig = field(default_factory=TranscribedConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    agree_from: int = 500
    """Step at which the second view joins: until CTC has found the phones, it would reward constants."""
    ema: float = 0.998
    """Decay of the average of weights that is scored and exported."""
    loop: LoopConfig = field(default_factory=LoopConfig)


SMALL = CTCConfig(
    data=TranscribedConfig(batch_seconds=40.0),
    optim=OptimConfig(
        lr=2e-3,
        betas=(0.9, 0.98),
        weight_decay=0.02,
        warmup_steps=100,
        schedule="cosine",
        decay_steps=2300,
        gradient_clip=2.0,
    ),
    loop=LoopConfig(
        out=Path("runs/ctc"), steps=2400, save_every=100, sample_every=200, mixed_precision="bf16"
    ),
)
PRESETS = {
    "small": SMALL,
    "tiny": replace(
        SMALL,
        model=RecogniserConfig(width=16, n_blocks=2, kernel=3),
        data=TranscribedConfig(batch_seconds=4.0),
        loop=replace(SMALL.loop, steps=4, save_every=2, sample_every=4, log_every=2, mixed_precision="no"),
    ),
}


class View(NamedTuple):
    """Normalised log-mels with the marks of what is not padding."""

    mel: Float[Tensor, "batch n_mels frames"]
    valid: Bool[Tensor, "batch frames"]


class CTC:
    """Both views' CTC loss, and what makes them agree."""

    def __init__(self, config: CTCConfig, validation: PhoneSpeech | None = None) -> None:
        self.config, self.validation = config, validation
        self.recogniser = Recogniser(config.model)
        self.ema = EMA(self.recogniser, config.ema)
        self.players = {"recogniser": Player(self.recogniser, config.optim, "recogniser")}
        self.modules: dict[str, nn.Module] = {"recogniser": self.recogniser, "ema": self.ema.module}

    def update(self, batch: Transcribed, step: int) -> Mapping[str, Tensor]:
        weight, tokens, n_tokens = self.config.weights, batch.tokens, batch.n_tokens
        self.recogniser.train()
        views = self.views(batch, 1 if step < self.config.agree_from else 2)
        together = View(*(torch.cat(parts) for parts in zip(*views)))
        heard = self.recogniser.from_normalised(*together)
        frames = together.valid[:, ::STRIDE]

        ctc = ctc_loss(heard, frames, tokens.repeat(len(views), 1), n_tokens.repeat(len(views)))
        agreement = features = ctc.new_zeros(())
        if len(views) == 2:
            agreement = self.agreement(heard, frames) / n_tokens.sum()
            features = self.feature_distance(heard, frames)
        loss = weight.ctc * ctc + weight.agreement * agreement + weight.features * features
        self.players["recogniser"].descend(loss)
        self.ema.update(step)
        names = ("ctc", "agreement", "features")
        return {f"loss/recogniser/{n}": v for n, v in zip(names, (ctc, agreement, features))}

    @torch.no_grad()
    def views(self, batch: Transcribed, n_views: int) -> list[View]:
        """Return views of each utterance: the same tempo, other voice, noise, and masks."""
        augment, mel_config = self.config.augment, self.config.model.mel
        mel = self.recogniser.log_mel(batch.wave)
        lengths = (batch.samples // mel_config.hop).clamp(1, mel.shape[-1])
        mel, lengths = change_speed(mel, lengths, augment.speed)
        valid = torch.arange(mel.shape[-1], device=mel.device) < lengths[:, None]

        def view() -> View:
            voice = warp_frequency(mel, mel_config, augment.warp)
            voice = add_noise(voice, augment.noise_share, augment.snr_db)
            normalised = equalise(self.recogniser.normalise(voice, valid), augment.equaliser)
            return View(mask(normalised, augment), valid)

        return [view() for _ in range(n_views)]

    def agreement(self, heard: RecogniserOutput, valid: Bool[Tensor, "both frames"]) -> Float[Tensor, ""]:
        """Return the divergence of each view from the other, whose posteriors are data; a sum over frames."""
        ours, theirs = heard.log_probs, heard.log_probs.detach().roll(len(valid) // 2, 0)
        divergence = F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)
        return (divergence * valid).sum() / 2

    def feature_distance(
        self, heard: RecogniserOutput, valid: Bool[Tensor, "both frames"]
    ) -> Float[Tensor, ""]:
        """Return the mean over the deeper half of the blocks of 1 − cosine between the views."""
        distances = []
        for feature in heard.features[len(heard.features) // 2 :]:
            one, other = F.layer_norm(feature.float().transpose(1, 2), feature.shape[1:2]).chunk(2)
            cosine = F.cosine_similarity(one, other, dim=-1)
            distances.append((1 - cosine)[valid[: len(cosine)]].mean())
        return torch.stack(distances).mean()

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the phone error rate of the averaged weights on the validation split, in percent."""
        from pretrain.ctc_score import error_rates, total

        if self.validation is None:
            return {}
        return {"phone_error_rate": 100 * total(error_rates(self.ema.module, self.validation)).rate}  # pyright: ignore[reportArgumentType]

    def samples(self, step: int) -> Samples:
        """Show what the network sees and hears of the first validation utterance."""
        if self.validation is None:
            return Samples()
        device = next(self.recogniser.parameters()).device
        wave = self.validation.collate(self.validation.order[:1]).wave.to(device)
        heard = self.ema.module(wave)
        mel = self.recogniser.normalise(self.recogniser.log_mel(wave))
        return Samples(
            mels={"normalised mel": mel[0], "log-posteriors": heard.log_probs[0].T.clamp(min=-8.0)}
        )


def ctc_loss(
    heard: RecogniserOutput,
    valid: Bool[Tensor, "batch frames"],
    tokens: Int[Tensor, "batch longest"],
    n_tokens: Int[Tensor, "batch"],
) -> Float[Tensor, ""]:
    """Return the negative log-likelihood of the phones, summed, per phone."""
    # On the CPU, as one row too short for its phones must count 0 and not infinity on every device alike.
    log_probs = heard.log_probs.transpose(0, 1)
    losses = F.ctc_loss(
        log_probs, tokens, valid.sum(1), n_tokens, blank=BLANK, reduction="none", zero_infinity=True
    )
    return losses.sum() / n_tokens.sum().clamp(min=1)


@exits_cleanly
def main() -> None:
    presets: dict[str, CTCConfig | FineTuneConfig] = {**PRESETS, **FINE_TUNING}
    config = cli(presets, default=_kind_of_run(sys.argv))
    if isinstance(config, FineTuneConfig):
        finetune(config)
    else:
        train(config)


def _kind_of_run(words: list[str]) -> str:
    """Return a preset of the same class as the file that ``--config`` names."""
    try:
        found = [(i, word.partition("=")) for i, word in enumerate(words)]
        file = next(value or words[i + 1] for i, (name, _, value) in found if name == "--config")
        return "characters" if "units" in json.loads(Path(file).read_text()) else "small"
    except (StopIteration, IndexError, OSError, ValueError):
        return "small"  # there is none, or one that ``cli`` complains about


def train(config: CTCConfig) -> None:
    """Train the small recogniser and export its averaged weights."""
    here = accelerator(config.loop)
    speech = PhoneSpeech(
        config.data, config.model.phones, seed=config.loop.seed, progress=here.is_main_process
    )
    try:
        validation = PhoneSpeech(config.data, config.model.phones, split="validation", progress=False)
    except ValueError:
        validation = None  # a corpus without a validation split trains unscored
    tasks: list[CTC] = []

    def build() -> CTC:
        tasks.append(CTC(config, validation))
        return tasks[0]

    batches = speech.batches(
        workers=config.loop.workers, rank=here.process_index, accumulate=config.loop.accumulate
    )
    fit(build, batches, config.loop, full_config=config)
    if here.is_main_process:
        # Half precision: the weights lose nothing that shows in the error rate, and half the size.
        state = {name: tensor.half() for name, tensor in tasks[0].ema.module.state_dict().items()}
        print(f"exported to {export(config.loop.out / 'export', config.model, state)}")


if __name__ == "__main__":
    main()
