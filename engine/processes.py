"""Distributed training: the number of processes, and a differentiable all-gather of their batches."""

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

Gradients = list[Tensor | None]


def n_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(rows: Shaped[Tensor, "batch *rest"]) -> Shaped[Tensor, "all *rest"]:
    """Concatenate the rows of all processes by rank; gradients from all processes' losses reach each row."""
    return _Gather.apply(rows) if n_processes() > 1 else rows  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(n_processes())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        # A sum, because Player averages the parameters' gradients over processes.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(n_processes())[dist.get_rank()]
