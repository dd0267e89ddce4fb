"""WaveGlow (Prenger, Valle, Catanzaro 2018, arXiv:1811.00002): an invertible network from a wave to noise.

Parameters have the published names: only the weight norm pair is renamed to load published weights.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from engine.user_error import UserError
from vocoders.weight_norm import Foldable

Mel = Float[Tensor, "batch n_mels frames"]
Wave = Float[Tensor, "batch 1 samples"]
Groups = Float[Tensor, "batch group steps"]
"""A wave folded into vectors of ``n_group`` consecutive samples."""


@dataclass(frozen=True, kw_only=True)
class WaveGlowConfig:
    """Sizes of a WaveGlow; the defaults are those of the published 256-channel model."""

    n_mels: int = 80
    """Mel bands."""
    n_flows: int = 12
    """Flow steps, each an invertible 1x1 convolution and an affine coupling."""
    n_group: int = 8
    """Consecutive samples per vector; even."""
    n_early_every: int = 4
    """Flows between early outputs."""
    n_early_size: int = 2
    """Channels of an early output; even."""
    n_layers: int = 8
    """Dilated convolutions in each coupling; dilation doubles from 1."""
    n_channels: int = 256
    """Channels of each coupling's residual stream."""
    kernel: int = 3
    """Kernel size of the dilated convolutions; odd."""
    hop: int = 256
    """Samples per mel frame; a multiple of ``n_group``."""
    window: int = 1024
    """Samples that one mel frame conditions, from its first sample on; at least ``hop``."""

    def __post_init__(self) -> None:
        for name in ("n_group", "n_early_size"):
            if getattr(self, name) % 2 or getattr(self, name) < 2:
                raise UserError(f"{name}={getattr(self, name)} must be even: couplings split it in halves")
        if self.kernel % 2 == 0:
            raise UserError(f"kernel={self.kernel} must be odd, so that convolutions keep the length")
        if self.hop % self.n_group:
            raise UserError(f"hop={self.hop} must be a multiple of n_group={self.n_group}")
        if self.window < self.hop:
            raise UserError(f"window={self.window} must be at least hop={self.hop}, to condition all samples")
        if self.widths[-1] < 2:
            raise UserError(
                f"early outputs leave no channels of n_group={self.n_group} after {self.n_flows} flows: "
                "raise n_early_every or n_group"
            )

    @property
    def widths(self) -> list[int]:
        """Channels that enter each flow, in order from the wave to the noise."""
        return [self.n_group - self.n_early_size * (k // self.n_early_every) for k in range(self.n_flows)]


WAVEGLOW = WaveGlowConfig()
# Our variants at other sample rates.
_16K = {"hop": 160, "window": 640}
_24K = {"n_mels": 100, "hop": 240, "window": 960}
WAVEGLOW_16K, WAVEGLOW_24K = replace(WAVEGLOW, **_16K), replace(WAVEGLOW, **_24K)
WAVEGLOW_TINY = replace(WAVEGLOW_16K, n_flows=4, n_early_every=2, n_layers=3, n_channels=16)


class Flow(NamedTuple):
    """The network's output for a wave."""

    z: Groups
    """Noise, standard normal if the model fits the data; early outputs come first."""
    log_s: list[Float[Tensor, "batch half steps"]]
    """The log-scales of each coupling."""
    log_det_W: list[Float[Tensor, ""]]  # noqa: N815 - as in the paper
    """Each 1x1 convolution's log-determinant, summed over batch and steps."""


def negative_log_likelihood(flow: Flow, sigma: float = 1.0) -> Float[Tensor, ""]:
    """The negative log-likelihood per sample in nats, without the constant ½ log 2πσ² (eq. 3)."""
    z = flow.z
    log_s = torch.stack([one.sum() for one in flow.log_s]).sum()
    return (z.square().sum() / (2 * sigma**2) - log_s - torch.stack(flow.log_det_W).sum()) / z.numel()


class WaveGlow(Foldable):
    """WaveGlow: wave to noise in training, noise to wave in generation; weight norm until ``fold``."""

    def __init__(self, config: WaveGlowConfig = WAVEGLOW) -> None:
        super().__init__()
        self.config, self.hop, self.n_mels = config, config.hop, config.n_mels
        self.upsample = nn.ConvTranspose1d(config.n_mels, config.n_mels, config.window, config.hop)
        self.WN = nn.ModuleList(Coupling(width // 2, config) for width in config.widths)
        self.convinv = nn.ModuleList(Invertible1x1(width) for width in config.widths)

    @property
    def couplings(self) -> list["Coupling"]:
        """The affine couplings' networks, in order from the wave to the noise."""
        return [one for one in self.WN if isinstance(one, Coupling)]

    @property
    def mixes(self) -> list["Invertible1x1"]:
        """The 1x1 convolutions, in order from the wave to the noise."""
        return [one for one in self.convinv if isinstance(one, Invertible1x1)]

    @property
    def halo(self) -> int:
        """Mel frames on each side of a frame that its samples depend on.

        Twelve couplings of eight layers depend on more than a second; chunks should be several times longer.
        """
        config = self.config
        steps = config.n_flows * (config.kernel - 1) // 2 * (2**config.n_layers - 1)
        return -(-steps * config.n_group // config.hop) + -(-config.window // config.hop)

    def forward(self, mel: Mel, wave: Wave) -> Flow:
        """Map a wave to noise given its mel; also return the log-determinants for the likelihood."""
        config, samples = self.config, wave.shape[-1]
        if samples == 0 or samples % config.n_group:
            raise UserError(
                f"a wave of {samples} samples cannot be split into groups of {config.n_group}: "
                "trim it to a multiple"
            )
        if samples > mel.shape[-1] * self.hop + config.window - self.hop:
            raise UserError(
                f"{samples} samples are longer than their mel of {mel.shape[-1]} frames x {self.hop}: "
                "give the mel of this wave"
            )
        condition = self.condition(mel, samples)
        x, early, log_s, log_det = fold(wave.float(), config.n_group), [], [], []
        for k, (mix, coupling) in enumerate(zip(self.mixes, self.couplings)):
            if self._is_early(k):
                early.append(x[:, : config.n_early_size])
                x = x[:, config.n_early_size :]
            x, mixed = mix(x)
            kept, changed = x.chunk(2, dim=1)
            shift, scale = coupling(kept, condition)
            x = torch.cat([kept, scale.exp() * changed + shift], dim=1)
            log_s.append(scale)
            log_det.append(mixed)
        return Flow(torch.cat([*early, x], dim=1), log_s, log_det)

    def condition(self, mel: Mel, samples: int) -> Float[Tensor, "batch bands_x_group steps"]:
        """Upsample the mel to the wave's length and fold it like the wave."""
        up = self.upsample(mel)[..., :samples]
        return up.unflatten(-1, (-1, self.config.n_group)).permute(0, 1, 3, 2).flatten(1, 2)

    def _is_early(self, k: int) -> bool:
        return k > 0 and k % self.config.n_early_every == 0

    def inverse(self, mel: Mel, z: Groups) -> Wave:
        """Map noise to a wave: the inverse of ``forward``, in plain torch."""
        condition, widths = self.condition(mel, mel.shape[-1] * self.hop), self.config.widths
        x, z = z[:, -widths[-1] :], z[:, : -widths[-1]]
        for k in reversed(range(self.config.n_flows)):
            kept, changed = x.chunk(2, dim=1)
            shift, scale = self.couplings[k](kept, condition)
            x = self.mixes[k].inverse(torch.cat([kept, (changed - shift) * (-scale).exp()], dim=1))
            if self._is_early(k):
                cut = z.shape[1] - self.config.n_early_size
                x, z = torch.cat([z[:, cut:], x], dim=1), z[:, :cut]
        return x.transpose(1, 2).flatten(1)[:, None]

    def latent(self, mel: Mel, noise: Groups | None = None, temperature: float = 0.6) -> Groups:
        """Standard normal noise times ``temperature``, the paper's σ: the input of ``inverse``."""
        shape = self._noise_shape(len(mel), mel.shape[-1])
        if noise is None:
            noise = torch.randn(shape, device=mel.device)
        if tuple(noise.shape) != shape:
            raise UserError(
                f"noise of shape {tuple(noise.shape)} does not fit a mel of {mel.shape[-1]} frames: "
                f"it must have shape {shape}, as returned by noise()"
            )
        return noise.to(mel) * temperature

    def noise(self, batch: int, frames: int, generator: torch.Generator) -> Groups:
        """Draw standard normal noise for ``latent``; it may be cropped in time together with the mel."""
        shape = self._noise_shape(batch, frames)
        return torch.randn(shape, generator=generator, device=generator.device)

    def _noise_shape(self, batch: int, frames: int) -> tuple[int, int, int]:
        return batch, self.config.n_group, frames * self.hop // self.config.n_group


class Invertible1x1(nn.Module):
    """A square 1x1 convolution that mixes channels between couplings; initialised as a rotation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 1, bias=False)
        with torch.no_grad():
            rotation = torch.linalg.qr(torch.randn(width, width)).Q
            rotation[:, 0] *= torch.det(rotation).sign()
            self.conv.weight.copy_(rotation[..., None])

    def forward(self, x: Groups) -> tuple[Groups, Float[Tensor, ""]]:
        """Return the mixed channels and the log-determinant, summed over batch and steps."""
        with torch.autocast(x.device.type, enabled=False):
            # Of the absolute value: the published code's logdet is NaN once the determinant becomes negative.
            log_det = torch.linalg.slogdet(self.matrix.float()).logabsdet
            return self.conv(x.float()), log_det * (x.shape[0] * x.shape[2])

    def inverse(self, x: Groups) -> Groups:
        """Undo ``forward``'s mixing."""
        return F.conv1d(x, torch.linalg.inv(self.matrix)[..., None])

    @property
    def matrix(self) -> Float[Tensor, "width width"]:
        """The convolution's weight as a matrix."""
        return self.conv.weight[..., 0]


class Coupling(nn.Module):
    """The WaveNet-like network of an affine coupling: shift and log-scale of one half from the other."""

    def __init__(self, half: int, config: WaveGlowConfig) -> None:
        super().__init__()
        n, n_layers, kernel = config.n_channels, config.n_layers, config.kernel
        self.start = weight_norm(nn.Conv1d(half, n, 1))
        self.cond_layer = weight_norm(nn.Conv1d(config.n_mels * config.n_group, 2 * n * n_layers, 1))
        self.in_layers, self.res_skip_layers = nn.ModuleList(), nn.ModuleList()
        for i in range(n_layers):
            padding = 2**i * (kernel - 1) // 2
            dilated = nn.Conv1d(n, 2 * n, kernel, dilation=2**i, padding=padding)
            self.in_layers.append(weight_norm(dilated))
            self.res_skip_layers.append(weight_norm(nn.Conv1d(n, 2 * n if i + 1 < n_layers else n, 1)))
        self.end = nn.Conv1d(n, 2 * half, 1)
        nn.init.zeros_(self.end.weight)  # so that a coupling is initially the identity
        nn.init.zeros_(self.end.bias)  # type: ignore[arg-type]

    def forward(self, half: Groups, condition: Float[Tensor, "batch bands steps"]) -> tuple[Groups, Groups]:
        """Return shift and log-scale of the other half."""
        x, n = self.start(half), self.end.in_channels
        conditions = self.cond_layer(condition).chunk(len(self.in_layers), dim=1)
        # The path from skip connections to ``end`` is linear, so that their small product replaces both.
        end, out = self.end.weight[..., 0], self.end.bias[:, None]  # type: ignore[index]
        layers: Any = zip(self.in_layers, self.res_skip_layers, conditions)
        for dilated, res_skip, local in layers:
            gates = dilated(x) + local
            weight, bias = res_skip.weight[..., 0], res_skip.bias
            weight = torch.cat([weight[:-n], end @ weight[-n:]])  # the last layer has no residual half
            bias = torch.cat([bias[:-n], end @ bias[-n:]])
            gated = torch.tanh(gates[:, :n]) * torch.sigmoid(gates[:, n:])
            added = F.conv1d(gated, weight[..., None], bias)
            out = out + added[:, -len(end) :]
            if added.shape[1] > len(end):
                x = x + added[:, :n]
        shift, scale = out.float().chunk(2, dim=1)
        return shift, scale


def fold(wave: Wave, n_group: int) -> Groups:
    """Reshape a wave to vectors of ``n_group`` consecutive samples."""
    return wave.squeeze(1).unflatten(-1, (-1, n_group)).transpose(1, 2)
