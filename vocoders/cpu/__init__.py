"""The one door to this room: generation on a CPU, several times faster than layer by layer, and training.

Networks know nothing of it. What comes out is what they would return, up to rounding.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vocoders.cpu.grouped_convolution import GroupedConv1d

__all__ = ["GroupedConv1d", "generate", "plan", "sample_loop"]

_plans: WeakKeyDictionary[nn.Module, tuple[list, Any]] = WeakKeyDictionary()  # modules stay copyable


@torch.no_grad()
def generate(
    network: Any, mel: Float[Tensor, "batch n_mels frames"], noise: Tensor | None = None, **options: Any
) -> Float[Tensor, "batch 1 samples"]:
    """Return a network's wave of a mel, by kernels where there are some for it; WaveGlow takes ``noise``."""
    from vocoders.waveglow import WaveGlow

    laid_out = plan(network, mel)
    if isinstance(network, WaveGlow):
        return (laid_out or network.inverse)(mel, network.latent(mel, noise, **options))
    return (laid_out or network)(mel)


def plan(network: nn.Module, mel: Tensor) -> Any | None:
    """The network's weights laid out: kept, and made anew when one has changed; none where nothing suits."""
    weight = next(network.parameters(), None)
    if weight is None or not (mel.device.type == weight.device.type == "cpu"):
        return None
    if not mel.dtype == weight.dtype == torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    with torch.inference_mode(False), torch.no_grad():
        state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in network.parameters()]
        held = _plans.get(network)
        if held is None or held[0] != state:
            _plans.pop(network, held := None)  # the old one is freed before the new one is made
            held = _plans[network] = state, _lay_out(network)
    return held[1]


def _lay_out(network: nn.Module) -> Any | None:
    from vocoders.cpu.generator import hifigan_plan, melgan_plan
    from vocoders.cpu.waveglow import WaveGlowPlan
    from vocoders.hifigan import HiFiGAN
    from vocoders.melgan import MelGAN
    from vocoders.waveglow import WaveGlow

    if isinstance(network, HiFiGAN):
        return hifigan_plan(network)
    if isinstance(network, MelGAN):
        return melgan_plan(network)
    if isinstance(network, WaveGlow) and network.config.kernel == 3:
        return WaveGlowPlan(network)
    return None


def sample_loop(network: Any, batch: int, prediction: Any = None) -> Any:
    """WaveNet's loop over samples, at silence; see ``wavenet.sampling.CachedTorch``."""
    from vocoders.cpu.wavenet import CompiledLoop

    return CompiledLoop(network, batch, prediction)
