"""A WaveNet one sample at a time, in plain torch: each layer keeps what its convolution will look back at.

The reference for faster backends, which offer the same two methods, ``run`` and ``replay``, and the fallback
where they are missing. Works on any device.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vocoders.wavenet.distributions import MuLaw, predicted, silence
from vocoders.wavenet.layers import bias_of
from vocoders.wavenet.network import WaveNet
from vocoders.wavenet.sampling import draw

Conditioning = Float[Tensor, "batch samples_or_1 channels"]
Encoded = Int[Tensor, "batch samples"] | Float[Tensor, "batch samples"]
"""Classes for μ-law, else amplitudes."""


class Prediction(NamedTuple):
    """Linear prediction of the wave that is generated (LP-WaveNet)."""

    coefficients: Float[Tensor, "batch taps filters"]
    """Sample t is expected at Σ coefficients[k] · wave[t − 1 − k]."""
    gain: Float[Tensor, "batch 1 filters"] | None
    """In units of which the network speaks, see ``distributions.predicted``."""
    hop: int
    """Samples for which a filter holds."""


class Matrices(NamedTuple):
    """One layer's weights as the loop multiplies them."""

    dilation: int
    past_and_present: Tensor
    """(gate, kernel · residual), the oldest tap first."""
    out_and_skip: Tensor
    """(residual + skip, gate / 2)."""
    bias: Tensor
    """(residual + skip)."""


class CachedTorch:
    """The network's state between samples, and the loop over them."""

    def __init__(self, network: WaveNet, batch: int, prediction: Prediction | None = None) -> None:
        self.output, self.sizes, self.prediction = network.config.output, network.config, prediction
        self.layers = [
            Matrices(
                layer.conv.dilation[0],
                layer.conv.weight.transpose(1, 2).flatten(1).contiguous(),
                torch.cat([layer.conv1x1_out.weight, layer.conv1x1_skip.weight]).squeeze(-1),
                torch.cat([bias_of(layer.conv1x1_out), bias_of(layer.conv1x1_skip)]),
            )
            for layer in network.layers
        ]
        first, head = network.first_conv, [c for c in network.last_conv_layers if isinstance(c, nn.Conv1d)]
        self.first = (first.weight.squeeze(-1).T.contiguous(), bias_of(first))
        self.head = [(conv.weight.squeeze(-1), bias_of(conv)) for conv in head]
        nothing = first.weight.new_zeros(batch, self.sizes.residual)
        self.rings = [[nothing] * ((self.sizes.kernel - 1) * layer.dilation) for layer in self.layers]
        self.position = 0
        dtype = torch.long if isinstance(self.output, MuLaw) else first.weight.dtype
        self.previous = torch.full((batch,), silence(self.output), dtype=dtype, device=nothing.device)
        order = prediction.coefficients.shape[1] if prediction else 0
        self.recent = nothing.new_zeros(batch, order)  # newest first

    def run(
        self,
        conditioning: Conditioning,
        noise: Float[Tensor, "batch samples 2"],
        temperature: Float[Tensor, "batch _"],
        top_p: float,
    ) -> Encoded:
        """Draw as many samples as there is noise for, continuing."""
        drawn = []
        for i in range(noise.shape[1]):
            parameters = self._predicted(self._step(self.previous, _at(conditioning, i)))
            self.previous = draw(self.output, parameters, noise[:, i], _at(temperature, i), top_p)
            if self.prediction is not None:
                self.recent = torch.cat([self.previous[:, None], self.recent[:, :-1]], dim=1)
            self.position += 1
            drawn.append(self.previous)
        return torch.stack(drawn, dim=1)

    def replay(self, conditioning: Conditioning, inputs: Encoded) -> Float[Tensor, "batch n_out samples"]:
        """The parameters that the network puts out when its inputs are given, continuing."""
        outputs = []
        for i in range(inputs.shape[1]):
            outputs.append(self._step(inputs[:, i], _at(conditioning, i)))
            self.position += 1
        return torch.stack(outputs, dim=-1)

    def _step(self, x: Tensor, gates: Tensor) -> Tensor:
        """Parameters after one more input; ``gates``: (batch, layers · gate)."""
        table, bias = self.first
        hidden = (F.embedding(x, table) if isinstance(self.output, MuLaw) else x[:, None] * table) + bias
        skips, half, taps = None, self.sizes.gate // 2, self.sizes.kernel - 1
        shares = gates.split(self.sizes.gate, dim=1)
        for layer, ring, share in zip(self.layers, self.rings, shares):
            span = len(ring)
            oldest = self.position % span
            window = [ring[(oldest + tap * layer.dilation) % span] for tap in range(taps)]
            z = share + F.linear(torch.cat([*window, hidden], dim=1), layer.past_and_present)
            ring[oldest] = hidden
            unit = torch.tanh(z[:, :half]) * torch.sigmoid(z[:, half:])
            both = F.linear(unit, layer.out_and_skip, layer.bias)
            hidden = (hidden + both[:, : self.sizes.residual]) * 0.5**0.5
            skip = both[:, self.sizes.residual :]
            skips = skip if skips is None else skips + skip
        assert skips is not None
        x = skips * len(self.layers) ** -0.5
        for weight, bias in self.head:
            x = F.linear(F.relu(x), weight, bias)
        return x

    def _predicted(self, parameters: Tensor) -> Tensor:
        if self.prediction is None:
            return parameters
        coefficients, gain, hop = self.prediction
        index = self.position // hop
        expected = (self.recent * coefficients[..., index]).sum(1)
        level = None if gain is None else gain[..., index : index + 1]
        return predicted(self.output, parameters[..., None], expected[:, None, None], level)[..., 0]


def _at(values: Tensor, i: int) -> Tensor:
    return values[:, min(i, values.shape[1] - 1)]
