"""Griffin-Lim on linear magnitudes predicted from the mel by a network, as by Tacotron's post-net.

The quality of Griffin-Lim on mels is limited by the magnitudes: least squares smears what the bands do not
resolve, while from true magnitudes Griffin-Lim finds phases that give the recordings' quality. The network
therefore learns only the magnitudes, by regression (Wang et al. 2017, arXiv:1703.10135, section 3.4; here
with Vocos' blocks).
"""

from dataclasses import dataclass, field

from torch import nn

from data.frontends import MelConfig
from engine.user_error import UserError
from vocoders.griffin_lim import FromMagnitudes, GriffinLim, GriffinLimConfig, Magnitudes, Mel
from vocoders.vocos import Backbone, BackboneConfig

FAINTEST = 1e-4
"""Floor of the initial magnitudes, before their logarithm."""
LOG_DEVIATIONS = (-4.0, 1.0)
"""Range of the predicted log standard deviations."""


@dataclass(frozen=True, kw_only=True)
class NeuralGriffinLimConfig(BackboneConfig):
    """Sizes of the magnitude network, and settings of the phase retrieval."""

    n_mels: int = 80
    channels: int = 256
    hidden: int = 768
    n_blocks: int = 6
    phases: GriffinLimConfig = field(default_factory=GriffinLimConfig)
    """Phase retrieval; ``inversion_iterations`` is unused: the network refines the clipped pseudo-inverse."""

    def __post_init__(self) -> None:
        if 4 * self.halo > 3 * self.phases.overlap:
            raise UserError(
                f"n_blocks={self.n_blocks} see {self.halo} frames on each side, too many for phases.overlap="
                f"{self.phases.overlap}: give phases.overlap={-(-self.halo // 3) * 4} or more"
            )

    @property
    def halo(self) -> int:
        """Mel frames on each side that a frame's magnitudes depend on."""
        return 3 * (self.n_blocks + 1)


class NeuralGriffinLim(FromMagnitudes):
    """Neural Griffin-Lim: a mel to linear magnitudes by a network, and these to a wave."""

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
        """Means and log standard deviations of the log-magnitudes."""
        change, deviation = self.out(self.backbone(mel)).chunk(2, dim=-1)
        smeared = self.griffin_lim.magnitudes(mel, iterations=0)
        return smeared.clamp_min(FAINTEST).log() + change, deviation.clamp(*LOG_DEVIATIONS)

    def magnitudes(self, mel: Mel) -> Magnitudes:
        """The mean magnitudes, scaled to match the mel's bands."""
        return self.griffin_lim.matched(self.log_magnitudes(mel)[0].exp(), mel)
