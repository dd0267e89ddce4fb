"""The self-supervised pretraining task: predict teacher features, codes or log-mels of masked frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.optim import OptimConfig, Player
from engine.tracking import Samples
from engine.user_error import UserError
from pretrain.speech.batches import Clips
from pretrain.speech.contrast import Contrast, ContrastConfig
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig
from pretrain.speech.regression import Regression, RegressionConfig, Spectrum, SpectrumConfig, Teacher
from pretrain.speech.student import MaskToken, MaskTokenConfig, MultiMask, MultiMaskConfig, gather_frames

Losses = tuple[Float[Tensor, ""], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """The encoder, the masking of the student's input, and the loss terms."""

    model: SpeechEncoderConfig = field(default_factory=SpeechEncoderConfig)
    student: MaskTokenConfig | MultiMaskConfig = field(default_factory=MaskTokenConfig)
    """Masking by a mask token, or data2vec 2.0's with several masks."""
    regression: RegressionConfig | None = field(default_factory=RegressionConfig)
    """data2vec's regression loss; None: no loss of this kind and no teacher."""
    contrast: ContrastConfig | None = None
    """wav2vec 2.0's contrastive loss; None: no loss of this kind."""
    spectrum: SpectrumConfig | None = None
    """Regression loss of log-mels; None: no loss of this kind."""
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if not (self.regression or self.contrast or self.spectrum):
            raise UserError("there is no loss: choose regression, contrast or spectrum")


class Pretraining:
    """The training task: predict the targets of masked frames, then update the EMA teacher."""

    def __init__(self, config: PretrainingConfig, validation: Sequence[Clips] = ()) -> None:
        self.config, self.validation = config, validation
        self.encoder = SpeechEncoder(config.model)
        match config.student:
            case MaskTokenConfig():
                self.student = MaskToken(config.student, config.model.hidden)
            case MultiMaskConfig():
                self.student = MultiMask(config.student, config.model.hidden)
        dim, hidden, local_dim = self.student.dim, config.model.hidden, config.model.conv_dims[-1]
        self.heads = nn.ModuleDict()
        self.modules: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "student": self.student,
            "heads": self.heads,
        }
        self.regression = self.teacher = self.contrast = self.spectrum = None
        if config.regression:
            self.regression = self.heads["regression"] = Regression(config.regression, dim, hidden)
            self.teacher = self.modules["teacher"] = Teacher(self.encoder, config.regression.teacher)
        if config.contrast:
            self.contrast = self.heads["contrast"] = Contrast(config.contrast, dim=dim, local_dim=local_dim)
        if config.spectrum:
            self.spectrum = self.heads["spectrum"] = Spectrum(config.spectrum, dim=dim, encoder=config.model)
        self.learned = nn.ModuleList([self.encoder, self.student, self.heads])
        self.players = {"encoder": Player(self.learned, config.optim, "encoder")}

    def update(self, batch: Clips, step: int) -> Mapping[str, Tensor]:
        player = self.players["encoder"]
        before = player.updates
        self.learned.train()

        loss, scalars = self.losses(batch.wave, before)
        player.step(loss)

        if self.regression and self.teacher:
            self.teacher.follow(self.encoder, before)
            self.regression.guard(scalars, before)
        return {f"loss/encoder/{name}": value for name, value in scalars.items()}

    def losses(self, wave: Float[Tensor, "batch 1 samples"], update: int) -> Losses:
        """Return the weighted sum of all loss terms, and the scalars to log."""
        encoder, local = self.encoder, self.encoder.local(wave)
        normed = encoder.trunk.feature_projection.layer_norm(local)
        projected = encoder.project(local)
        states, index = self.student(encoder, projected)
        loss = local.new_zeros((), dtype=torch.float32)
        # Approaches 0 when the convolutions' output collapses.
        scalars = {"local_mean_square": local.detach().float().square().mean()}

        if self.regression and self.teacher:
            with torch.no_grad():  # the teacher's input is unmasked; it shares all below its layers
                target = gather_frames(self.teacher(encoder.position(projected)), index)
            term, terms = self.regression(states, target)
            loss, scalars = loss + self.regression.config.weight * term, scalars | terms
        if self.contrast:
            term, terms = self.contrast(states, normed, index, update)
            loss, scalars = loss + self.contrast.config.weight * term, scalars | terms
        if self.spectrum:
            target = gather_frames(self.spectrum.target(wave, local.shape[1]), index)
            term, terms = self.spectrum(states, target)
            loss, scalars = loss + self.spectrum.config.weight * term, scalars | terms
        return loss, {name: value.detach() for name, value in {"total": loss, **scalars}.items()}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Return the loss terms on the validation clips, with the same masks in every call."""
        device = next(self.encoder.parameters()).device
        self.learned.eval()
        totals: dict[str, float] = {}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            for clips in self.validation:
                _, scalars = self.losses(clips.wave.to(device), self.players["encoder"].updates)
                for name, value in scalars.items():
                    totals[name] = totals.get(name, 0.0) + float(value) / len(self.validation)
        return totals

    @torch.no_grad()
    def samples(self, step: int) -> Samples:
        """Return the log-mels of a validation clip, and a copy with predictions at the masked frames."""
        if not (self.spectrum and self.validation):
            return Samples()
        self.learned.eval()
        wave = self.validation[0].wave[:1].to(next(self.encoder.parameters()).device)
        projected = self.encoder.project(self.encoder.local(wave))
        states, index = self.student(self.encoder, projected)
        target = self.spectrum.target(wave, projected.shape[1])[0]
        predicted = target.clone()
        predicted[index[0]] = self.spectrum.head(states[0]).float()
        n_mels = self.spectrum.config.mel.n_mels
        mels = {"target": target, "predicted": predicted}
        return Samples(mels={name: mel.reshape(-1, n_mels).T for name, mel in mels.items()})
