"""The mean of gradients over processes that train together, sent while the backward pass still runs."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.processes import Gradients

BUCKET_BYTES = 25 << 20
"""As DistributedDataParallel's."""


class Buckets:
    """Parameters in the order in which a backward pass reaches them, in parts that travel together.

    ``DistributedDataParallel`` does the same for one network with one backward pass a step; players take
    several, each for a part of the parameters that its loss depends on.
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
        made: Callable[[int, Tensor | None], Tensor | None],
    ) -> Gradients:
        """Run ``backward`` and average what ``made`` makes of each parameter's gradient over all processes.

        A parameter unused in some processes counts there as zero; unused in all it keeps no gradient.
        """
        found: dict[int, Tensor] = {}
        missing = [set(part) for part in self.members]
        home = {index: number for number, part in enumerate(self.members) for index in part}
        sent: list[tuple[Tensor, dist.Work]] = []

        def arrived(index: int, gradient: Tensor | None) -> None:
            if (own := made(index, gradient)) is not None:
                found[index] = own
            missing[home[index]].discard(index)
            while len(sent) < len(missing) and not missing[len(sent)]:  # every process sends in this order
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
        # The other processes' use is asked for, and the device waited for, only where it decides something.
        use = [True] * len(part) if all(index in found for index in part) else used.tolist()
        for index, mean, is_used in zip(part, parts, use):
            gradients[index] = mean.view_as(self.parameters[index]) if is_used else None
