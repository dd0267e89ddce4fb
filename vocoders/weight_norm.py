"""Weight norm taken away, and put back: parameters change their names, the outputs stay."""

from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

Network = TypeVar("Network", bound=nn.Module)


def fold_weight_norm(network: Network) -> Network:
    """Replace every parametrized weight by its value, in place."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return network


@torch.no_grad()
def unfold(folded: nn.Module, network: nn.Module) -> None:
    """Fill a network under weight norm with what gives it the outputs of its folded twin."""
    plain = dict(folded.state_dict())
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            cast(Any, module).weight = plain.pop(f"{name}.weight")
    network.load_state_dict({**network.state_dict(), **plain})
