"""Whether an exported step does what the network does: asked before anything is written."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from w2w.networks.network import ConverterNetwork

MOST = 1e-4
"""Difference of any sample, on waves of full scale 1, above which nothing is written."""
SECONDS = 4.0
SEMITONES = 1.5
Run = Callable[[Tensor, Tensor, Tensor, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]
"""Chunk, voice, semitones and state to samples and the next state."""


@torch.inference_mode()
def difference(network: ConverterNetwork, run: Run, begun: Mapping[str, Tensor], n_hops: int) -> float:
    """The largest difference of a sample, step by step, over some seconds of what resembles speech."""
    chunk_samples, device = n_hops * network.hop, next(network.parameters()).device
    wave = speechlike(network.sample_rate, SECONDS)
    wave = wave[..., : wave.shape[-1] // chunk_samples * chunk_samples]
    voice = network.style(wave.to(device))
    semitones = SEMITONES if network.moves_pitch else 0.0
    state, plain_state, worst = dict(begun), network.begin(1), 0.0
    moved = torch.tensor([semitones], dtype=torch.float64)
    for chunk in wave.split(chunk_samples, dim=-1):
        made, state = run(chunk, voice.cpu(), moved, state)
        plain, plain_state = network.step(chunk.to(device), voice, plain_state, semitones)
        # Not a number counts as the worst of all.
        worst = max(worst, (made - plain.cpu()).abs().nan_to_num(nan=math.inf).max().item())
    return worst


def require_equal(found: float, what: str) -> None:
    """Refuse an export that speaks otherwise than the network."""
    if not found <= MOST:
        raise UserError(
            f"{what} differs from the network by {found:.1e}, more than {MOST}: nothing was written;"
            " export it with the versions of torch and onnxruntime that constraints.txt names"
        )


def speechlike(sample_rate: int, seconds: float) -> Float[Tensor, "1 1 samples"]:
    """Syllables whose pitch glides, hisses between them, a silence, a loud end: the same on every call."""
    rng = torch.Generator().manual_seed(0)
    time = torch.arange(round(sample_rate * seconds), dtype=torch.float64) / sample_rate
    f0 = 150.0 * torch.exp(0.5 * torch.sin(1.7 * time) + 0.05 * torch.sin(31.0 * time))
    phase = 2.0 * math.pi * (f0 / sample_rate).cumsum(0)
    voiced = torch.zeros_like(time)
    for number in range(1, 30):
        # Two formants that wander, below half the rate.
        heights = (500.0 + 250.0 * torch.sin(3.1 * time), 1600.0 + 500.0 * torch.sin(2.3 * time))
        level = sum(torch.exp(-(((number * f0 - height) / 300.0) ** 2)) for height in heights) + 0.05
        voiced += level * torch.sin(number * phase) * (number * f0 < 0.45 * sample_rate)
    syllable = torch.sin(2.0 * math.pi * 2.1 * time).clamp_min(-0.2)
    hiss = torch.randn(len(time), generator=rng, dtype=torch.float64)
    wave = 0.1 * voiced * syllable.clamp_min(0.0) + 0.05 * hiss * (-syllable).clamp_min(0.0)
    wave = wave + 0.0005 * hiss
    part = time / seconds
    wave = torch.where((part > 0.55) & (part < 0.65), torch.zeros_like(wave), wave)
    return torch.where(part > 0.9, 4.0 * wave, wave).clamp(-1.0, 1.0).float()[None, None]
