"""Cached WaveNet sampling as one compiled loop: the same samples as the network's own, many times sooner.

Needs the optional package numba. The first call on a machine compiles; later processes load what it left.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from vocoders.cpu.wavenet_packing import BLOCK, Floats, Packed, padding

AT_ONCE = 1024
"""Samples, of all utterances together, between which the loop lets Python look up (at Ctrl-C)."""


def available() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


@dataclass(frozen=True, kw_only=True)
class State:
    """What the next samples need of the past. The arrays are updated in place; only ``position`` is not."""

    position: int
    """Samples made so far."""
    history: Floats
    """(batch, floats): every layer's last inputs, in rings."""
    pending: Floats
    """(batch, 16, layers, gates): what the past, known by now, adds to the gates of this block of samples."""
    previous: Floats
    """(batch,): the last sample, or its class."""
    recent: Floats
    """(batch, order): the samples that linear prediction looks at, newest first; order 0 without it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How samples are drawn, for a block: all ways are temperatures and sharpnesses that vary in time."""

    temperature: Floats
    """(batch, samples or 1): of the classes or mixture components; 0 takes the likeliest."""
    sharpness: Floats
    """(batch, samples or 1): factor on the scales of mixture components; 0 takes the mean."""
    top_p: float = 1.0
    """The likeliest classes are kept until their probability reaches this; mixture components alike."""
    lowest_log_scale: float = -float("inf")
    """Logarithmic scales of mixture components below this are raised to it."""

    @classmethod
    def random(cls, batch: int) -> "Choice":
        """Draw from the distribution as it is."""
        return cls(temperature=np.ones((batch, 1), np.float32), sharpness=np.ones((batch, 1), np.float32))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Linear prediction, added to the means of the mixture (LP-WaveNet)."""

    coefficients: Floats
    """(batch, filters, order), the newest sample's first; filter ``position // hop`` is used."""
    hop: int
    """Samples for which a filter holds."""
    gain: Floats | None = None
    """(batch, filters): what means and scales are multiplied by before; none: they are the wave's own."""


def begin(packed: Packed, batch: int, first: float | int = 0, order: int = 0) -> State:
    """Return the state before the first sample: silence, and ``first``, a class or amplitude, came last."""
    n_layers, residual, half = (int(size) for size in packed.sizes[:3])
    floats = int(packed.rings[-1, 0] * residual + packed.rings[-1, 1])
    return State(
        position=0,
        history=np.zeros((batch, floats), np.float32),
        pending=np.zeros((batch, BLOCK, n_layers, 2 * padding(half)), np.float32),
        previous=np.full(batch, first, np.float32),
        recent=np.zeros((batch, order), np.float32),
    )


def generate(
    packed: Packed,
    conditioning: Floats,
    noise: Floats,
    state: State,
    choice: Choice,
    *,
    prediction: Prediction | None = None,
    lengths: NDArray[np.int64] | None = None,
) -> tuple[Floats, State]:
    """Make as many samples as ``noise`` has, continuing from ``state``: classes, or waves within [-1, 1].

    conditioning: (batch, samples or 1, layers · gates), what is added to each layer's gates, biases included.
    noise: (batch, samples, 2): a uniform in [0, 1) that picks the class or the mixture component, and a
    standard logistic or normal variate for the place within it. lengths: utterances may end sooner;
    they then cost nothing, and what follows in their rows is 0. Returns (batch, samples) and the state behind
    them.
    """
    batch, n_samples = noise.shape[:2]
    lengths = np.full(batch, n_samples) if lengths is None else np.minimum(lengths, n_samples)
    samples, start = np.zeros((batch, n_samples), np.float32), 0
    block = _Block(packed, state, conditioning, noise=noise, choice=choice, prediction=prediction)
    while len(rows := np.flatnonzero(lengths > start)):
        stop = min(int(lengths[rows].min()), start + max(1, AT_ONCE // len(rows)))
        block.run(rows, start, stop, samples=samples)
        start = stop
    return samples, replace(state, position=state.position + n_samples)


def logits(packed: Packed, conditioning: Floats, inputs: Floats, state: State) -> tuple[Floats, State]:
    """Return the network's outputs, (batch, samples, outputs), to given inputs, (batch, samples)."""
    record = np.zeros((*inputs.shape, int(packed.sizes[4])), np.float32)
    block = _Block(packed, state, conditioning, inputs=inputs)
    block.run(np.arange(len(inputs)), 0, inputs.shape[1], record=record)
    return record, replace(state, position=state.position + inputs.shape[1])


class _Block:
    """The compiled loop's arguments for a block of samples, all of the types it was compiled for."""

    def __init__(
        self,
        packed: Packed,
        state: State,
        conditioning: Floats,
        *,
        inputs: Floats | None = None,
        noise: Floats | None = None,
        choice: Choice | None = None,
        prediction: Prediction | None = None,
    ) -> None:
        batch = len(state.previous)
        choice = choice or Choice.random(batch)
        self.nothing, self.none = np.zeros((batch, 0), np.float32), np.zeros((batch, 0, 0), np.float32)
        self.weights = packed.first, packed.current, packed.past, packed.out_skip, packed.head, packed.last
        self.tables = packed.sizes, packed.lags, packed.strides, packed.rings
        self.memory = state.history, state.pending, state.previous, state.recent
        self.origin = state.position
        given = self.nothing if inputs is None else inputs
        self.drawn = self.none if noise is None else noise
        arrays = conditioning, given, self.drawn, choice.temperature, choice.sharpness
        self.arrays = tuple(np.require(array, np.float32, ["C", "W"]) for array in arrays)
        hop = prediction.hop if prediction else 1
        self.limits = float(choice.top_p), float(choice.lowest_log_scale), hop
        filters = self.none, self.nothing
        if prediction is not None:
            coefficients, gain = prediction.coefficients, prediction.gain
            filters = coefficients, np.ones(coefficients.shape[:2]) if gain is None else gain
        self.filters = tuple(np.require(array, np.float32, ["C", "W"]) for array in filters)

    def run(
        self,
        rows: NDArray[np.int64],
        start: int,
        stop: int,
        *,
        samples: Floats | None = None,
        record: Floats | None = None,
    ) -> None:
        """Advance some of the utterances by the samples from start to stop of the block."""
        from vocoders.cpu.wavenet_loop import loop

        samples = self.nothing if samples is None else samples
        record = self.none if record is None else record
        loop()(
            self.weights, self.tables, self.memory, self.origin, start, stop, rows, *self.arrays, self.limits,
            self.filters, samples, record,
        )  # fmt: skip
