"""The first published layout of WaveGlow's weights (``waveglow_256channels.pt``), made into the later one.

There, each layer has its own ``cond_layers.i``, ``res_layers.i`` and ``skip_layers.i``. Weight norm is one
factor per output channel, so that stacking the layers' outputs stacks factors and directions as they are.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.user_error import UserError

_KEY = re.compile(r"(WN\.\d+)\.(cond_layers|res_layers|skip_layers)\.(\d+)\.(.+)")


def fuse_old_layout(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the later layout: ``cond_layer`` and ``res_skip_layers.i``; others as they are.

    Weights may be folded or not, the weight norm pair named either way. The old layout's last layer may
    bear a residual half, which nothing hears; it is left out.
    """
    fused: dict[str, Tensor] = {}
    parts: dict[tuple[str, str, str], dict[int, Tensor]] = {}
    for key, value in state_dict.items():
        found = _KEY.fullmatch(key)
        if found is None:
            fused[key] = value
        else:
            coupling, kind, layer, rest = found.groups()
            parts.setdefault((coupling, kind, rest), {})[int(layer)] = value
    for (coupling, kind, rest), layers in parts.items():
        if sorted(layers) != list(range(len(layers))):
            raise UserError(f"layers of {coupling}.{kind} are missing: only {sorted(layers)} have a {rest}")
        if kind == "cond_layers":
            fused[f"{coupling}.cond_layer.{rest}"] = torch.cat([layers[i] for i in sorted(layers)])
        if kind == "skip_layers":
            residual = parts.get((coupling, "res_layers", rest), {})
            for i, skip in layers.items():
                halves = [skip] if i + 1 == len(layers) else [residual[i], skip] if i in residual else []
                if not halves:
                    raise UserError(f"{coupling}.res_layers.{i}.{rest} is missing beside its skip layer")
                fused[f"{coupling}.res_skip_layers.{i}.{rest}"] = torch.cat(halves)
    return fused
