"""Utterances as vectors (layers of a speech encoder, averaged over time), and a linear classifier on them."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from data.audio import load
from data.frontends import LogMel
from engine.user_error import UserError
from pretrain.probe.embedders import STATISTICS
from pretrain.speech.encoder import SpeechEncoder
from pretrain.speech.loading import load_speech_encoder

Vectors = Float[Tensor, "utterances dim"]


def open_speech_encoder(name: str, like: str = "", seed: int = 0) -> SpeechEncoder:
    """Open an encoder by its folder; ``random`` is the network of ``like`` before any training."""
    if name != "random":
        return load_speech_encoder(name.removeprefix("speech:")).eval().requires_grad_(False)
    if not like:
        raise UserError("--encoder random has the shape of another encoder: give its folder too")
    config = load_speech_encoder(like.removeprefix("speech:")).config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpeechEncoder(config).eval().requires_grad_(False)


@torch.no_grad()
def layer_means(
    encoder: SpeechEncoder,
    paths: Sequence[Path],
    *,
    longest_s: float = 10.0,
    name: str = "",
    device: str = "cpu",
) -> dict[str, Vectors]:
    """Return each utterance's mean over time of what each layer makes of its first seconds."""
    encoder.to(device)
    longest = round(longest_s * encoder.sample_rate)
    heard: list[list[Tensor]] = []
    for path in tqdm(paths, desc=f"hearing by {name or 'encoder'}", unit="file", delay=1.0):
        wave = load(path, encoder.sample_rate)[..., :longest].to(device)
        frames = encoder.project(encoder.local(wave))
        features = [frames, *encoder.layers(encoder.position(frames))]
        heard.append([f[0].mean(0).float().cpu() for f in features])
    names = ["projected", *(f"layer {i}" for i in range(1, encoder.config.layers + 1))]
    return {name: torch.stack(vectors) for name, vectors in zip(names, zip(*heard))}


@torch.no_grad()
def log_mel_statistics(paths: Sequence[Path], *, longest_s: float = 10.0) -> Vectors:
    """Return mean and standard deviation over time of each log-mel band: the baseline without learning."""
    mel = LogMel(STATISTICS)
    longest = round(longest_s * STATISTICS.sample_rate)
    heard = []
    for path in tqdm(paths, desc="hearing by logmel", unit="file", delay=1.0):
        wave = load(path, STATISTICS.sample_rate)[..., :longest]
        bands = mel(F.pad(wave, (0, max(0, STATISTICS.n_fft - wave.shape[-1]))))[0]
        heard.append(torch.cat([bands.mean(-1), bands.std(-1, correction=0)]))
    return torch.stack(heard)


def classify(
    train: Vectors,
    labels: Int[Tensor, "utterances"],
    other: Float[Tensor, "others dim"],
    n_classes: int,
    *,
    penalty: float = 1e-2,
) -> Float[Tensor, "others n_classes"]:
    """Fit a multinomial logistic regression on standardised vectors and return its logits of the others.

    The problem is convex and solved to the end from zero (L-BFGS): no seed enters.
    """
    mean, scale = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, y = ((v - mean) / scale for v in (train, other))
    weight, bias = (
        torch.zeros(x.shape[1], n_classes, requires_grad=True),
        torch.zeros(n_classes, requires_grad=True),
    )
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + penalty * weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)  # pyright: ignore[reportArgumentType]
    return (y @ weight + bias).detach()
