"""The two raw sounds a voice is filtered from: pulses at F0, and noise."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

Blocks = Float[Tensor, "batch frames hop"]


class ExcitationState(NamedTuple):
    """Where the sources stand."""

    phase: Tensor
    """Cycles, float64 (batch, 1)."""
    log_f0: Tensor
    """Of the last frame, float64 (batch, 1, 1)."""
    position: Int64[Tensor, "batch 1"]
    """Samples made so far: the address of the next noise sample."""


class Excitation(nn.Module):
    """A band-limited pulse train that follows F0, and white noise; both of unit power.

    The noise is a hash of the sample's position, so any chunking of a signal hears the same noise.
    """

    ramp: Tensor

    def __init__(self, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop
        ramp = (torch.arange(hop, dtype=torch.float64) + 1) / hop
        self.register_buffer("ramp", ramp, persistent=False)

    def begin(self, batch: int, *, random: bool = False) -> ExcitationState:
        """Phase zero and noise from its beginning, or both anywhere (for training)."""
        device = self.ramp.device
        if random:
            phase = torch.rand(batch, 1, device=device).double()
            position = torch.randint(2**30, (batch, 1), device=device)
        else:
            phase = torch.zeros(batch, 1, dtype=torch.float64, device=device)
            position = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return ExcitationState(
            phase, torch.full((batch, 1, 1), math.log(150.0), dtype=torch.float64, device=device), position
        )

    @torch.no_grad()
    def step(
        self, log_f0: Float[Tensor, "batch 1 frames"], state: ExcitationState
    ) -> tuple[Blocks, Blocks, ExcitationState]:
        """Pulses and noise, a block of ``hop`` samples for each frame."""
        batch, _, frames = log_f0.shape
        log_f0 = log_f0.double()
        before = torch.cat([state.log_f0, log_f0[..., :-1]], dim=-1)[:, 0, :, None]
        now = log_f0[:, 0, :, None]
        f0 = (before + (now - before) * self.ramp).exp().flatten(1)  # (batch, samples)
        # Float64: an hour of cycles must still place a pulse exactly.
        cycles = state.phase + (f0 / self.sample_rate).cumsum(-1)
        angle = math.pi * (cycles - cycles.floor())
        harmonics = torch.floor(0.5 * self.sample_rate / f0)
        # Sum of cosines 1..n in closed form (the Dirichlet kernel).
        sine = angle.sin()
        summit = sine.abs() < 1e-9
        ratio = ((2 * harmonics + 1) * angle).sin() / torch.where(summit, torch.ones_like(sine), sine)
        pulses = 0.5 * (torch.where(summit, 2 * harmonics + 1, ratio) - 1.0) * (2.0 / harmonics).sqrt()
        places = state.position + torch.arange(frames * self.hop, device=log_f0.device)
        after = ExcitationState(cycles[:, -1:] % 1.0, log_f0[..., -1:], state.position + frames * self.hop)
        shape = (batch, frames, self.hop)
        return pulses.float().reshape(shape), white_noise(places).reshape(shape), after


def white_noise(position: Int64[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Uniform noise of unit power, a function of position alone (the `lowbias32` integer hash)."""
    x = position & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return (x.double() / 2**31 - 1.0).float() * math.sqrt(3.0)
