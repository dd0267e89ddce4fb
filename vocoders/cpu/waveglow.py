"""WaveGlow's generation on a CPU in float32, with fewer multiplications.

The equations as published take 224 GMAC per second of audio (published sizes), this order 137:

- skip connections and the last 1x1 convolution, with no nonlinearity between them, are merged to one small
  matrix per layer (−17 GMAC), ``start`` and the first dilated convolution to another (−13);
- dilated convolutions are minimal filters, F(4, 3) along time (−45);
- the conditioning, one large product, uses one level of Strassen's recursion (−11): its left factors are the
  same for all layers, its right ones are precomputed, and its sums are part of the gates' loop.

Arrays are (steps, channels); a plan needs about 1.1 times the memory of the weights in addition to them.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vocoders.cpu.compiling import cached, compiled, for_tiles, gate
from vocoders.cpu.convolution import Convolution, Rows, scratch
from vocoders.cpu.product import PANEL
from vocoders.waveglow import Coupling, WaveGlow

SPARE = PANEL
"""Columns next to the residual stream that accumulate the couplings' outputs; one panel."""
SPARE_ROWS = 48
"""Rows after the end of signals that products may read (``Convolution.margin``)."""


class WaveGlowPlan:
    """A WaveGlow's weights, rearranged for generation."""

    def __init__(self, network: WaveGlow) -> None:
        config, self.config = network.config, network.config
        block = 4 * max(256, 2 ** (config.n_layers - 1))
        self.upsample = _Upsample(network)
        self.couplings = [_CouplingPlan(one, block) for one in network.couplings]
        self.unmix = [torch.linalg.inv(one.matrix).T.contiguous() for one in network.mixes]

    def __call__(
        self, mel: Float[Tensor, "batch n_mels frames"], z: Float[Tensor, "batch group steps"]
    ) -> Float[Tensor, "batch 1 samples"]:
        """Return ``WaveGlow.inverse(mel, z)``."""
        waves = [self._one(one_mel, one_z) for one_mel, one_z in zip(mel, z)]
        return torch.stack(waves)[:, None]

    def _one(self, mel: Float[Tensor, "n_mels frames"], z: Float[Tensor, "group steps"]) -> Tensor:
        config, widths = self.config, self.config.widths
        conditions = _strassen_left(self.upsample(mel))
        noise = z.T
        x, noise = noise[:, -widths[-1] :], noise[:, : -widths[-1]]
        for k in reversed(range(config.n_flows)):
            kept_half, changed = x.chunk(2, dim=1)
            shift, scale = self.couplings[k](kept_half, conditions).chunk(2, dim=1)
            x = torch.cat([kept_half, (changed - shift) * torch.exp(-scale)], dim=1) @ self.unmix[k]
            if k and k % config.n_early_every == 0:
                cut = noise.shape[1] - config.n_early_size
                x, noise = torch.cat([noise[:, cut:], x], dim=1), noise[:, :cut]
        return x.reshape(-1)


class _Upsample:
    """The transposed convolution as one matrix product of each frame and the previous ones."""

    def __init__(self, network: WaveGlow) -> None:
        config, layer = network.config, network.upsample
        n, hop, group = config.n_mels, config.hop, config.n_group
        self.taps, self.group, self.hop = -(-config.window // hop), group, hop
        weight = F.pad(layer.weight, (0, self.taps * hop - config.window))  # (in, out, taps · hop)
        weight = weight.view(n, n, self.taps, hop // group, group).permute(3, 1, 4, 2, 0)
        assert layer.bias is not None
        self.weight = weight.reshape(hop * n, self.taps * n).contiguous()
        self.bias = layer.bias[None, :, None].expand(hop // group, n, group).reshape(-1).contiguous()

    def __call__(self, mel: Float[Tensor, "n_mels frames"]) -> Float[Tensor, "steps bands_x_group"]:
        padded = F.pad(mel.T, (0, 0, self.taps - 1, 0))  # the latest frame first
        recent = torch.cat([padded[self.taps - 1 - i :][: mel.shape[1]] for i in range(self.taps)], dim=1)
        return F.linear(recent, self.weight, self.bias).view(mel.shape[1] * self.hop // self.group, -1)


class _CouplingPlan:
    """One coupling's network, with its layers merged as described at the top of this file."""

    def __init__(self, coupling: Coupling, block: int) -> None:
        self.block, self.n = block, coupling.end.in_channels
        layers: list[Any] = list(zip(coupling.in_layers, coupling.res_skip_layers))
        start, end = _matrix(coupling.start), _matrix(coupling.end)
        self.n_out, n, wide = len(end), self.n, self.n + SPARE
        local, local_bias = _matrix(coupling.cond_layer), _bias(coupling.cond_layer)
        total = torch.zeros(wide)
        total[:n], total[n : n + self.n_out] = _bias(coupling.start), _bias(coupling.end)
        self.local, self.dilated, self.residual = [], [], []
        for i, (dilated, res_skip) in enumerate(layers):
            part = slice(2 * n * i, 2 * n * (i + 1))
            self.local.append([_linear(weight) for weight in _strassen_right(local[part])])
            bias = _bias(dilated) + local_bias[part]
            if i:
                self.dilated.append(Convolution(dilated.weight, bias, dilation=2**i, stride=wide))
            else:  # merged with ``start``; an input column of ones (0 in the padding) multiplies its bias
                ones = _whole(torch.cat([start, _bias(coupling.start)[:, None]], dim=1))
                first = torch.einsum("ock,ci->oik", dilated.weight.detach(), ones)
                self.dilated.append(Convolution(first, bias))
            weight, bias = _matrix(res_skip), _bias(res_skip)
            total[n : n + self.n_out] += end @ bias[-n:]
            rows, rest = torch.zeros(wide, n), torch.zeros(wide)
            rows[n : n + self.n_out] = end @ weight[-n:]
            last = i + 1 == len(layers)
            if not last:
                rows[:n], rest[:n] = weight[:n], bias[:n]
            self.residual.append(_linear(rows[n:] if last else rows, rest[n:] if last else rest))
        self.begin = _linear(_whole(F.pad(start, (0, 0, 0, SPARE))), total)

    def __call__(
        self, kept_half: Float[Tensor, "steps half"], conditions: list[Rows]
    ) -> Float[Tensor, "steps out"]:
        """Return shift and log-scale."""
        n, n_steps, edge = self.n, len(kept_half), max(one.margin for one in self.dilated)
        ones = torch.ones(n_steps, 1)
        given = F.pad(torch.cat([kept_half, ones], dim=1), (0, 0, edge, edge))
        x, gated, out = (np.zeros((n_steps + 2 * edge, width), np.float32) for width in (n + SPARE, n, SPARE))
        self.begin(_whole(given[edge:, :-1]).numpy(), None, x[edge:], n_steps)
        given = _whole(given).numpy()
        for i, dilated in enumerate(self.dilated):
            source = x if i else given
            x[edge + n_steps :][:SPARE_ROWS] = 0  # the previous product may have written there
            work = partial(self._gate, i, source[edge - dilated.reach :], conditions, gated)
            for_tiles(work, n_steps, tile=self.block, multiple=self.block)
            last = i + 1 == len(self.dilated)
            if last:
                out[:n_steps] = x[edge : edge + n_steps, n:]
            into = out if last else x[edge:]
            for_tiles(
                lambda start, stop, i=i, into=into: self.residual[i](
                    gated[start:], into[start:], into[start:], stop - start
                ),
                n_steps,
                tile=self.block,
                multiple=self.block,
            )
        return torch.from_numpy(out[:n_steps, : self.n_out])

    def _gate(
        self, layer: int, source: Rows, conditions: list[Rows], gated: Rows, start: int, stop: int
    ) -> None:
        """Compute steps ``start`` to ``stop`` of ``gated`` from a layer's convolution and conditioning."""
        n, dilated = self.n, self.dilated[layer]
        pre = _rows("pre", stop - start + dilated.margin, 2 * n)
        dilated(source[start:], None, pre, stop - start)
        pairs = (stop + 1) // 2 - start // 2
        local = tuple(_rows(f"local {k}", pairs + SPARE_ROWS, n) for k in range(7))
        for product, one, out in zip(self.local[layer], conditions, local):
            product(one[start // 2 :], None, out, pairs)
        gate_steps(pre, local, gated[start:stop])


def _linear(weight: Float[Tensor, "outer inner"], bias: Tensor | None = None) -> Convolution:
    return Convolution(weight[..., None], torch.zeros(len(weight)) if bias is None else bias)


def _whole(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows more"]:
    """Pad columns with zeros to a multiple of 4, as products need."""
    return F.pad(x, (0, -x.shape[1] % 4)).contiguous()


def _rows(name: str, length: int, channels: int) -> Rows:
    return scratch(f"waveglow {name}", length * channels)[: length * channels].reshape(length, channels)


def _strassen_left(x: Float[Tensor, "steps channels"]) -> list[Rows]:
    """The left factors of Strassen's products: blocks are even and odd rows, first and second columns."""
    x = F.pad(x, (0, 0, 0, len(x) % 2 + 2 * SPARE_ROWS))
    (a11, a12), (a21, a22) = (x[odd::2].chunk(2, dim=1) for odd in (0, 1))
    combined = [a11 + a22, a21 + a22, a11, a22, a11 + a12, a21 - a11, a12 - a22]
    return [_whole(one).numpy() for one in combined]


def _strassen_right(weight: Float[Tensor, "outer inner"]) -> list[Tensor]:
    """The right factors, transposed as in linear layers; the products give the gates' two halves."""
    (b11, b21), (b12, b22) = (half.double().chunk(2, dim=1) for half in weight.chunk(2))
    factors = [b11 + b22, b11, b12 - b22, b21 - b11, b22, b11 + b12, b21 + b22]
    return [_whole(one.float()) for one in factors]


def _matrix(conv: Any) -> Float[Tensor, "outer inner"]:
    return conv.weight.detach()[..., 0]


def _bias(conv: Any) -> Float[Tensor, "outer"]:
    return conv.bias.detach()


@compiled
def _gate_step(pre, local, t, out):
    n, pair = out.shape[1], t // 2
    m1, m2, m3, m4, m5, m6, m7 = local
    if t % 2 == 0:
        for c in range(n):
            a = pre[t, c] + ((m1[pair, c] + m4[pair, c]) + (m7[pair, c] - m5[pair, c]))
            b = pre[t, n + c] + (m3[pair, c] + m5[pair, c])
            out[t, c] = gate(a, b)
    else:
        for c in range(n):
            a = pre[t, c] + (m2[pair, c] + m4[pair, c])
            b = pre[t, n + c] + ((m1[pair, c] - m2[pair, c]) + (m3[pair, c] + m6[pair, c]))
            out[t, c] = gate(a, b)


@cached
def gate_steps(version):
    """Compute ``out`` (steps, channels) from pre-activations (steps, 2 channels) and Strassen's products."""

    def run(pre, local, out):
        _ = version
        for t in range(out.shape[0]):
            _gate_step(pre, local, t, out)

    return run
