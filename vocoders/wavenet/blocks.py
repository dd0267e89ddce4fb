"""What is added to a WaveNet's gates while it generates, for a block of samples at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vocoders.wavenet.distributions import MuLaw, decode, silence
from vocoders.wavenet.network import Lengths, Local, Speaker, WaveNet

AT_ONCE = 1024
"""Samples, of all rows together, whose conditioning is held at once: 30 layers of 128 gates take 16 MB, which
stay in the last cache."""


class Blocks:
    """What is added to all gates, block after block: (batch, samples, channels) and the block's samples."""

    def __init__(
        self,
        network: WaveNet,
        local: Local | None,
        speaker: Speaker | None,
        n_samples: int,
        batch: int,
        lengths: Lengths | None = None,
    ) -> None:
        self.network, self.n_samples, self.batch = network, n_samples, batch
        self.static = network.static_gates(speaker, 1).expand(batch, -1)
        self.device = self.static.device
        self.padded = self.lengths = None
        self.size = max(1, AT_ONCE // batch)
        if network.upsample_net is None:
            network.local_features(local, n_samples)  # complains of what it has no use for
            return
        self.size = max(1, self.size // network.hop) * network.hop
        self.lengths = None if lengths is None else -(-lengths // network.hop)
        self.padded = network.padded(local, n_samples, self.lengths)
        self.weights = torch.cat([layer.conv1x1c.weight for layer in network.layers]).squeeze(-1)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for start in range(0, self.n_samples, self.size):
            stop = min(self.n_samples, start + self.size)
            yield self._between(start, stop), stop - start

    def _between(self, start: int, stop: int) -> Tensor:
        if self.padded is None:
            return self.static[:, None].contiguous()
        assert self.network.upsample_net is not None
        hop = self.network.hop
        features = self.network.upsample_net.between(self.padded, start // hop, stop // hop, self.lengths)
        rows = features.transpose(1, 2).expand(self.batch, -1, -1)
        return torch.baddbmm(self.static[:, None], rows, self.weights.T.expand(self.batch, -1, -1))


class ContextState:
    """The context stack's state while samples are drawn; nothing without one."""

    def __init__(self, network: WaveNet, batch: int) -> None:
        self.output, self.stack = network.config.output, network.context_stack
        if self.stack is None:
            return
        self.past = self.stack.begin(batch)
        weights = [layer.conv1x1x.weight for layer in network.layers]
        self.weights = torch.cat(weights).squeeze(-1)
        self.gates = self.weights.new_zeros(batch, 1, len(self.weights))
        last = torch.full((batch, 1), silence(self.output), device=self.gates.device)
        self.last = last.long() if isinstance(self.output, MuLaw) else last
        self.waiting = self.last[:, :0]

    def spans(self, start: int, size: int) -> Iterator[tuple[int, int]]:
        """Cut a block's samples where the context changes."""
        if self.stack is None:
            yield 0, size
            return
        factor, first = self.stack.config.factor, 0
        while first < size:
            last = min(size, first + factor - (start + first) % factor)
            yield first, last
            first = last

    def add_to(self, conditioning: Tensor) -> Tensor:
        """Add the context's share."""
        return conditioning if self.stack is None else conditioning + self.gates

    def append_drawn(self, samples: Tensor) -> None:
        """Append drawn samples, which the network is fed one sample later."""
        if self.stack is not None:
            self.append_inputs(torch.cat([self.last, samples[:, :-1]], dim=1))
            self.last = samples[:, -1:]

    def append_inputs(self, inputs: Tensor) -> None:
        """Append the network's inputs."""
        if self.stack is None:
            return
        self.waiting = torch.cat([self.waiting, inputs], dim=1)
        if self.waiting.shape[1] == self.stack.config.factor:
            coded = self.waiting if isinstance(self.output, MuLaw) else self.waiting[:, None]
            steps, self.past = self.stack.step(decode(self.output, coded), self.past)
            self.gates = steps.transpose(1, 2) @ self.weights.T
            self.waiting = self.waiting[:, :0]
