"""The memory bank: keys of past batches, first in, first out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """A queue of unit-length keys and their speakers (MoCo's queue, He et al. 2020; CLUIT's memory bank).

    Before it is full, only what was pushed serves as negatives. It is state, not parameters, and saved with
    the run. Where processes train together, give it what they have gathered: it is then the same in all.
    """

    ring: Tensor
    speakers: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(size, dim))
        self.register_buffer("speakers", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    @property
    def keys(self) -> Float[Tensor, "bank dim"]:
        """What has been pushed and not yet overwritten."""
        return self.ring[: min(int(self.pushed), len(self.ring))]

    @property
    def labels(self) -> Int[Tensor, " bank"]:
        """Speaker of each key; -1 where it is not known."""
        return self.speakers[: min(int(self.pushed), len(self.ring))]

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> None:
        """Put a batch of keys in the place of the oldest."""
        surplus = max(len(keys) - len(self.ring), 0)  # an index written twice holds either, on a GPU
        keys, labels = keys[surplus:], labels[surplus:]
        self.pushed += surplus
        places = (int(self.pushed) + torch.arange(len(keys), device=self.ring.device)) % len(self.ring)
        self.ring[places] = keys.detach().float()
        self.speakers[places] = labels.long()
        self.pushed += len(keys)
