"""WaveGlow's generation on a CPU: the same sums in float32, with fewer multiplications.

The equations as they stand take 224 GMAC per second of audio (published sizes), this order 137:

- nothing stands between the skip connections and the last 1x1 convolution, so both are one small matrix
  per layer (−17 GMAC; and ``start`` with the first dilated convolution another, −13);
- dilated convolutions are minimal filters, F(4, 3) along time (−45);
- the conditioning, one large product, is one level of Strassen's recursion (−11): its left factors are the
  same for all layers, its right ones known beforehand, and its sums are part of the gates' loop.

Arrays are (steps, channels). Products are oneDNN's on weights packed once; a plan holds about 1.1 times the
memory of the weights besides.
"""

import importlib.util
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from vocoders.waveglow import Coupling, WaveGlow

Rows = Float[Tensor, "steps channels"]
_SPARE = 16
"""Columns beside the residual stream in which the couplings' outputs add up; a whole vector register."""
_plans: "weakref.WeakKeyDictionary[nn.Module, Plan]" = weakref.WeakKeyDictionary()  # modules stay copyable


def suits(network: "WaveGlow", mel: Tensor) -> bool:
    """Whether this machine, network and mel are ones that a plan is made for."""
    weight = network.upsample.weight
    return (
        network.config.kernel == 3
        and weight.device.type == mel.device.type == "cpu"
        and weight.dtype == mel.dtype == torch.float32
        and mel.shape[-1] > 0
        and not torch.is_autocast_enabled("cpu")
        and importlib.util.find_spec("numba") is not None
    )


def plan(network: "WaveGlow") -> "Plan":
    """The network's plan; made at the first call, and anew when a weight has changed."""
    known = _plans.get(network)
    if known is None or known.stamp != stamp(network):
        _plans.pop(network, None)  # the old one is freed before the new one is made
        known = None
        _plans[network] = Plan(network)
    return _plans[network]


def stamp(network: nn.Module) -> list[tuple[int, int]]:
    """What changes when any weight does."""
    return [(p.data_ptr(), p._version) for p in network.parameters()]


class Plan:
    """Weights rearranged for generation."""

    def __init__(self, network: "WaveGlow") -> None:
        config = network.config
        self.config, self.stamp = config, stamp(network)
        self.block = 4 * max(256, 2 ** (config.n_layers - 1))
        """Steps computed at once: whole tiles of every dilation."""
        self.upsample = _Upsample(network)
        self.couplings = [_FastCoupling(one, self.block) for one in network.couplings]
        self.unmix = [torch.linalg.inv(one.matrix).T.contiguous() for one in network.mixes]

    @torch.no_grad()
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
            kept, changed = x.chunk(2, dim=1)
            shift, scale = self.couplings[k](kept, conditions).chunk(2, dim=1)
            x = torch.cat([kept, (changed - shift) * torch.exp(-scale)], dim=1) @ self.unmix[k]
            if k and k % config.n_early_every == 0:
                cut = noise.shape[1] - config.n_early_size
                x, noise = torch.cat([noise[:, cut:], x], dim=1), noise[:, :cut]
        return x.reshape(-1)


class _Upsample:
    """The transposed convolution as one product: a frame's steps from it and the frames before it."""

    def __init__(self, network: "WaveGlow") -> None:
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


class _FastCoupling:
    """One coupling's network: its layers, in the terms of the file's docstring."""

    def __init__(self, coupling: "Coupling", block: int) -> None:
        self.block, n = block, coupling.end.in_channels
        layers = list(zip(coupling.in_layers, coupling.res_skip_layers))
        start, end = _matrix(coupling.start), _matrix(coupling.end)
        self.n, self.n_out = n, len(end)
        local, local_bias = _matrix(coupling.cond_layer), _bias(coupling.cond_layer)
        offset = _bias(coupling.end).clone()
        self.local, self.bias, self.dilated, self.residual = [], [], [], []
        for i, (dilated, res_skip) in enumerate(layers):
            part = slice(2 * n * i, 2 * n * (i + 1))
            self.local.append([_pack(w, None, block // 2) for w in _strassen_right(local[part])])
            self.bias.append((_bias(dilated) + local_bias[part]).numpy())
            weight, bias = _matrix(res_skip), _bias(res_skip)
            offset += end @ bias[-n:]
            last = i + 1 == len(layers)
            rows = torch.zeros(_SPARE if last else n + _SPARE, n)
            rows[-_SPARE:][: self.n_out] = end @ weight[-n:]
            rest = torch.zeros(len(rows))
            if not last:
                rows[:n], rest[:n] = weight[:n], bias[:n]
            self.residual.append(_pack(rows, rest, 2 * block))
            if i:
                self.dilated.append([_pack(w, None, block // 4) for w in _winograd(dilated)])
        # ``start`` and the first convolution in one. A column of ones carries the bias, and the zero padding.
        ones = torch.cat([start, _bias(coupling.start)[:, None]], dim=1)
        first = torch.einsum("ock,ci->oki", layers[0][0].weight, ones)
        self.first = _pack(first.flatten(1).contiguous(), None, block)
        begin = torch.zeros(n + _SPARE, len(start[0]))
        begin[:n] = start
        rest = torch.zeros(n + _SPARE)
        rest[:n], rest[n : n + self.n_out] = _bias(coupling.start), offset
        self.begin = _pack(begin, rest, 2 * block)

    def __call__(self, kept: Rows, conditions: list[Tensor]) -> Float[Tensor, "steps out"]:
        """Return shift and log-scale."""
        from vocoders.cpu import gates as kernels

        n, n_steps, block = self.n, len(kept), self.block
        x = self.begin(kept.contiguous())
        gated = torch.empty(n_steps, n)
        around = F.pad(torch.cat([kept, torch.ones(n_steps, 1)], dim=1), (0, 0, 1, 1))
        around = torch.cat([around[:-2], around[1:-1], around[2:]], dim=1)
        tiles = torch.empty(6, block // 4, n)
        for i in range(len(self.local)):
            dilation, source = 2**i, x.numpy()
            for begin in range(0, n_steps, block):
                end = min(begin + block, n_steps)
                pairs = slice(begin // 2, (end + 1) // 2)
                local = tuple(product(one[pairs]).numpy() for product, one in zip(self.local[i], conditions))
                out = gated[begin:end].numpy()
                if i == 0:
                    kernels.gate(self.first(around[begin:end]).numpy(), local, self.bias[i], out)
                    continue
                whole, rest = divmod(end - begin, 4 * dilation)
                n_tiles = whole * dilation + min(rest, dilation)
                window = tiles[:, :n_tiles]
                kernels.transform_inputs(source, dilation, begin // 4, window.numpy())
                products = tuple(product(window[k]).numpy() for k, product in enumerate(self.dilated[i - 1]))
                kernels.gate_tiles(products, dilation, local, self.bias[i], out)
            if i + 1 < len(self.local):
                x = self.residual[i](gated, x)
        return self.residual[-1](gated, x[:, n:].contiguous())[:, : self.n_out]


def _winograd(conv: nn.Module) -> Float[Tensor, "6 outer inner"]:
    """The taps as F(4, 3) multiplies them."""
    assert isinstance(conv, nn.Conv1d)
    from vocoders.cpu.gates import WEIGHT

    return torch.einsum("ft,oit->foi", torch.from_numpy(WEIGHT), conv.weight.double()).float()


def _strassen_left(x: Rows) -> list[Tensor]:
    """The left factors of Strassen's products: blocks are even and odd rows, first and second columns."""
    x = F.pad(x, (0, 0, 0, len(x) % 2))
    (a11, a12), (a21, a22) = (x[odd::2].chunk(2, dim=1) for odd in (0, 1))
    combined = [a11 + a22, a21 + a22, a11, a22, a11 + a12, a21 - a11, a12 - a22]
    return [one.contiguous() for one in combined]


def _strassen_right(weight: Float[Tensor, "outer inner"]) -> list[Tensor]:
    """The right factors, transposed as linear layers have them; results are the gates' two halves."""
    (b11, b21), (b12, b22) = (half.double().chunk(2, dim=1) for half in weight.chunk(2))
    factors = [b11 + b22, b11, b12 - b22, b21 - b11, b22, b11 + b12, b21 + b22]
    return [one.float().contiguous() for one in factors]


def _pack(weight: Tensor, bias: Tensor | None, n_rows: int) -> Callable[..., Tensor]:
    """Return ``x, other=None -> x weightᵀ + bias + other`` on weights laid out for about ``n_rows`` rows."""
    weight = weight.detach().contiguous()
    if not torch.backends.mkldnn.is_available():

        def plain(x: Tensor, other: Tensor | None = None) -> Tensor:
            out = F.linear(x, weight, bias)
            return out if other is None else out.add_(other)

        return plain
    mkldnn: Any = torch.ops.mkldnn
    packed = mkldnn._reorder_linear_weight(weight, n_rows)

    def product(x: Tensor, other: Tensor | None = None) -> Tensor:
        if other is None:
            return mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return mkldnn._linear_pointwise.binary(x, other, packed, bias, "add")

    return product


def _matrix(conv: nn.Module) -> Float[Tensor, "outer inner"]:
    assert isinstance(conv, nn.Conv1d)
    return conv.weight.detach()[..., 0]


def _bias(conv: nn.Module) -> Float[Tensor, "outer"]:
    assert isinstance(conv, nn.Conv1d)
    assert conv.bias is not None
    return conv.bias.detach()
