"""What takes a voice out of channels and puts another in: InstanceNorm, AdaIN and their live forms."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from w2w.baselines.cluit_mel.config import Norm
from w2w.baselines.cluit_mel.convolutions import initialised

Frames = Float[Tensor, "batch channels frames"]
PerChannel = Float[Tensor, "rows channels"]
Modulation = tuple[Tensor, Tensor]
"""Scale and shift of every channel, each (rows, channels) with one row for all or one for each."""

EPSILON = 1e-5
MOMENTUM = 0.01
"""Of the moving averages of ``frozen`` statistics: those of about the last hundred batches."""


class Normalisation(nn.Module):
    """Channels normalised in one of three ways, then scaled and shifted.

    ``frozen`` uses each utterance's own statistics in training, as ``instance`` does, and keeps moving
    averages of them, which it uses in evaluation; while ``recording`` it uses and keeps those of the
    clip it is given.
    """

    def __init__(self, n_channels: int, how: Norm) -> None:
        super().__init__()
        self.how: Norm = how
        self.recording = False
        if how == "frozen":
            self.register_buffer("mean", torch.zeros(n_channels))
            self.register_buffer("variance", torch.ones(n_channels))
            self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))

    mean: Tensor
    variance: Tensor
    n_updates: Tensor

    def forward(self, x: Frames, scale: PerChannel, shift: PerChannel) -> Frames:
        """Normalise and modulate."""
        match self.how:
            case "instance":
                return instance_norm(x, scale, shift)
            case "frame":
                variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
                normal = (x - mean) * torch.rsqrt(variance + EPSILON)
                return torch.addcmul(shift[..., None].to(x), normal, scale[..., None].to(x))
            case "frozen":
                if self.recording or self.training:
                    self._keep(x)
                    return instance_norm(x, scale, shift)
                scale = scale * torch.rsqrt(self.variance + EPSILON)
                shift = shift - self.mean * scale
                return torch.addcmul(shift[..., None].to(x), x, scale[..., None].to(x))

    @torch.no_grad()
    def _keep(self, x: Frames) -> None:
        """Move the averages towards the batch's: fast at first; all the way while recording."""
        # Over batch and time, as batch norm's: were voices' own means left out of the variance, a voice far from
        # the average would be blown up. A clip of its own has the statistics of InstanceNorm.
        variance, mean = torch.var_mean(x.float(), dim=(0, -1), correction=0)
        self.n_updates += 1
        rate = 1.0 if self.recording else (1.0 / self.n_updates).clamp_min(MOMENTUM)
        self.mean += rate * (mean - self.mean)
        self.variance += rate * (variance - self.variance)


class Affine(nn.Module):
    """A normalisation whose scale and shift are learned."""

    def __init__(self, n_channels: int, how: Norm) -> None:
        super().__init__()
        self.normalisation = Normalisation(n_channels, how)
        self.scale = nn.Parameter(torch.ones(1, n_channels))
        self.shift = nn.Parameter(torch.zeros(1, n_channels))

    def forward(self, x: Frames) -> Frames:
        """Normalise."""
        return self.normalisation(x, self.scale, self.shift)


class AdaIN(nn.Module):
    """A normalisation whose scale and shift a voice decides (Huang and Belongie 2017): (1 + γ) IN(x) + β.

    On statistics of single frames this is FiLM (Perez et al. 2018) after a layer norm.
    """

    def __init__(self, n_channels: int, style_dim: int, how: Norm) -> None:
        super().__init__()
        self.normalisation = Normalisation(n_channels, how)
        self.style = initialised(nn.Linear(style_dim, 2 * n_channels), style_dim)

    def modulation(self, voice: Float[Tensor, "batch style"]) -> Modulation:
        """Scale and shift for a voice: the same for all of an utterance, so computed once."""
        gamma, beta = self.style(voice).chunk(2, dim=1)
        return 1.0 + gamma, beta

    def forward(self, x: Frames, modulation: Modulation) -> Frames:
        """Normalise and put the voice in."""
        return self.normalisation(x, *modulation)


def instance_norm(x: Frames, scale: PerChannel, shift: PerChannel) -> Frames:
    """InstanceNorm with a scale and shift of every row's own, in one pass (a batch norm of one long row)."""
    batch, channels, frames = x.shape
    scale, shift = (v.float().expand(batch, channels).reshape(-1) for v in (scale, shift))
    flat = x.reshape(1, batch * channels, frames)
    # Not F.batch_norm, which refuses a single frame: its variance is zero, so it becomes the shift.
    normal = torch.batch_norm(flat, scale, shift, None, None, True, 0.0, EPSILON, False)
    return normal.view_as(x)


def leaky(x: Frames) -> Frames:
    """LeakyReLU 0.2, in the place of what a normalisation has just made."""
    return F.leaky_relu_(x, 0.2)
