"""WaveNet's loop over samples, compiled: what ``wavenet.cached`` does, many times sooner."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocoders.cpu.wavenet_loop import loop
from vocoders.cpu.wavenet_packing import BLOCK, pack, padding
from vocoders.wavenet.cached import Conditioning, Encoded, Prediction
from vocoders.wavenet.distributions import MuLaw, silence
from vocoders.wavenet.network import WaveNet


class CompiledLoop:
    """The network's state between samples, and the loop over them."""

    def __init__(self, network: WaveNet, batch: int, prediction: Prediction | None = None) -> None:
        output = network.config.output
        self.classes, self.n_out = isinstance(output, MuLaw), output.n_out
        self.lowest = -float("inf") if isinstance(output, MuLaw) else output.log_scale_min
        packed = pack(network)
        self.weights = packed.first, packed.current, packed.past, packed.out_skip, packed.head, packed.last
        self.tables = packed.sizes, packed.lags, packed.strides, packed.rings
        n_layers, residual, half = (int(size) for size in packed.sizes[:3])
        n_past = int(packed.rings[-1, 0] * residual + packed.rings[-1, 1])
        order = prediction.coefficients.shape[1] if prediction else 0
        self.position = 0
        self.memory = (
            np.zeros((batch, n_past), np.float32),  # every layer's last inputs, in rings
            # What the past, known by now, adds to the gates of this block of samples.
            np.zeros((batch, BLOCK, n_layers, 2 * padding(half)), np.float32),
            np.full(batch, silence(output), np.float32),  # the last sample, or its class
            np.zeros((batch, order), np.float32),  # what linear prediction looks at, newest first
        )
        self.nothing, self.none = np.zeros((batch, 0), np.float32), np.zeros((batch, 0, 0), np.float32)
        self.filters, self.hop = (self.none, self.nothing), 1
        if prediction is not None:
            coefficients = prediction.coefficients.transpose(1, 2).contiguous()
            gain = torch.ones_like(coefficients[..., 0]) if prediction.gain is None else prediction.gain[:, 0]
            self.filters, self.hop = (coefficients.numpy(), gain.contiguous().numpy()), prediction.hop

    def run(
        self,
        conditioning: Conditioning,
        noise: Float[Tensor, "batch samples 2"],
        temperature: Float[Tensor, "batch _"],
        top_p: float,
    ) -> Encoded:
        """Draw as many samples as there is noise for, continuing."""
        samples = np.zeros(noise.shape[:2], np.float32)
        self._advance(
            conditioning, samples, noise=_floats(noise), temperature=_floats(temperature), top_p=top_p
        )
        drawn = torch.from_numpy(samples)
        return drawn.long() if self.classes else drawn

    def replay(self, conditioning: Conditioning, inputs: Encoded) -> Float[Tensor, "batch n_out samples"]:
        """The parameters that the network puts out when its inputs are given, continuing."""
        outputs = np.zeros((*inputs.shape, self.n_out), np.float32)
        self._advance(
            conditioning, np.zeros(inputs.shape, np.float32), inputs=_floats(inputs), outputs=outputs
        )
        return torch.from_numpy(outputs).transpose(1, 2)

    def _advance(
        self,
        conditioning: Conditioning,
        samples: np.ndarray,
        *,
        inputs: np.ndarray | None = None,
        noise: np.ndarray | None = None,
        temperature: np.ndarray | None = None,
        top_p: float = 1.0,
        outputs: np.ndarray | None = None,
    ) -> None:
        loop(
            self.weights,
            self.tables,
            self.memory,
            self.position,
            _floats(conditioning),
            self.nothing if inputs is None else inputs,
            self.none if noise is None else noise,
            self.nothing if temperature is None else temperature,
            (top_p, self.lowest, self.hop),
            self.filters,
            samples,
            self.none if outputs is None else outputs,
        )
        self.position += samples.shape[1]


def _floats(x: Tensor) -> np.ndarray:
    return np.require(x.numpy(), np.float32, ["C", "W"])
