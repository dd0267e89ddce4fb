"""Distributed training: the number of processes, a differentiable all-gather, and averaged gradients."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

Gradients = list[Tensor | None]
BUCKET_BYTES = 25 << 20
"""Size of the buckets of gradients; the default of DistributedDataParallel."""


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


class Buckets:
    """Buckets of parameters, in reverse order, whose gradients are averaged during the backward pass.

    ``DistributedDataParallel`` does the same for one network with one backward pass per step; players run
    several, each reaching only some of the parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.members: list[list[int]] = []
        full = BUCKET_BYTES
        for index in reversed(range(len(parameters))):
            if full >= BUCKET_BYTES:
                self.members.append([])
                full = 0
            self.members[-1].append(index)
            full += parameters[index].numel() * parameters[index].element_size()

    def mean(
        self,
        backward: Callable[[], Sequence[Tensor | None]],
        transform: Callable[[int, Tensor | None], Tensor | None],
    ) -> Gradients:
        """Run ``backward``, apply ``transform`` to each gradient, and average the results over all processes.

        A parameter unused in some processes has gradient zero there; one unused in all of them has none.
        """
        found: dict[int, Tensor] = {}
        missing = [set(part) for part in self.members]
        home = {index: number for number, part in enumerate(self.members) for index in part}
        sent: list[tuple[Tensor, dist.Work]] = []

        def arrived(index: int, gradient: Tensor | None) -> None:
            if (transformed := transform(index, gradient)) is not None:
                found[index] = transformed
            missing[home[index]].discard(index)
            while len(sent) < len(missing) and not missing[len(sent)]:  # all processes send in the same order
                sent.append(self._send(self.members[len(sent)], found))

        hooks = [p.register_hook(partial(arrived, index)) for index, p in enumerate(self.parameters)]
        try:
            backward()
        finally:
            for hook in hooks:
                hook.remove()
        for index in [index for part in missing for index in part]:
            arrived(index, None)
        gradients: Gradients = [None] * len(self.parameters)
        for part, (flat, work) in zip(self.members, sent):
            work.wait()
            self._take(part, flat / dist.get_world_size(), found, gradients)
        return gradients

    def _send(self, part: list[int], found: dict[int, Tensor]) -> tuple[Tensor, dist.Work]:
        dense = [found.get(index, torch.zeros_like(self.parameters[index])).reshape(-1) for index in part]
        used = torch.tensor([float(index in found) for index in part]).to(dense[0], non_blocking=True)
        flat = torch.cat([*dense, used])
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        return flat, work

    def _take(self, part: list[int], flat: Tensor, found: dict[int, Tensor], gradients: Gradients) -> None:
        sizes = [self.parameters[index].numel() for index in part]
        *parts, used = flat.split([*sizes, len(part)])
        # Reading `used` waits for the device, so it is avoided where this process used all parameters.
        use = [True] * len(part) if all(index in found for index in part) else used.tolist()
        for index, mean, is_used in zip(part, parts, use):
            gradients[index] = mean.view_as(self.parameters[index]) if is_used else None
