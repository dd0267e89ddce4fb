"""The public interface of all vocoders: log-mels of any length to waves.

vocoder = load_vocoder("hifigan", "generator_v1", config="config_v1.json")  # published or our own weights
wave = vocoder(vocoder.log_mel(load("speech.wav", vocoder.sample_rate)))  # (batch, 1, frames · hop)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.seeding import step_seed
from engine.user_error import UserError, within
from vocoders import cpu
from vocoders.denoiser import Denoiser
from vocoders.griffin_lim import FromMagnitudes, GriffinLim, GriffinLimConfig
from vocoders.hifigan import HiFiGAN, HiFiGANConfig
from vocoders.mel_files import check_definition, check_mel
from vocoders.melgan import MelGAN, MelGANConfig
from vocoders.neural_griffin_lim import NeuralGriffinLim, NeuralGriffinLimConfig
from vocoders.streaming import Window, de_emphasised, windows
from vocoders.vocos import Vocos, VocosConfig
from vocoders.waveglow import WaveGlow, WaveGlowConfig
from vocoders.wavenet.generation import pieces as wavenet_pieces
from vocoders.wavenet.mel_wavenet import MelWaveNet, MelWaveNetConfig, voiced
from vocoders.wavenet.network import WaveNet, WaveNetConfig

MelPiece = Float[Tensor, "batch n_mels _"]
WavePiece = Float[Tensor, "batch 1 _"]
NetworkConfig = (
    GriffinLimConfig
    | NeuralGriffinLimConfig
    | HiFiGANConfig
    | MelGANConfig
    | VocosConfig
    | WaveGlowConfig
    | WaveNetConfig
    | MelWaveNetConfig
)
NETWORKS: dict[type, type] = {
    HiFiGANConfig: HiFiGAN,
    MelGANConfig: MelGAN,
    VocosConfig: Vocos,
    WaveGlowConfig: WaveGlow,
    WaveNetConfig: WaveNet,
}

SHORTEST_BLOCK = 1024
"""Minimum frames per generated block: small enough for the CPU caches, long compared with the halo."""
NOISE_BLOCK = 64
"""Frames per noise block; each block is seeded by the seed and its number."""
SHORTEST_MEL = 4
"""Minimum frames; the last frame of shorter mels is repeated and the wave is cut: MelGAN reflects three."""


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """A network and the mel definition it was trained with: the ``config.json`` of an exported vocoder."""

    KIND: ClassVar[str] = "vocoder"
    mel: MelConfig = field(default_factory=MelConfig)
    """Mel definition of the input; mels of another definition are refused."""
    network: NetworkConfig = field(default_factory=GriffinLimConfig)
    """Network type and sizes."""
    gain: float = 1.0
    """Factor applied to training waves after pre-emphasis; the output is divided by it."""
    pre_emphasis: float = 0.0
    """Pre-emphasis coefficient of the training waves, undone on the output. Published WaveNets: .85."""

    def __post_init__(self) -> None:
        within("(0, inf)", self, "gain")
        within("[0, 1)", self, "pre_emphasis")


def build_network(config: NetworkConfig, mel: MelConfig) -> Any:
    """Build the network of a config with random weights; its hop and bands must match the mel definition."""
    match config:
        case GriffinLimConfig():
            network = GriffinLim(config, mel)
        case NeuralGriffinLimConfig():
            network = NeuralGriffinLim(config, mel)
        case MelWaveNetConfig():
            network = MelWaveNet(config, mel)
        case _:
            network = NETWORKS[type(config)](config)
    if (network.hop, network.n_mels) != (mel.hop, mel.n_mels):
        raise UserError(
            f"the network has hop {network.hop} and {network.n_mels} bands, the mel definition has "
            f"{mel.hop} and {mel.n_mels}: change one of them to match the other"
        )
    return network


class Vocoder(nn.Module):
    """Log-mels to waves with any network; stateless between calls."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config, self.mel, self.hop = config, config.mel, config.mel.hop
        self.network = build_network(config.network, config.mel)
        self.log_mel = LogMel(config.mel)
        self.denoiser: Denoiser | None = None

    @property
    def sample_rate(self) -> int:
        return self.mel.sample_rate

    @property
    def device(self) -> torch.device:
        return self.log_mel.window.device

    def forward(
        self, mel: Any, *, seed: int | Sequence[int] = 0, definition: MelConfig | None = None, **options: Any
    ) -> Float[Tensor, "batch 1 samples"]:
        """Generate the wave of a log-mel (batch, n_mels, frames): frames · hop samples, without gradient.

        Row i's noise is seeded with ``seed + i``, or with entry i of a sequence of seeds (WaveNet: with the
        first seed and the row number). ``definition`` is the mel's definition, refused if it is not the
        vocoder's. Options depend on the network (``check_options``). Memory apart from mel and wave does not
        grow with the length. Raises ``UserError`` for invalid mels.
        """
        if definition is not None:
            check_definition(definition, self.mel, "the mel")
        checked = check_mel(mel, self.mel)
        seeds = [seed + row for row in range(len(checked))] if isinstance(seed, int) else list(seed)
        return torch.cat(list(self.stream([checked], seed=seeds, **options)), dim=-1)

    @torch.no_grad()
    def stream(
        self, pieces: Iterable[MelPiece], *, seed: Sequence[int] = (0,), **options: Any
    ) -> Iterator[WavePiece]:
        """Generate a wave in pieces from a mel given in pieces of any length, in constant memory.

        The wave does not depend on where the mel is cut. ``seed`` has one entry per row.
        """
        self.check_options(options)
        yield from de_emphasised(
            self._stream(pieces, seed, options), self.config.pre_emphasis, self.config.gain
        )

    def _stream(
        self, pieces: Iterable[MelPiece], seed: Sequence[int], options: dict[str, Any]
    ) -> Iterator[WavePiece]:
        pieces = (piece.to(self.device) for piece in pieces)
        match self.network:
            case FromMagnitudes():
                yield from self.network.stream(pieces, seed)
                return
            case WaveNet():
                whole = torch.cat(list(pieces), dim=-1)
                yield from wavenet_pieces(self.network, whole, **self._wavenet_options(whole, options, seed))
                return
            case MelWaveNet():
                yield from self.network.pieces(torch.cat(list(pieces), dim=-1), seed=seed[0], **options)
                return
        block = max(SHORTEST_BLOCK, 6 * self.network.halo)
        for window in windows(pieces, block, self.network.halo):
            yield self.make(window, seed, options)

    def _wavenet_options(self, mel: MelPiece, options: dict[str, Any], seed: Sequence[int]) -> dict[str, Any]:
        """Add the seed, a speaker's number as a tensor, and the voiced frames if the sampler needs them."""
        more: dict[str, Any] = {"seed": seed[0]}
        if isinstance(options.get("speaker"), int):
            more["speaker"] = torch.full((len(mel),), options["speaker"], device=self.device)
        if options.get("sampler") and options["sampler"].needs_voicing and options.get("voiced") is None:
            more["voiced"] = voiced(mel, self.mel)
        return {**options, **more}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the network does not have."""
        known = {
            WaveGlow: ("temperature", "denoise"),
            HiFiGAN: ("denoise",),
            MelGAN: ("denoise",),
            Vocos: ("denoise",),
            WaveNet: ("sampler", "speaker", "voiced", "backend"),
            MelWaveNet: ("sampler", "backend"),
        }.get(type(self.network), ())
        for name in options:
            if name not in known:
                raise UserError(
                    f"this vocoder, a {type(self.network).__name__}, has no option {name!r}; "
                    f"its options: {', '.join(known) or 'none'}"
                )

    def make(self, window: Window, seeds: Sequence[int], options: dict[str, Any]) -> WavePiece:
        """Generate the wave of one window of a mel; the frames around it are only context."""
        mel, n_frames = window.mel, window.mel.shape[-1]
        if len(seeds) not in (1, len(mel)):
            raise UserError(f"seed has {len(seeds)} entries for {len(mel)} mels: give one per mel")
        if n_frames < SHORTEST_MEL:
            mel = F.pad(mel, (0, SHORTEST_MEL - n_frames), mode="replicate")
        rest = {name: value for name, value in options.items() if name != "denoise"}
        noise = self._noise(window.start - window.before, mel.shape[-1], seeds)
        if noise is not None:
            noise = noise.expand(len(mel), *noise.shape[1:]).to(self.device)
        wave = cpu.generate(self.network, mel, noise, **rest)
        if options.get("denoise"):
            if self.denoiser is None:
                self.denoiser = Denoiser(self.network)
            wave = self.denoiser(wave, options["denoise"])
        start = window.before * self.hop
        return wave[..., start : start + window.frames * self.hop]

    def _noise(self, first: int, n_frames: int, seeds: Sequence[int]) -> Tensor | None:
        """WaveGlow's noise for these frames, the same in every window; None for other networks."""
        if not isinstance(self.network, WaveGlow):
            return None
        begin, rows = first // NOISE_BLOCK, []
        blocks = range(begin, (first + n_frames - 1) // NOISE_BLOCK + 1)
        for seed in seeds:
            drawn = []
            for block in blocks:
                generator = torch.Generator().manual_seed(step_seed(seed, block))
                drawn.append(self.network.noise(1, NOISE_BLOCK, generator))
            rows.append(torch.cat(drawn, dim=-1))
        whole, skip = torch.cat(rows), first - begin * NOISE_BLOCK
        per_frame = whole.shape[-1] // (NOISE_BLOCK * len(blocks))
        return whole[..., skip * per_frame : (skip + n_frames) * per_frame]
