"""The interface of the CPU kernels: faster training, and generation several times faster than layer by layer.

Results equal those of the networks, which do not depend on this package, up to rounding.
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
    """Generate the wave of a mel, with CPU kernels if the network has any; ``noise`` is for WaveGlow."""
    from vocoders.waveglow import WaveGlow

    kernels = plan(network, mel)
    if isinstance(network, WaveGlow):
        return (kernels or network.inverse)(mel, network.latent(mel, noise, **options))
    return (kernels or network)(mel)


def plan(network: nn.Module, mel: Tensor) -> Any | None:
    """The kernels for a network with packed weights, cached until a weight changes; None if unsupported."""
    weight = next(network.parameters(), None)
    if weight is None or not (mel.device.type == weight.device.type == "cpu"):
        return None
    if not mel.dtype == weight.dtype == torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    with torch.inference_mode(False), torch.no_grad():
        state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in network.parameters()]
        entry = _plans.get(network)
        if entry is None or entry[0] != state:
            _plans.pop(network, entry := None)  # frees the old plan before the new one is made
            entry = _plans[network] = state, _new_plan(network)
    return entry[1]


def _new_plan(network: nn.Module) -> Any | None:
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


def sample_loop(network: Any, batch: int, predictor: Any = None) -> Any:
    """WaveNet's compiled sampling loop in its initial state; see ``wavenet.sampling.CachedTorch``."""
    from vocoders.cpu.wavenet import CompiledLoop

    return CompiledLoop(network, batch, predictor)
