"""The converter's two halves as training runs them: what is encoded once is spoken with several voices."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from w2w.networks.content import Content
from w2w.networks.network import ConverterNetwork, move, voiced
from w2w.networks.pitch import Pitch

Wave = Float[Tensor, "batch 1 samples"]


class Encoded(NamedTuple):
    """What is taken from a source before a voice is chosen."""

    content: Content
    pitch: Pitch
    usual: Float[Tensor, "batch 1 frames"]
    """Running mean of log-F0."""


def encode(network: ConverterNetwork, wave: Wave, *, warp: float = 0.0, noise: float = 0.0) -> Encoded:
    """Codes, energy, F0 and its running mean, all lagging by the look-ahead.

    The encoder hears formants moved at random by up to ``warp``; ``noise`` is the deviation of the code's.
    """
    led, bend = network.lead(wave), None
    if warp:
        bend = 1.0 + warp * (2 * torch.rand(len(wave), device=wave.device) - 1)
    code, energy = network.content(led, bend)
    if noise:
        code = code + noise * torch.randn_like(code)
    pitch = network.pitch(led)
    return Encoded(Content(code, energy), pitch, network.usual_pitch(pitch.log_f0, voiced(pitch)))


def decode(
    network: ConverterNetwork,
    encoded: Encoded,
    voice: Float[Tensor, "batch voice"],
    samples: int,
    *,
    own_pitch: bool = False,
) -> Float[Tensor, "batch 1 out"]:
    """Speak what was encoded, at its own pitch or at the voice's; pulses and noise begin anywhere."""
    pitch = encoded.pitch if own_pitch else move(encoded.pitch, encoded.usual, voice.detach())
    state = network.decoder.begin(len(voice), random=True)
    wave, _ = network.decoder.step(encoded.content, pitch, voice, state)
    return wave[..., network.config.look_ahead :][..., :samples]
