"""Griffin-Lim: from a log-mel of any definition to a wave, without a trained network.

The mel's bands are spread over linear bins by non-negative least squares; ``vocoders/phases.py`` then finds
the phases.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import MelConfig, mel_filters
from vocoders.phases import GriffinLimConfig, PhaseRetrieval

__all__ = ["GriffinLim", "GriffinLimConfig"]

Mel = Float[Tensor, "batch n_mels frames"]
Magnitudes = Float[Tensor, "batch frames bins"]
Wave = Float[Tensor, "batch 1 samples"]
MelPiece = Float[Tensor, "batch n_mels _"]
WavePiece = Float[Tensor, "batch 1 _"]


class GriffinLim(nn.Module):
    """A mel to a wave; ``mel`` is the definition it reads."""

    def __init__(self, config: GriffinLimConfig, mel: MelConfig) -> None:
        super().__init__()
        self.config, self.mel, self.hop, self.n_mels = config, mel, mel.hop, mel.n_mels
        filters = mel_filters(mel)
        # Not in checkpoints: the configuration determines all of them.
        self.register_buffer("filters", filters, persistent=False)
        inverse = torch.linalg.pinv(filters.double()).float()
        self.register_buffer("inverse", inverse, persistent=False)
        self.phases = PhaseRetrieval(config, _window(mel), hop=mel.hop, padding=mel.padding)
        self.curvature = float(torch.linalg.matrix_norm(filters.double(), 2)) ** 2

    filters: Tensor
    inverse: Tensor

    def fold(self) -> "GriffinLim":
        """There is no weight norm to remove."""
        return self

    def bands(self, mel: Mel) -> Float[Tensor, "batch frames n_mels"]:
        """The sums that the mel is the log of."""
        bands = mel.float().transpose(1, 2)
        return bands.exp() if self.mel.log == "ln" else 10.0**bands

    def magnitudes(self, mel: Mel, iterations: int | None = None) -> Magnitudes:
        """The non-negative linear magnitudes whose bands come nearest to the mel's."""
        bands = self.bands(mel)
        magnitudes = (bands @ self.inverse.T).clamp_min(0.0)
        ahead, speed = magnitudes, 1.0
        iterations = self.config.inversion_iterations if iterations is None else iterations
        for _ in range(iterations):  # FISTA (Beck and Teboulle 2009)
            slope = (ahead @ self.filters.T - bands) @ self.filters
            before, magnitudes = magnitudes, (ahead - slope / self.curvature).clamp_min(0.0)
            faster = (1.0 + (1.0 + 4.0 * speed**2) ** 0.5) / 2.0
            ahead, speed = magnitudes + (speed - 1.0) / faster * (magnitudes - before), faster
        return magnitudes.sqrt() if self.mel.power == 2 else magnitudes

    def matched(self, magnitudes: Magnitudes, mel: Mel) -> Magnitudes:
        """Magnitudes made louder or softer, band by band, so that their bands are nearly the mel's."""
        power = self.mel.power
        ratio = self.bands(mel) / (magnitudes.pow(power) @ self.filters.T).clamp_min(1e-9)
        share = self.filters / self.filters.sum(0).clamp_min(1e-9)
        inside = self.filters.sum(0) > 0  # bins that no band has keep what they are
        gain = torch.where(inside, ratio @ share, 1.0).clamp(0.1, 10.0)
        return magnitudes * gain.pow(1 / power)

    def forward(self, mel: Mel) -> Wave:
        return self.generate(mel)

    @torch.no_grad()
    def generate(self, mel: Mel, seeds: Sequence[int] = (0,)) -> Wave:
        """The wave of frames · hop samples; row i starts from random phases drawn by ``seeds[i]``."""
        return torch.cat(list(self.stream(mel.split(self.config.block, dim=-1), seeds)), dim=-1)

    @torch.no_grad()
    def stream(self, pieces: Iterable[MelPiece], seeds: Sequence[int] = (0,)) -> Iterator[WavePiece]:
        """Turn a mel that comes in pieces of any length into pieces of wave, in flat memory.

        Where the pieces are cut makes no difference.
        """
        yield from self.phases.stream(pieces, self.magnitudes, seeds)


def _window(mel: MelConfig) -> Float[Tensor, "n_fft"]:
    """The definition's window, as long as the transform."""
    window, missing = torch.hann_window(mel.win), mel.n_fft - mel.win
    front = missing if mel.padding == "causal" else missing // 2
    return F.pad(window, (front, missing - front))
