"""Remove weight norm, and load folded weights into a network with weight norm; outputs do not change."""

from typing import Any, Self, TypeVar, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

Network = TypeVar("Network", bound=nn.Module)


def fold_weight_norm(network: Network) -> Network:
    """Replace every parametrised weight by its value, in place, which changes parameter names."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return network


class Foldable(nn.Module):
    """A network whose weight norm, if it has any, can be removed."""

    def fold(self) -> Self:
        """Remove weight norm in place: parameter names change, outputs do not."""
        return fold_weight_norm(self)


@torch.no_grad()
def unfold(folded: nn.Module, network: nn.Module) -> None:
    """Set the parameters of a network with weight norm to give the outputs of its ``folded`` copy."""
    plain = dict(folded.state_dict())
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            cast(Any, module).weight = plain.pop(f"{name}.weight")
    network.load_state_dict({**network.state_dict(), **plain})
