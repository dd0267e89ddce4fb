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
from vocoders.wavenet.distributions import MuLaw, decode, silence
from vocoders.wavenet.network import Local, Speaker, WaveNet
from vocoders.wavenet.prediction import Predictor
from vocoders.wavenet.sampling import CachedTorch, Draws, Sampler, noise, temperatures

AT_ONCE = 1024
"""Samples of all rows together per block: conditioning of 30 layers of 128 gates takes 16 MB, which fits in
the last-level cache."""


def conditioning_blocks(
    network: WaveNet, local: Local | None, speaker: Speaker | None, n_samples: int, batch: int
) -> Iterator[tuple[Tensor, int]]:
    """Conditioning of all gates, block by block: (batch, samples or 1, channels) and the block's samples."""
    static = network.static_gates(speaker, 1).expand(batch, -1)
    size, hop, upsampling = max(1, AT_ONCE // batch), network.hop, network.upsample_net
    if upsampling is None:
        network.local_features(local, n_samples)  # refuses superfluous features
        for start in range(0, n_samples, size):
            yield static[:, None].contiguous(), min(size, n_samples - start)
        return
    size = max(1, size // hop) * hop
    padded = network.padded(local, n_samples)
    weights = torch.cat([layer.conv1x1c.weight for layer in network.layers]).squeeze(-1)
    for start in range(0, n_samples, size):
        stop = min(n_samples, start + size)
        features = upsampling.between(padded, start // hop, stop // hop)
        rows = features.transpose(1, 2).expand(batch, -1, -1)
        yield torch.baddbmm(static[:, None], rows, weights.T.expand(batch, -1, -1)), stop - start


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
        first = torch.full((batch, 1), silence(self.output), device=self.gates.device)
        self.inputs = first.long() if isinstance(self.output, MuLaw) else first
        """The network's inputs that the stack has not processed yet."""

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

    def append(self, samples: Tensor) -> None:
        """Append drawn samples, which become network inputs one sample later."""
        if self.stack is None:
            return
        self.inputs, factor = torch.cat([self.inputs, samples], dim=1), self.stack.config.factor
        if self.inputs.shape[1] > factor:
            block, self.inputs = self.inputs[:, :factor], self.inputs[:, factor:]
            coded = block if isinstance(self.output, MuLaw) else block[:, None]
            steps, self.past = self.stack.step(decode(self.output, coded), self.past)
            self.gates = steps.transpose(1, 2) @ self.weights.T


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
    predictor: Predictor | None = None,
) -> Iterator[Float[Tensor, "batch 1 _"]]:
    """Generate a batch of waves in pieces, in constant memory.

    ``n_samples``: length of each wave; by default that of ``local``. ``n``: number of waves, if neither
    ``local`` nor ``speaker`` determines it. ``voiced``: which frames or samples are voiced, for samplers that
    need it. ``predictor``: filters that predict the wave, as many as the samples need (LP-WaveNet).
    """
    sampler, output = sampler or Sampler(), network.config.output
    n_samples = _n_samples(network, local, n_samples)
    coefficients = None if predictor is None else predictor.coefficients
    batch = max(n, *(len(given) for given in (local, speaker, voiced, coefficients) if given is not None), 1)
    if predictor is not None and predictor.coefficients.shape[-1] * predictor.hop != n_samples:
        raise ValueError(f"{predictor.coefficients.shape[-1]} filters do not fit {n_samples} samples")
    with torch.inference_mode():
        loop = begin(network, batch, backend, predictor)
        draws, context = Draws(seed, batch), ContextState(network, batch)
        start = 0
        for conditioning, size in conditioning_blocks(network, local, speaker, n_samples, batch):
            uniforms = noise(output, draws.next(size), sampler.top_p).to(conditioning.device)
            voiced_samples = _rows(voiced, start, start + size, n_samples)
            temperature = temperatures(sampler, voiced_samples, batch).to(conditioning.device)
            parts = []
            for first, last in context.spans(start, size):
                gates = context.add_to(_span(conditioning, first, last))
                span_temperature = _span(temperature, first, last)
                part = loop.run(gates, uniforms[:, first:last], span_temperature, sampler.top_p)
                context.append(part)
                parts.append(part)
            samples = torch.cat(parts, dim=1)
            yield decode(output, samples if isinstance(output, MuLaw) else samples[:, None])
            start += size


def begin(
    network: WaveNet, batch: int, backend: Backend = "auto", predictor: Predictor | None = None
) -> CachedTorch | Any:
    """Return a backend in its initial state (methods as in ``CachedTorch``); ``auto`` is numba on CPUs."""
    if backend not in ("auto", "torch", "numba"):
        raise UserError(f"backend={backend!r} is unknown; choose auto, torch or numba")
    on_cpu = next(network.parameters()).device.type == "cpu"
    if backend == "numba" and not on_cpu:
        raise UserError("the numba backend runs on the CPU: move the network there, or use backend='torch'")
    if backend == "torch" or not on_cpu:
        return CachedTorch(network, batch, predictor)
    return cpu.sample_loop(network, batch, predictor)


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
