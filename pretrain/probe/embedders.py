"""Frozen audio encoders for probing, opened by their names on the command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.frontends import LogMel, MelConfig
from engine.hub import HUB, repository
from engine.user_error import UserError

NAMES = (
    "a folder (export or run) or published file of a Wav2CLIP encoder, released, random, logmel, "
    "pooled:FOLDER, speech:FOLDER, clap:FOLDER, yamnet:FILE"
)
"""Description of the values of ``--encoder``."""
STATISTICS = MelConfig(
    sample_rate=16_000, n_fft=1024, win=640, hop=320, n_mels=64, f_min=50.0, power=2, floor=1e-8
)
"""Log-mel settings of the baseline."""

Wave = Float[Tensor, "batch 1 samples"]
Vectors = Float[Tensor, "batch dim"]


@dataclass(frozen=True)
class Embedder:
    """A frozen encoder. Clips of a batch have equal length and do not affect each other's vectors."""

    name: str
    """Column heading in tables."""
    dim: int
    sample_rate: int
    """Sample rate of the input, in Hz."""
    embed: Callable[[Wave], Vectors]
    """Function that returns one vector per clip, on the CPU, without gradient."""
    frames: Callable[[Wave], Float[Tensor, "batch frames channels"]] | None = None
    """Function that returns the features before pooling over time, if the encoder has any."""
    texts: Callable[[list[str]], Float[Tensor, "captions dim"]] | None = None
    """Function that embeds captions in the same space, if the encoder has a text tower."""
    encoder: Any = None
    """The network, for encoders of this package."""


def wav2clip(name: str, encoder: Any, device: str = "cpu") -> Embedder:
    """Return an embedder with the output of a Wav2CLIP encoder."""
    encoder = encoder.eval().requires_grad_(False).to(device)
    return Embedder(
        name,
        encoder.config.dim,
        encoder.config.sample_rate,
        embed=lambda wave: encoder(wave.to(device)).float().cpu(),
        frames=lambda wave: encoder.features(wave.to(device)).float().cpu().mT,
        encoder=encoder,
    )


def pooled(name: str, encoder: Any, device: str = "cpu") -> Embedder:
    """Return an embedder with the mean and deviation over time of a Wav2CLIP encoder's last feature map."""
    base = wav2clip(name, encoder, device)

    def embed(wave: Wave) -> Vectors:
        channels = encoder.features(wave.to(device)).float()
        return torch.cat([channels.mean(-1), channels.std(-1, correction=0)], dim=-1).cpu()

    dim = 2 * encoder.config.channels
    return Embedder(name, dim, base.sample_rate, embed, base.frames, encoder=encoder)


def speech(name: str, encoder: Any, device: str = "cpu") -> Embedder:
    """Return an embedder with the mean over time of a speech encoder's last layer."""
    encoder = encoder.eval().requires_grad_(False).to(device)

    def frames(wave: Wave) -> Tensor:
        return encoder(wave.to(device)).last.float().cpu()

    return Embedder(name, encoder.dim, encoder.sample_rate, lambda wave: frames(wave).mean(1), frames)


def speech_layers(name: str, encoder: Any, device: str = "cpu") -> Embedder:
    """Return an embedder with the concatenated means over time of projected frames and of each layer."""
    encoder = encoder.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def embed(wave: Wave) -> Vectors:
        frames = encoder.project(encoder.local(wave.to(device)))
        layers = [frames, *encoder.layers(encoder.position(frames))]
        return torch.cat([layer.mean(1) for layer in layers], dim=-1).float().cpu()

    dim = (1 + encoder.config.layers) * encoder.dim
    return Embedder(name, dim, encoder.sample_rate, embed, encoder=encoder)


def log_mel_statistics() -> Embedder:
    """Return the untrained baseline: mean and standard deviation over time of each log-mel band."""
    config, mel = STATISTICS, LogMel(STATISTICS)

    def frames(wave: Wave) -> Tensor:
        repeats = -(-config.n_fft // wave.shape[-1])  # a wave shorter than a window is repeated
        return mel(wave.repeat(1, 1, repeats) if repeats > 1 else wave).mT

    def embed(wave: Wave) -> Vectors:
        bands = frames(wave)
        return torch.cat([bands.mean(1), bands.std(1, correction=0)], dim=-1)

    return Embedder("logmel", 2 * config.n_mels, config.sample_rate, embed, frames)


def clap(place: str, device: str = "cpu") -> Embedder:
    """Return an embedder with transformers' CLAP (Wu et al., 2023), at 48 kHz."""
    from transformers import AutoProcessor, ClapModel

    name, local = repository(place) or place, repository(place) is None
    try:
        model: Any = ClapModel.from_pretrained(name, local_files_only=local).eval().requires_grad_(False)
        processor: Any = AutoProcessor.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError) as error:
        detail = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"--encoder clap:{place} cannot be loaded ({detail}): give a local folder with the model and "
            f"its processor, or {HUB}owner/name with a network connection"
        ) from None
    model.to(device)
    rate = int(processor.feature_extractor.sampling_rate)

    def vectors(output: Any) -> Tensor:  # newer versions of transformers wrap the vectors
        return (output if isinstance(output, Tensor) else output.pooler_output).float().cpu()

    def embed(wave: Wave) -> Vectors:
        clips = list(wave[:, 0].numpy())
        inputs = processor.feature_extractor(clips, sampling_rate=rate, return_tensors="pt")
        return vectors(model.get_audio_features(**inputs.to(device)))

    def texts(captions: list[str]) -> Tensor:
        inputs = processor.tokenizer(captions, padding=True, return_tensors="pt").to(device)
        return F.normalize(vectors(model.get_text_features(**inputs)), dim=-1)

    return Embedder("clap", int(model.config.projection_dim), rate, embed, texts=texts)


def open_embedder(name: str, *, like: Any = None, device: str = "cpu") -> Embedder:
    """Open an encoder by its name (see ``NAMES``); ``random`` has the architecture of the config ``like``."""
    kind, _, place = name.partition(":")
    if kind in ("pooled", "speech", "clap", "yamnet") and not place:
        raise UserError(f"--encoder {kind} needs its folder: --encoder {kind}:FOLDER")
    match kind:
        case "logmel":
            return log_mel_statistics()
        case "random":
            return wav2clip("random", _audio_encoder("random", like), device)
        case "pooled":
            return pooled(f"pooled {short_name(place)}", _audio_encoder(place, like), device)
        case "speech":
            from pretrain.speech.loading import load_speech_encoder

            return speech(name, load_speech_encoder(place), device)
        case "clap":
            return clap(place, device)
        case "yamnet":
            from pretrain.probe.yamnet import DIM, SAMPLE_RATE, load_yamnet

            network = load_yamnet(place).to(device)
            return Embedder("yamnet", DIM, SAMPLE_RATE, lambda wave: network.embed(wave.to(device)).cpu())
    if name != "released" and not Path(name).exists():
        raise UserError(f"--encoder {name}: there is no such folder or file; give {NAMES}")
    return wav2clip(short_name(name), _audio_encoder(name, like), device)


def open_embedders(names: Sequence[str], *, device: str = "cpu", like: Any = None) -> list[Embedder]:
    """Open several encoders in order. ``random`` has the architecture of the first Wav2CLIP encoder among
    them, or else that of the config ``like`` (by default the paper's)."""
    others = {n: open_embedder(n, device=device) for n in names if n != "random"}
    like = next((e.encoder.config for e in others.values() if e.encoder is not None), like)
    return [others.get(n) or open_embedder(n, like=like, device=device) for n in dict.fromkeys(names)]


def short_name(place: str | Path) -> str:
    """Return the column heading: the run's name for RUN/export, else the name of the folder or file."""
    path = Path(place).resolve()
    return path.parent.name if path.name == "export" else path.name


def _audio_encoder(place: str, like: Any) -> Any:
    """Load an audio encoder, or build a random one with the sizes ``like``, by default the paper's."""
    from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
    from pretrain.clip.loading import load_audio_encoder

    if place != "random":
        return load_audio_encoder("wav2clip", place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AudioEncoder(like or AudioEncoderConfig())
