"""Who is not meant: a slot for every recording, or a queue of the last keys."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from w2w.cluit.bank import MemoryBank

Keys = Float[Tensor, "batch dim"]
Numbers = Int[Tensor, "batch"]


class Drawn(NamedTuple):
    """Negatives of a step."""

    keys: Float[Tensor, "bank dim"]
    """Of unit length."""
    identity: Int[Tensor, "bank"]
    """Whose each is: a speaker's label, or a number below −1, one for each recording."""


@runtime_checkable
class Negatives(Protocol):
    """Keys that are remembered; state of the run, and every process has its own."""

    def draw(self) -> Drawn:
        """Return the negatives of this step."""
        ...

    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        """Keep a batch of keys."""
        ...


class SlotBank(nn.Module):
    """A slot for every recording with the running mean of its keys, of unit length (Wu et al. 2018).

    Slots that no key has reached are not drawn. A recording's number is its slot, modulo how many there are.
    """

    slots: Tensor
    identities: Tensor
    used: Tensor

    def __init__(self, n_slots: int, dim: int, n_drawn: int, momentum: float = 0.5) -> None:
        super().__init__()
        self.n_drawn, self.momentum = n_drawn, momentum
        self.register_buffer("slots", torch.zeros(n_slots, dim))
        self.register_buffer("identities", torch.full((n_slots,), -1, dtype=torch.long))
        self.register_buffer("used", torch.zeros(n_slots, dtype=torch.bool))

    def draw(self) -> Drawn:
        """Draw among the slots in use, none twice."""
        places = self.used.nonzero()[:, 0]
        if len(places) > self.n_drawn:
            places = places[torch.randperm(len(places), device=places.device)[: self.n_drawn]]
        return Drawn(self.slots[places], self.identities[places])

    @torch.no_grad()
    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        """Move the slots of these recordings towards their keys."""
        keys = F.normalize(keys.detach().float(), dim=-1)
        # One by one: a recording may come twice in a batch, and an index written twice holds either.
        for key, whose, slot in zip(keys, identity, recording % len(self.slots)):
            mean = self.slots[slot].lerp(key, 1 - self.momentum)
            self.slots[slot] = F.normalize(torch.where(self.used[slot], mean, key), dim=-1)
            self.identities[slot], self.used[slot] = whose, True


class Queue(nn.Module):
    """The last keys, first in, first out (He et al. 2020)."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.bank = MemoryBank(size, dim)

    def draw(self) -> Drawn:
        """All that are kept."""
        return Drawn(self.bank.keys, self.bank.labels)

    def remember(self, keys: Keys, identity: Numbers, recording: Numbers) -> None:
        """Put the keys in the place of the oldest."""
        self.bank.push(F.normalize(keys.float(), dim=-1), identity)
