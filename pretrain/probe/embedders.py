"""What is probed: anything that turns a wave into one vector, opened by its name on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig
from engine.user_error import UserError

NAMES = (
    "a folder (export or run) or published file of a Wav2CLIP encoder, released, random, logmel, "
    "pooled:FOLDER, speech:FOLDER, clap:FOLDER, yamnet:FILE.onnx, openl3[:FILE.onnx]"
)
"""What ``--encoder`` takes."""
STATISTICS = MelConfig(
    sample_rate=16_000, n_fft=1024, win=640, hop=320, n_mels=64, f_min=50.0, power=2, floor=1e-8
)
"""The log-mel of the baseline."""


@runtime_checkable
class Embedder(Protocol):
    """A frozen encoder of sounds. Clips of a batch have one length and never change each other's vectors."""

    name: str
    """As it stands over a column."""
    dim: int
    sample_rate: int
    """Hz that ``embed`` expects."""

    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        """One vector a clip, without gradient."""
        ...


class Clip2Vec:
    """Our Wav2CLIP encoder: its clip-level output."""

    def __init__(self, name: str, encoder: Any, device: str = "cpu") -> None:
        self.name, self.encoder, self.device = name, encoder.eval().requires_grad_(False).to(device), device
        self.dim, self.sample_rate = int(encoder.config.dim), int(encoder.config.sample_rate)

    @torch.no_grad()
    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        return self.encoder(wave.to(self.device)).float().cpu()


class Pooled(Clip2Vec):
    """Our Wav2CLIP encoder's last map: mean and deviation over time of its channels, before the transform."""

    def __init__(self, name: str, encoder: Any, device: str = "cpu") -> None:
        super().__init__(name, encoder, device)
        self.dim = 2 * int(encoder.config.channels)

    @torch.no_grad()
    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        channels = self.encoder.features(wave.to(self.device)).float()
        return torch.cat([channels.mean(-1), channels.std(-1, correction=0)], dim=-1).cpu()


class Speech2Vec:
    """Our speech encoder: its last layer's mean over the frames, of a wave at zero mean and unit variance."""

    def __init__(self, name: str, encoder: Any, device: str = "cpu") -> None:
        self.name, self.encoder, self.device = name, encoder.eval().requires_grad_(False).to(device), device
        self.dim, self.sample_rate = int(encoder.config.hidden), 16_000

    @torch.no_grad()
    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        return self.encoder(wave.to(self.device), None).last.mean(1).float().cpu()


class LogMelStatistics:
    """The baseline without any learning: mean and standard deviation over time of each log-mel band."""

    def __init__(self, config: MelConfig = STATISTICS) -> None:
        self.name, self.mel = "logmel", LogMel(config)
        self.dim, self.sample_rate = 2 * config.n_mels, config.sample_rate

    @torch.no_grad()
    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        shortest = self.mel.config.n_fft
        if wave.shape[-1] < shortest:
            wave = wave.repeat(1, 1, -(-shortest // wave.shape[-1]))
        bands = self.mel(wave)
        return torch.cat([bands.mean(-1), bands.std(-1, correction=0)], dim=-1)


def random_embedder(config: Any = None, *, seed: int = 0, device: str = "cpu") -> Clip2Vec:
    """The architecture of an encoder (by default the paper's) with the weights it starts training from."""
    from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: nn.Module = AudioEncoder(config or AudioEncoderConfig())
    return Clip2Vec("random", encoder, device)


def open_embedder(name: str, *, like: Any = None, seed: int = 0, device: str = "cpu") -> Embedder:
    """Open an encoder by its name, see ``NAMES``; ``random`` has the architecture of the config ``like``."""
    first, _, place = name.partition(":")
    match first:
        case "logmel":
            return LogMelStatistics()
        case "random":
            return random_embedder(_audio_encoder(place).config if place else like, seed=seed, device=device)
        case "released":
            return Clip2Vec("released", _audio_encoder("released"), device)
        case "speech" | "clap" | "yamnet" | "pooled" if not place:
            what = "its ONNX file" if first == "yamnet" else "its folder"
            raise UserError(f"--encoder {first} needs {what}: --encoder {first}:PLACE")
        case "pooled":
            encoder = random_embedder(like, seed=seed).encoder if place == "random" else _audio_encoder(place)
            return Pooled(f"pooled {short_name(Path(place))}", encoder, device)
        case "speech":
            from pretrain.speech.loading import load_speech_encoder

            return Speech2Vec(name, load_speech_encoder(place), device)
        case "clap" | "yamnet" | "openl3":
            from pretrain.probe.comparisons import open_comparison

            return open_comparison(first, place, device)
    if not Path(name).exists():
        raise UserError(f"--encoder {name}: there is no such folder or file; give {NAMES}")
    return Clip2Vec(short_name(Path(name)), _audio_encoder(name), device)


def open_embedders(
    names: Sequence[str], *, seed: int = 0, device: str = "cpu", like: Any = None
) -> list[Embedder]:
    """Open several, in order; a plain ``random`` is built like the first Wav2CLIP encoder among them,
    without one like the config ``like``, or else the paper's."""
    others = {n: open_embedder(n, seed=seed, device=device) for n in names if n != "random"}
    like = next((e.encoder.config for e in others.values() if isinstance(e, Clip2Vec)), like)
    return [
        others.get(n) or open_embedder(n, like=like, seed=seed, device=device) for n in dict.fromkeys(names)
    ]


def short_name(path: Path) -> str:
    """A column's heading: the run's name for RUN/export, else the folder's or file's own."""
    path = path.resolve()
    return path.parent.name if path.name == "export" else path.name


def _audio_encoder(place: str) -> Any:
    from pretrain import load_audio_encoder

    return load_audio_encoder("wav2clip", place)
