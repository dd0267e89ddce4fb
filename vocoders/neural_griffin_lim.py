"""Griffin-Lim on magnitudes that a network makes of the mel, as Tacotron's post-net does.

What limits Griffin-Lim on mels is the magnitudes: least squares smear what the bands do not resolve, while
the phases of true magnitudes are found so well that copies have the recordings' quality. So the network
learns the magnitudes alone, by regression (Wang et al. 2017, arXiv:1703.10135, section 3.4; here with Vocos'
blocks).
"""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import MelConfig
from engine.user_error import UserError
from vocoders.griffin_lim import FromMagnitudes, GriffinLim, GriffinLimConfig, Magnitudes, Mel
from vocoders.vocos import Backbone, BackboneConfig

FAINTEST = 1e-4
"""Least magnitude that a spectrum begins from."""
LOG_DEVIATIONS = (-4.0, 1.0)
"""Least and most, of what the network says of its own error."""


@dataclass(frozen=True, kw_only=True)
class NeuralGriffinLimConfig(BackboneConfig):
    """The network's sizes, and how the phases are found."""

    n_mels: int = 80
    channels: int = 256
    hidden: int = 768
    n_blocks: int = 6
    phases: GriffinLimConfig = field(default_factory=GriffinLimConfig)
    """``inversion_iterations`` counts for nothing: the network begins from the clipped pseudo-inverse."""

    def __post_init__(self) -> None:
        if 4 * self.halo > 3 * self.phases.overlap:
            raise UserError(
                f"n_blocks={self.n_blocks} see {self.halo} frames on either side, more than blocks of phases"
                f" share: give phases.overlap={-(-self.halo // 3) * 4} or more"
            )

    @property
    def halo(self) -> int:
        """Frames of mel on either side that a frame's magnitudes depend on."""
        return 3 * (self.n_blocks + 1)


class NeuralGriffinLim(FromMagnitudes):
    """A mel to a wave, by way of linear magnitudes."""

    def __init__(self, config: NeuralGriffinLimConfig, mel: MelConfig) -> None:
        super().__init__()
        self.config, self.hop, self.n_mels = config, mel.hop, config.n_mels
        self.griffin_lim = GriffinLim(config.phases, mel)
        self.phases = self.griffin_lim.phases
        self.backbone = Backbone(config)
        self.out = nn.Linear(config.channels, 2 * (mel.n_fft // 2 + 1))
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def log_magnitudes(self, mel: Mel) -> tuple[Magnitudes, Magnitudes]:
        """Means of the log-magnitudes, and logs of their standard deviations."""
        change, deviation = self.out(self.backbone(mel)).chunk(2, dim=-1)
        smeared = self.griffin_lim.magnitudes(mel, iterations=0)
        return smeared.clamp_min(FAINTEST).log() + change, deviation.clamp(*LOG_DEVIATIONS)

    def magnitudes(self, mel: Mel) -> Magnitudes:
        """The mean magnitudes, brought to the mel's bands."""
        return self.griffin_lim.matched(self.log_magnitudes(mel)[0].exp(), mel)


def negative_log_likelihood(
    mean: Magnitudes, log_deviation: Magnitudes, magnitudes: Float[Tensor, "batch frames bins"], floor: float
) -> Float[Tensor, ""]:
    """Of log-magnitudes, each normal about its mean; what lies below ``floor`` hardly counts."""
    error = (mean.exp() + floor).log() - (magnitudes + floor).log()
    return (0.5 * (error / log_deviation.exp()).square() + log_deviation).mean()


def spectral_convergence(made: Magnitudes, magnitudes: Magnitudes) -> Float[Tensor, ""]:
    """Relative error of a spectrogram by Frobenius' norm (Arık et al. 2018, arXiv:1808.06719)."""
    error, size = ((x.square().sum((1, 2)) + 1e-9).sqrt() for x in (made - magnitudes, magnitudes))
    return (error / size).mean()
