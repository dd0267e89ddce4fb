"""The mean F0 of a source that is at hand before it is converted: live, it must be learned on the way."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from engine.running_mean import MeanState
from w2w.networks.network import ConverterNetwork

HEARD_S = 60.0
"""Seconds of a recording that its mean is taken from."""
BLOCK_S = 4.0
"""Seconds tracked at once, lest memory grow."""
LEAST_FRAMES = 30
"""Voiced ones, in less of which nothing is known."""
WORTH_FRAMES = 2_000.0
"""Of speech that the mean counts for: twice what the running mean remembers."""


@torch.inference_mode()
def mean_log_f0(network: Any, wave: Float[Tensor, "1 1 samples"]) -> float | None:
    """Mean log F0 (of Hz) of a wave at the network's rate; None where it is not known, or not used."""
    if not isinstance(network, ConverterNetwork):
        return None
    heard = wave[..., : round(HEARD_S * network.sample_rate)].to(network.mean_log_f0.prior.device)
    total, n_voiced = 0.0, 0
    for block in heard.split(round(BLOCK_S * network.sample_rate), dim=-1):
        pitch = network.pitch(block)
        voiced = int((pitch.voicing > 0.5).sum())
        total += voiced * float(network.style.mean_log_f0(block, pitch))
        n_voiced += voiced
    return total / n_voiced if n_voiced >= LEAST_FRAMES else None


def knowing(state: dict[str, Any], log_f0: float) -> dict[str, Any]:
    """A network's state before the first frame, of one who knows the source's mean log F0."""
    total, weight = state["mean_log_f0"]
    known = MeanState(torch.full_like(total, log_f0 * WORTH_FRAMES), torch.full_like(weight, WORTH_FRAMES))
    return state | {"mean_log_f0": known}
