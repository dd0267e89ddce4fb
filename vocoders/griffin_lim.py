"""Griffin-Lim: from magnitudes, or a log-mel of any definition, to a wave, without a trained network.

A mel's bands are spread over linear bins by non-negative least squares. Phases come from alternating
projections (Griffin and Lim 1984) with the momentum of Perraudin, Balazs and Søndergaard (2013), block by
block, in flat memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from data.frontends import MelConfig, Padding, mel_filters, stft
from engine.seeding import step_seed
from engine.user_error import UserError, at_least, within

Magnitudes = Float[Tensor, "batch frames bins"]
Features = Float[Tensor, "batch features frames"]
Wave = Float[Tensor, "batch 1 samples"]
Piece = Float[Tensor, "batch features _"]
WavePiece = Float[Tensor, "batch 1 _"]


@dataclass(frozen=True, kw_only=True)
class GriffinLimConfig:
    """How long the phases are looked for."""

    iterations: int = 64
    """Pairs of projections. More than 100 change little."""
    momentum: float = 0.99
    """How far a step goes beyond the last; 0: the algorithm of 1984."""
    inversion_iterations: int = 30
    """Steps of the non-negative least squares that spread bands over bins; 0: the pseudo-inverse, clipped."""
    block: int = 1024
    """Frames whose phases are found together; longer mels are worked through in overlapping blocks."""
    overlap: int = 32
    """Frames that a block shares with the one before, whose phases it takes over."""

    def __post_init__(self) -> None:
        at_least(1, self, "iterations")
        at_least(0, self, "inversion_iterations")
        within("[0, 1)", self, "momentum")  # beyond it the phases do not settle
        if self.overlap < 4 or self.overlap % 4 or self.block < 2 * self.overlap:
            raise UserError(
                f"overlap={self.overlap} must be a multiple of 4, and block={self.block} at least "
                "twice as long"
            )


class Known(NamedTuple):
    """What a block hands on to the next."""

    spectrum: Complex[Tensor, "batch frames bins"]
    """Of its last ``overlap`` frames."""
    wave: Wave
    """Of its last ``overlap`` frames but the first quarter, which is out already."""


class PhaseRetrieval(nn.Module):
    """Waves for magnitudes of an STFT with any window; ``padding`` is that of ``data.frontends.stft``."""

    def __init__(
        self, config: GriffinLimConfig, window: Float[Tensor, "n_fft"], *, hop: int, padding: Padding = "same"
    ) -> None:
        super().__init__()
        self.config, self.n_fft, self.hop, self.padding = config, len(window), hop, padding
        # Not in checkpoints: the configuration determines it.
        self.register_buffer("window", window, persistent=False)
        # Edges that a single falling window covers are filled in by repeated frames, and cut off again.
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
        """Turn features that come in pieces of any length into pieces of wave, in flat memory.

        ``magnitudes`` makes a block's linear magnitudes of its features, frame by frame. Where the pieces are
        cut makes no difference. Row i starts from random phases drawn by ``seeds[i]``.
        """
        overlap, known = self.config.overlap, None
        for number, (block, last) in enumerate(_windows(pieces, self.config.block, overlap)):
            target = magnitudes(F.pad(block, (self.front, self.back), mode="replicate"))
            drawn = [step_seed(seed, number) for seed in seeds]
            wave, spectrum = self._block(target, block.shape[-1], known, drawn)
            if known is not None:
                wave = _joined(known.wave, wave, overlap // 4 * self.hop)
            kept = 0 if last else 3 * overlap // 4 * self.hop
            yield wave[..., : wave.shape[-1] - kept]
            known = Known(spectrum[:, -overlap:], wave[..., wave.shape[-1] - kept :])

    def _block(
        self, target: Magnitudes, n_frames: int, known: Known | None, seeds: Sequence[int]
    ) -> tuple[Wave, Tensor]:
        """The wave of a block, and its spectrum; ``known`` holds the beginning in place."""
        seeds = list(seeds) * len(target) if len(seeds) == 1 else seeds  # a single one serves all
        spectrum = target * torch.cat([_phases(target[:1], seed) for seed in seeds])
        fixed = None
        if known is not None:
            shared, half = known.spectrum.shape[1], known.spectrum.shape[1] // 2
            spectrum[:, self.front : self.front + shared] = known.spectrum
            fixed = known.spectrum[:, :half]
        padded = self.find_phases(target, spectrum, fixed)
        analysed = self._analyse(padded)[:, self.front :]
        return self._cut(padded, n_frames), analysed[:, :n_frames]

    def find_phases(
        self,
        target: Magnitudes,
        spectrum: Complex[Tensor, "batch frames bins"],
        fixed: Complex[Tensor, "batch some bins"] | None = None,
    ) -> Float[Tensor, "batch padded"]:
        """Change the phases of ``spectrum`` until a wave with the target magnitudes has it, nearly.

        The wave includes what lies before the first and behind the last sample of the magnitudes' own.
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
        n_fft = self.n_fft
        whole = stft(padded[:, None], n_fft=n_fft, hop=self.hop, padding="none", window=self.window)
        return whole.transpose(1, 2)

    def _overlap_add(self, spectrum: Complex[Tensor, "batch frames bins"]) -> Float[Tensor, "batch padded"]:
        """The wave whose transform is nearest to a spectrum (Griffin and Lim 1984, equation 6)."""
        n_fft = self.n_fft
        frames = torch.fft.irfft(spectrum, n=n_fft) * self.window
        weights = self.window.square().expand(1, frames.shape[1], -1)
        weight = _added(weights, self.hop)
        # Where no window reaches there is nothing to divide by; what is divided by less than that is cut off.
        return _added(frames, self.hop) / weight.clamp_min(1e-3)

    def _cut(self, padded: Float[Tensor, "batch padded"], frames: int) -> Wave:
        """The samples that belong to the frames, hop by hop."""
        n_fft, hop = self.n_fft, self.hop
        before = {"same": (n_fft - hop) // 2, "center": n_fft // 2, "causal": n_fft - hop, "none": 0}
        start = before[self.padding] + self.front * hop
        covered = padded[:, start : start + frames * hop]
        return F.pad(covered, (0, frames * hop - covered.shape[-1]))[:, None]


def _added(frames: Float[Tensor, "batch frames width"], hop: int) -> Float[Tensor, "batch samples"]:
    """Frames added up, each a hop after the one before."""
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


def _joined(earlier: WavePiece, wave: WavePiece, quarter: int) -> WavePiece:
    """The second wave, faded in over the first; they share it but for a quarter of the overlap before."""
    wave = wave[..., quarter:]
    ramp = torch.linspace(0.0, 1.0, 2 * quarter, device=wave.device)
    faded = earlier[..., : 2 * quarter].lerp(wave[..., : 2 * quarter], ramp)
    return torch.cat([faded, wave[..., 2 * quarter :]], dim=-1)


def _windows(pieces: Iterable[Piece], block: int, overlap: int) -> Iterator[tuple[Piece, bool]]:
    """Blocks of ``block`` frames, each with the last ``overlap`` of the one before; is it the last one?"""
    waiting, length = [], 0
    for piece in pieces:
        waiting.append(piece)
        length += piece.shape[-1]
        while length > block + overlap:  # so that the last block is never a stump
            joined = torch.cat(waiting, dim=-1)
            yield joined[..., :block], False
            waiting = [joined[..., block - overlap :]]
            length = waiting[0].shape[-1]
    if length:
        yield torch.cat(waiting, dim=-1), True


Mel = Float[Tensor, "batch n_mels frames"]
MelPiece = Float[Tensor, "batch n_mels _"]


class FromMagnitudes(nn.Module):
    """A mel to a wave by way of the linear ``magnitudes`` that a subclass finds for each block of it."""

    phases: PhaseRetrieval
    magnitudes: Callable[[Mel], Magnitudes]

    def fold(self) -> "FromMagnitudes":
        """There is no weight norm to remove."""
        return self

    def forward(self, mel: Mel) -> Wave:
        return self.generate(mel)

    @torch.no_grad()
    def generate(self, mel: Mel, seeds: Sequence[int] = (0,)) -> Wave:
        """The wave of frames · hop samples; row i starts from random phases drawn by ``seeds[i]``."""
        return torch.cat(list(self.stream(mel.split(self.phases.config.block, dim=-1), seeds)), dim=-1)

    @torch.no_grad()
    def stream(self, pieces: Iterable[MelPiece], seeds: Sequence[int] = (0,)) -> Iterator[WavePiece]:
        """Turn a mel that comes in pieces of any length into pieces of wave, in flat memory.

        Where the pieces are cut makes no difference.
        """
        yield from self.phases.stream(pieces, self.magnitudes, seeds)


class GriffinLim(FromMagnitudes):
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


def _window(mel: MelConfig) -> Float[Tensor, "n_fft"]:
    """The definition's window, as long as the transform."""
    window, missing = torch.hann_window(mel.win), mel.n_fft - mel.win
    front = missing if mel.padding == "causal" else missing // 2
    return F.pad(window, (front, missing - front))
