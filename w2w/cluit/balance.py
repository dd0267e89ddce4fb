"""Every loss on the converter's output gets its share of the gradient, however long its own is."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from engine.processes import n_processes

DECAY = 0.99
"""Of the running mean of a gradient's norm, a step."""
STRENGTH = 2.0
"""Norm of the output's gradient that a share of 1 gives."""


class LossBalancer(nn.Module):
    """Scales each loss's gradient at the output to a share of one norm (Défossez et al. 2022, eq. 5).

    Weights of losses then say what they do: none can drown the others, and a discriminator that grows sharper
    does not pull harder. The running means belong to the checkpoint.
    """

    norms: Float[Tensor, " losses"]
    steps: Float[Tensor, " losses"]

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.register_buffer("norms", torch.zeros(len(names)))
        self.register_buffer("steps", torch.zeros(len(names)))

    def forward(
        self, losses: Mapping[str, Tensor], shares: Mapping[str, float], output: Float[Tensor, "*shape"]
    ) -> Float[Tensor, ""]:
        """A scalar whose gradient with respect to ``output`` is that of all losses, balanced."""
        total = torch.zeros_like(output)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
            norm = self.running_norm(name, gradient.float().norm())
            total += STRENGTH * shares[name] / norm.clamp_min(1e-12) * gradient
        return (total.detach() * output).sum()

    def running_norm(self, name: str, norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Take one gradient's norm into the mean and return that; of processes together, as of one batch."""
        if (count := n_processes()) > 1:
            squared = norm.square()
            dist.all_reduce(squared)
            norm = squared.sqrt() / count  # every process's loss is a mean over its own rows alone
        place = self.names.index(name)
        self.norms[place] = DECAY * self.norms[place] + (1 - DECAY) * norm
        self.steps[place] += 1
        return self.norms[place] / (1 - DECAY ** self.steps[place])
