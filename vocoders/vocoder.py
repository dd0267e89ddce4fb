"""The public interface of all vocoders: log-mels of any length to waves.

vocoder = load_vocoder("hifigan", "generator_v1", config="config_v1.json")  # published or our own weights
wave = vocoder(vocoder.log_mel(load("speech.wav", vocoder.sample_rate)))  # (batch, 1, frames · hop)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.seeding import step_seed
from engine.user_error import UserError, within
from vocoders import cpu
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
    GriffinLimConfig: GriffinLim,
    NeuralGriffinLimConfig: NeuralGriffinLim,
    HiFiGANConfig: HiFiGAN,
    MelGANConfig: MelGAN,
    VocosConfig: Vocos,
    WaveGlowConfig: WaveGlow,
    WaveNetConfig: WaveNet,
    MelWaveNetConfig: MelWaveNet,
}
OPTIONS: dict[type, tuple[str, ...]] = {
    WaveGlow: ("temperature", "denoise"),
    HiFiGAN: ("denoise",),
    MelGAN: ("denoise",),
    Vocos: ("denoise",),
    WaveNet: ("sampler", "speaker", "voiced", "backend"),
    MelWaveNet: ("sampler", "backend"),
}
"""Options of ``Vocoder.stream`` by network."""
SHORTEST_BLOCK = 1024
"""Minimum frames per generated block: small enough for the CPU caches, long compared with the halo."""
NOISE_BLOCK = 64
"""Frames per noise block; each block is seeded by the seed and its number."""
DENOISER_FFT = 1024
"""Length of the denoiser's FFT and window, in samples, as published for WaveGlow."""
DENOISER_FRAMES = 88
"""Frames of the zero mel from which a network's constant noise is estimated, as published for WaveGlow."""
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
    kind: Any = NETWORKS[type(config)]
    depends_on_mel = isinstance(config, GriffinLimConfig | NeuralGriffinLimConfig | MelWaveNetConfig)
    network = kind(config, mel) if depends_on_mel else kind(config)
    if (network.hop, network.n_mels) != (mel.hop, mel.n_mels):
        raise UserError(
            f"the network has hop {network.hop} and {network.n_mels} bands, the mel definition has "
            f"{mel.hop} and {mel.n_mels}: change one of them to match the other"
        )
    return network


Wave = Float[Tensor, "batch 1 samples"]


class Denoiser(nn.Module):
    """Subtracts ``strength`` times the magnitudes of a network's output for a zero mel and zero noise.

    As published for WaveGlow, these are the magnitudes of the output's first STFT frame, centred on the first
    sample; the STFT has Hann windows of 1024 samples and a hop of a quarter. Phases are unchanged.
    """

    window: Tensor
    bias_magnitude: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        device = next(network.parameters()).device
        self.register_buffer("window", torch.hann_window(DENOISER_FFT).to(device), persistent=False)
        mel, noise = torch.zeros(1, network.n_mels, DENOISER_FRAMES, device=device), None
        if isinstance(network, WaveGlow):
            noise = torch.zeros_like(network.noise(1, DENOISER_FRAMES, torch.Generator()), device=device)
        constant = self._stft(cpu.generate(network, mel, noise))
        self.register_buffer("bias_magnitude", constant.abs()[0, :, :1])

    @torch.no_grad()
    def forward(self, wave: Wave, strength: float = 0.1) -> Wave:
        """Return the denoised wave, with its length unchanged; ``strength`` .1 as published, 0 for none."""
        if strength == 0:
            return wave
        spectrum = self._stft(wave)
        magnitude = spectrum.abs()
        # As published: magnitudes after subtraction, floored at 0, with the original phases.
        scale = (magnitude - strength * self.bias_magnitude).clamp_min(0) / magnitude.clamp_min(1e-30)
        clean = torch.istft(spectrum * scale, DENOISER_FFT, DENOISER_FFT // 4, window=self.window)
        return F.pad(clean, (0, wave.shape[-1] - clean.shape[-1]))[:, None].to(wave.dtype)

    def _stft(self, wave: Wave) -> Complex[Tensor, "batch bins frames"]:
        hop, short = DENOISER_FFT // 4, DENOISER_FFT // 2 + 1 - wave.shape[-1]
        padded = F.pad(wave.float().squeeze(1), (0, max(short, 0) + -wave.shape[-1] % hop))
        return torch.stft(padded, DENOISER_FFT, hop, window=self.window, return_complex=True)


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
    ) -> Wave:
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
        waves = self._waves((piece.to(self.device) for piece in pieces), seed, options)
        yield from de_emphasised(waves, self.config.pre_emphasis, self.config.gain)

    def _waves(
        self, pieces: Iterable[MelPiece], seed: Sequence[int], options: dict[str, Any]
    ) -> Iterator[WavePiece]:
        match self.network:
            case FromMagnitudes():
                yield from self.network.stream(pieces, seed)
            case WaveNet():
                whole = torch.cat(list(pieces), dim=-1)
                yield from wavenet_pieces(self.network, whole, **self._wavenet_options(whole, options, seed))
            case MelWaveNet():
                yield from self.network.pieces(torch.cat(list(pieces), dim=-1), seed=seed[0], **options)
            case _:
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
        known = OPTIONS.get(type(self.network), ())
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
        noise = None
        if isinstance(self.network, WaveGlow):
            noise = self._noise(self.network, window.start - window.before, mel.shape[-1], seeds)
            noise = noise.expand(len(mel), -1, -1).to(self.device)
        wave = cpu.generate(self.network, mel, noise, **rest)
        if options.get("denoise"):
            if self.denoiser is None:
                self.denoiser = Denoiser(self.network)
            wave = self.denoiser(wave, options["denoise"])
        start = window.before * self.hop
        return wave[..., start : start + window.frames * self.hop]

    @staticmethod
    def _noise(network: WaveGlow, first: int, n_frames: int, seeds: Sequence[int]) -> Tensor:
        """WaveGlow's noise for these frames, the same in every window."""
        blocks = range(first // NOISE_BLOCK, (first + n_frames - 1) // NOISE_BLOCK + 1)
        rows = []
        for seed in seeds:
            generators = [torch.Generator().manual_seed(step_seed(seed, block)) for block in blocks]
            drawn = [network.noise(1, NOISE_BLOCK, generator) for generator in generators]
            rows.append(torch.cat(drawn, dim=-1))
        whole, skip = torch.cat(rows), first % NOISE_BLOCK
        per_frame = whole.shape[-1] // (NOISE_BLOCK * len(blocks))
        return whole[..., skip * per_frame : (skip + n_frames) * per_frame]
