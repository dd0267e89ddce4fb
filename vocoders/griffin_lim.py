"""Griffin-Lim: magnitudes, or a log-mel of any definition, to a wave, without a trained network.

A mel is inverted to linear magnitudes by non-negative least squares. Phases are found by alternating
projections (Griffin and Lim 1984) with the momentum of Perraudin, Balazs and Søndergaard (2013), block by
block in constant memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from data.frontends import MelConfig, Padding, edges, mel_filters, stft
from engine.seeding import step_seed
from engine.user_error import UserError, at_least, within
from vocoders.weight_norm import Foldable

Magnitudes = Float[Tensor, "batch frames bins"]
Features = Float[Tensor, "batch features frames"]
Wave = Float[Tensor, "batch 1 samples"]
Piece = Float[Tensor, "batch features _"]
WavePiece = Float[Tensor, "batch 1 _"]


@dataclass(frozen=True, kw_only=True)
class GriffinLimConfig:
    """Settings of mel inversion and phase retrieval."""

    iterations: int = 64
    """Pairs of projections; more than 100 change little."""
    momentum: float = 0.99
    """Momentum of the projections; 0: the algorithm of 1984."""
    inversion_iterations: int = 30
    """Iterations of non-negative least squares, mel to magnitudes; 0: the clipped pseudo-inverse."""
    block: int = 1024
    """Frames per block; longer mels are processed in overlapping blocks."""
    overlap: int = 32
    """Frames shared with the previous block: its phases are kept in the first half, refined in the second."""

    def __post_init__(self) -> None:
        at_least(1, self, "iterations")
        at_least(0, self, "inversion_iterations")
        within("[0, 1)", self, "momentum")  # the phases do not converge with more
        if self.overlap < 4 or self.overlap % 4 or self.block < 2 * self.overlap:
            raise UserError(
                f"overlap={self.overlap} must be a multiple of 4, and block={self.block} at least "
                "twice as long"
            )


class BlockEnd(NamedTuple):
    """The end of a block, which overlaps the next one."""

    spectrum: Complex[Tensor, "batch frames bins"]
    """Spectrum of the last ``overlap`` frames."""
    wave: Wave
    """Wave of the last ``overlap`` frames without their first quarter, which has been output."""


class PhaseRetrieval(nn.Module):
    """Phase retrieval from STFT magnitudes with any window; ``padding`` as in ``data.frontends.stft``."""

    def __init__(
        self, config: GriffinLimConfig, window: Float[Tensor, "n_fft"], *, hop: int, padding: Padding = "same"
    ) -> None:
        super().__init__()
        self.config, self.n_fft, self.hop = config, len(window), hop
        self.padding: Padding = padding
        # Not in checkpoints: the configuration determines it.
        self.register_buffer("window", window, persistent=False)
        # Edges covered only by one window's slope are extended by repeated frames, and cut off again.
        reach = -(-self.n_fft // hop) - 1
        self.front, self.back = {"none": (reach, 0), "causal": (0, reach)}.get(padding, (0, 0))

    window: Tensor

    @torch.no_grad()
    def stream(
        self,
        pieces: Iterable[Piece],
        magnitudes: Callable[[Features], Magnitudes],
        seeds: Sequence[int] = (0,),
    ) -> Iterator[WavePiece]:
        """Convert features, in pieces of any length, to a wave in pieces, in constant memory.

        ``magnitudes`` maps a block of features to linear magnitudes, frame by frame. The wave does not depend
        on where the features are cut. Row i starts from random phases seeded by ``seeds[i]``.
        """
        overlap, previous = self.config.overlap, None
        for number, (block, last) in enumerate(_windows(pieces, self.config.block, overlap)):
            target = magnitudes(F.pad(block, (self.front, self.back), mode="replicate"))
            drawn = [step_seed(seed, number) for seed in seeds]
            wave, spectrum = self._block(target, block.shape[-1], previous, drawn)
            if previous is not None:
                wave = _cross_faded(previous.wave, wave, overlap // 4 * self.hop)
            held = 0 if last else 3 * overlap // 4 * self.hop
            yield wave[..., : wave.shape[-1] - held]
            previous = BlockEnd(spectrum[:, -overlap:], wave[..., wave.shape[-1] - held :])

    def _block(
        self, target: Magnitudes, n_frames: int, previous: BlockEnd | None, seeds: Sequence[int]
    ) -> tuple[Wave, Tensor]:
        """The wave of a block and its spectrum; the block's beginning continues ``previous``."""
        spectrum = target * torch.cat([_phases(target[:1], seed) for seed in seeds])
        fixed = None
        if previous is not None:
            shared, half = previous.spectrum.shape[1], previous.spectrum.shape[1] // 2
            spectrum[:, self.front : self.front + shared] = previous.spectrum
            fixed = previous.spectrum[:, :half]
        padded = self.find_phases(target, spectrum, fixed)
        analysed = self._analyse(padded)[:, self.front :]
        return self._cut(padded, n_frames), analysed[:, :n_frames]

    def find_phases(
        self,
        target: Magnitudes,
        spectrum: Complex[Tensor, "batch frames bins"],
        fixed: Complex[Tensor, "batch some bins"] | None = None,
    ) -> Float[Tensor, "batch padded"]:
        """Find phases by alternating projections, starting from ``spectrum``, and return the wave.

        The wave includes the samples of the first and last window that lie outside the frames' own hops.
        """
        share, before = self.config.momentum / (1 + self.config.momentum), None
        for _ in range(self.config.iterations):
            rebuilt = self._analyse(self._overlap_add(spectrum))
            direction = rebuilt if before is None else rebuilt - share * before
            before = rebuilt
            spectrum = direction * (target / direction.abs().clamp_min(1e-16))
            if fixed is not None:
                spectrum[:, self.front : self.front + fixed.shape[1]] = fixed
        return self._overlap_add(spectrum)

    def _analyse(self, padded: Float[Tensor, "batch padded"]) -> Complex[Tensor, "batch frames bins"]:
        whole = stft(padded[:, None], n_fft=self.n_fft, hop=self.hop, padding="none", window=self.window)
        return whole.transpose(1, 2)

    def _overlap_add(self, spectrum: Complex[Tensor, "batch frames bins"]) -> Float[Tensor, "batch padded"]:
        """The wave with the STFT closest to a spectrum (Griffin and Lim 1984, equation 6)."""
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        weight = _added(self.window.square().expand(1, frames.shape[1], -1), self.hop)
        # The floor avoids division by 0 at the edges, where the window is 0; they are cut off later.
        return _added(frames, self.hop) / weight.clamp_min(1e-3)

    def _cut(self, padded: Float[Tensor, "batch padded"], frames: int) -> Wave:
        """Cut the wave to one hop of samples per frame."""
        hop, (before, _) = self.hop, edges(self.n_fft, self.hop, self.padding)
        start = before + self.front * hop
        covered = padded[:, start : start + frames * hop]
        return F.pad(covered, (0, frames * hop - covered.shape[-1]))[:, None]


def _added(frames: Float[Tensor, "batch frames width"], hop: int) -> Float[Tensor, "batch samples"]:
    """Overlap-add frames at intervals of one hop."""
    batch, n_frames, width = frames.shape
    n_hops = -(-width // hop)
    hops = F.pad(frames, (0, n_hops * hop - width)).view(batch, n_frames, n_hops, hop)
    total = frames.new_zeros(batch, n_frames + n_hops - 1, hop)
    for index in range(n_hops):
        total[:, index : index + n_frames] += hops[:, :, index]
    return total.view(batch, -1)[:, : (n_frames - 1) * hop + width]


def _phases(like: Magnitudes, seed: int) -> Complex[Tensor, "batch frames bins"]:
    turns = torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)) * (2 * torch.pi)
    return torch.polar(torch.ones_like(turns), turns).to(like.device)


def _cross_faded(earlier: WavePiece, wave: WavePiece, quarter: int) -> WavePiece:
    """Cross-fade two waves over the middle half of their overlap of 4 · ``quarter`` samples."""
    wave = wave[..., quarter:]
    ramp = torch.linspace(0.0, 1.0, 2 * quarter, device=wave.device)
    faded = earlier[..., : 2 * quarter].lerp(wave[..., : 2 * quarter], ramp)
    return torch.cat([faded, wave[..., 2 * quarter :]], dim=-1)


def _windows(pieces: Iterable[Piece], block: int, overlap: int) -> Iterator[tuple[Piece, bool]]:
    """Blocks of ``block`` frames, ``overlap`` of them shared with the previous; True marks the last block."""
    waiting, length = [], 0
    for piece in pieces:
        waiting.append(piece)
        length += piece.shape[-1]
        while length > block + overlap:  # so that the last block is not too short
            joined = torch.cat(waiting, dim=-1)
            yield joined[..., :block], False
            waiting = [joined[..., block - overlap :]]
            length = waiting[0].shape[-1]
    if length:
        yield torch.cat(waiting, dim=-1), True


Mel = Float[Tensor, "batch n_mels frames"]
MelPiece = Float[Tensor, "batch n_mels _"]


class FromMagnitudes(Foldable):
    """A mel to a wave by phase retrieval on the linear ``magnitudes`` that a subclass computes."""

    phases: PhaseRetrieval
    magnitudes: Callable[[Mel], Magnitudes]

    @torch.no_grad()
    def forward(self, mel: Mel, seeds: Sequence[int] = (0,)) -> Wave:
        """Generate frames · hop samples; row i starts from random phases seeded by ``seeds[i]``."""
        return torch.cat(list(self.stream(mel.split(self.phases.config.block, dim=-1), seeds)), dim=-1)

    @torch.no_grad()
    def stream(self, pieces: Iterable[MelPiece], seeds: Sequence[int] = (0,)) -> Iterator[WavePiece]:
        """Generate a wave in pieces from a mel in pieces of any length; see ``PhaseRetrieval.stream``."""
        yield from self.phases.stream(pieces, self.magnitudes, seeds)


class GriffinLim(FromMagnitudes):
    """Griffin-Lim on log-mels of the definition ``mel``."""

    def __init__(self, config: GriffinLimConfig, mel: MelConfig) -> None:
        super().__init__()
        self.config, self.mel, self.hop, self.n_mels = config, mel, mel.hop, mel.n_mels
        filters = mel_filters(mel)
        # Not in checkpoints: the configuration determines all of them.
        self.register_buffer("filters", filters, persistent=False)
        inverse = torch.linalg.pinv(filters.double()).float()
        self.register_buffer("inverse", inverse, persistent=False)
        self.phases = PhaseRetrieval(config, mel_window(mel), hop=mel.hop, padding=mel.padding)
        self.curvature = float(torch.linalg.matrix_norm(filters.double(), 2)) ** 2

    filters: Tensor
    inverse: Tensor

    def bands(self, mel: Mel) -> Float[Tensor, "batch frames n_mels"]:
        """Linear band values: the mel without its logarithm."""
        bands = mel.float().transpose(1, 2)
        return bands.exp() if self.mel.log == "ln" else 10.0**bands

    def magnitudes(self, mel: Mel, iterations: int | None = None) -> Magnitudes:
        """The non-negative linear magnitudes with mel bands closest to the mel's (least squares)."""
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
        """Scale magnitudes band by band, so that their mel bands approximate the mel's."""
        power = self.mel.power
        ratio = self.bands(mel) / (magnitudes.pow(power) @ self.filters.T).clamp_min(1e-9)
        share = self.filters / self.filters.sum(0).clamp_min(1e-9)
        inside = self.filters.sum(0) > 0  # bins outside all bands are unchanged
        gain = torch.where(inside, ratio @ share, 1.0).clamp(0.1, 10.0)
        return magnitudes * gain.pow(1 / power)


def mel_window(mel: MelConfig) -> Float[Tensor, "n_fft"]:
    """The definition's Hann window, zero-padded to ``n_fft``."""
    window, missing = torch.hann_window(mel.win), mel.n_fft - mel.win
    front = missing if mel.padding == "causal" else missing // 2
    return F.pad(window, (front, missing - front))
