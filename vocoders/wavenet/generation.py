"""Generate waves of any length with a WaveNet, block by block in constant memory.

A block's conditioning is computed at once (with its halo, so that blocks equal the whole), then its samples
one after the other by a backend that holds the network's state: plain torch (``CachedTorch``) or the compiled
loop (``vocoders.cpu``). Both draw the same samples from the same seed.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from engine.user_error import UserError
from vocoders import cpu
from vocoders.wavenet.distributions import Input, MuLaw, Output, decode, silence
from vocoders.wavenet.network import Local, Speaker, WaveNet
from vocoders.wavenet.sampling import CachedTorch, Draws, Prediction, Sampler, noise, temperatures

AT_ONCE = 1024
"""Samples of all rows together per block: conditioning of 30 layers of 128 gates takes 16 MB, which fits in
the last-level cache."""


class Blocks:
    """Conditioning of all gates, block by block: (batch, samples or 1, channels) and the block's samples."""

    def __init__(
        self, network: WaveNet, local: Local | None, speaker: Speaker | None, n_samples: int, batch: int
    ) -> None:
        self.network, self.n_samples, self.batch = network, n_samples, batch
        self.static = network.static_gates(speaker, 1).expand(batch, -1)
        self.device = self.static.device
        self.padded = None
        self.size = max(1, AT_ONCE // batch)
        if network.upsample_net is None:
            network.local_features(local, n_samples)  # refuses superfluous features
            return
        self.size = max(1, self.size // network.hop) * network.hop
        self.padded = network.padded(local, n_samples)
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
        features = self.network.upsample_net.between(self.padded, start // hop, stop // hop)
        rows = features.transpose(1, 2).expand(self.batch, -1, -1)
        return torch.baddbmm(self.static[:, None], rows, self.weights.T.expand(self.batch, -1, -1))


class ContextState:
    """State of the context stack during generation; does nothing if the network has none."""

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
        """Split a block of samples where the context changes."""
        if self.stack is None:
            yield 0, size
            return
        factor, first = self.stack.config.factor, 0
        while first < size:
            last = min(size, first + factor - (start + first) % factor)
            yield first, last
            first = last

    def add_to(self, conditioning: Tensor) -> Tensor:
        """Add the context stack's contribution to the gates."""
        return conditioning if self.stack is None else conditioning + self.gates

    def append_drawn(self, samples: Tensor) -> None:
        """Append drawn samples, which become network inputs one sample later."""
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


Backend = Literal["auto", "torch", "numba"]


def generate(network: WaveNet, *args: Any, **options: Any) -> Float[Tensor, "batch 1 samples"]:
    """Generate a batch of waves; arguments as those of ``pieces``."""
    return torch.cat(list(pieces(network, *args, **options)), dim=-1)


def pieces(
    network: WaveNet,
    local: Local | None = None,
    speaker: Speaker | None = None,
    n_samples: int | None = None,
    sampler: Sampler | None = None,
    seed: int = 0,
    backend: Backend = "auto",
    n: int = 1,
    *,
    voiced: Bool[Tensor, "batch frames_or_samples"] | None = None,
    prediction: Float[Tensor, "batch taps filters"] | None = None,
    gain: Float[Tensor, "batch 1 filters"] | None = None,
) -> Iterator[Float[Tensor, "batch 1 _"]]:
    """Generate a batch of waves in pieces, in constant memory.

    ``n_samples``: length of each wave; by default that of ``local``. ``n``: number of waves, if neither
    ``local`` nor ``speaker`` determines it. ``voiced``: which frames or samples are voiced, for samplers that
    need it. ``prediction``, ``gain``: filters, each for an equal share of the samples (LP-WaveNet; see
    ``sampling.Prediction``).
    """
    sampler, output = sampler or Sampler(), network.config.output
    n_samples = _n_samples(network, local, n_samples)
    batch = max(n, *(len(given) for given in (local, speaker, voiced, prediction) if given is not None), 1)
    filters = _prediction(prediction, gain, n_samples, output)
    with torch.inference_mode():
        blocks = Blocks(network, local, speaker, n_samples, batch)
        loop = begin(network, batch, backend, filters)
        draws, context = Draws(seed, batch), ContextState(network, batch)
        start = 0
        for conditioning, size in blocks:
            uniforms = noise(output, draws.next(size), sampler.top_p).to(blocks.device)
            voiced_samples = _rows(voiced, start, start + size, n_samples)
            temperature = temperatures(sampler, voiced_samples, batch).to(blocks.device)
            parts = []
            for first, last in context.spans(start, size):
                gates = context.add_to(_span(conditioning, first, last))
                span_temperature = _span(temperature, first, last)
                part = loop.run(gates, uniforms[:, first:last], span_temperature, sampler.top_p)
                context.append_drawn(part)
                parts.append(part)
            samples = torch.cat(parts, dim=1)
            yield decode(output, samples if isinstance(output, MuLaw) else samples[:, None])
            start += size


@torch.inference_mode()
def replay(
    network: WaveNet,
    x: Input,
    local: Local | None = None,
    speaker: Speaker | None = None,
    backend: Backend = "torch",
) -> Float[Tensor, "batch n_out samples"]:
    """``network(x, local, speaker)`` computed as in generation: sample by sample, from cached state."""
    batch, n_samples = len(x), x.shape[-1]
    inputs = x if isinstance(network.config.output, MuLaw) else x.squeeze(1)
    loop, context, start, outputs = begin(network, batch, backend), ContextState(network, batch), 0, []
    for conditioning, size in Blocks(network, local, speaker, n_samples, batch):
        for first, last in context.spans(start, size):
            part = inputs[:, start + first : start + last]
            outputs.append(loop.replay(context.add_to(_span(conditioning, first, last)), part))
            context.append_inputs(part)
        start += size
    return torch.cat(outputs, dim=-1)


def begin(
    network: WaveNet, batch: int, backend: Backend = "auto", prediction: Prediction | None = None
) -> CachedTorch | Any:
    """Return a backend in its initial state (methods as in ``CachedTorch``); ``auto`` is numba on CPUs."""
    if backend not in ("auto", "torch", "numba"):
        raise UserError(f"backend={backend!r} is unknown; choose auto, torch or numba")
    on_cpu = next(network.parameters()).device.type == "cpu"
    if backend == "numba" and not on_cpu:
        raise UserError("the numba backend runs on the CPU: move the network there, or use backend='torch'")
    if backend == "torch" or not on_cpu:
        return CachedTorch(network, batch, prediction)
    return cpu.sample_loop(network, batch, prediction)


def _n_samples(network: WaveNet, local: Local | None, n_samples: int | None) -> int:
    if n_samples is None and local is not None:
        n_samples = local.shape[-1] * network.hop
    if n_samples is None:
        raise UserError("give n_samples, the number to generate: there are no local features to derive it")
    if n_samples < 1:
        raise UserError(f"n_samples={n_samples} must be at least 1: is the mel empty?")
    return n_samples


def _span(values: Tensor, first: int, last: int) -> Tensor:
    """Steps ``first`` to ``last`` of values per step; a single step is used for all."""
    return values if values.shape[1] == 1 else values[:, first:last]


def _rows(
    voiced: Bool[Tensor, "batch steps"] | None, start: int, stop: int, n_samples: int
) -> Bool[Tensor, "batch samples"] | None:
    """Voiced flags of samples ``start`` to ``stop``, given those of all frames or samples."""
    if voiced is None:
        return None
    if n_samples % voiced.shape[1]:
        raise UserError(f"{n_samples} samples are not a multiple of {voiced.shape[1]} voiced flags")
    return voiced[:, torch.arange(start, stop, device=voiced.device) // (n_samples // voiced.shape[1])]


def _prediction(
    coefficients: Float[Tensor, "batch taps filters"] | None,
    gain: Float[Tensor, "batch 1 filters"] | None,
    n_samples: int,
    output: Output,
) -> Prediction | None:
    if coefficients is None:
        return None
    if isinstance(output, MuLaw):
        raise UserError("linear prediction needs an output with means, not μ-law classes: use another output")
    if n_samples % coefficients.shape[-1]:
        raise UserError(f"{n_samples} samples are not a multiple of {coefficients.shape[-1]} filters")
    return Prediction(coefficients, gain, n_samples // coefficients.shape[-1])
