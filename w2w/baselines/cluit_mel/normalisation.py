"""What takes a voice out of channels and puts another in: InstanceNorm, AdaIN and their live forms."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from w2w.baselines.cluit_mel.config import Norm
from w2w.baselines.cluit_mel.convolutions import initialised

Frames = Float[Tensor, "batch channels frames"]
Voice = Float[Tensor, "batch style"]

EPSILON = 1e-5


@dataclass
class Modulation:
    """What becomes of normalised channels, for one layer and voice."""

    scale: Tensor
    """(rows, channels), one row for all utterances or one for each."""
    shift: Tensor
    """Likewise."""
    fixed: bool = False
    """Whether statistics are in scale and shift already, so that nothing else is normalised."""

    def fix(self, x: Frames) -> None:
        """Take in the statistics of utterances, for all that is said after them."""
        variance, mean = torch.var_mean(x.detach().float(), dim=-1, correction=0)
        self.scale = self.scale * torch.rsqrt(variance + EPSILON)
        self.shift = self.shift - mean * self.scale
        self.fixed = True


class Normalisation(nn.Module):
    """Channels normalised, then scaled and shifted.

    ``instance``: over an utterance. ``frame``: every frame over its channels. ``frozen``: over an utterance
    in training; in evaluation the first utterance that meets a modulation fixes it.
    """

    def __init__(self, how: Norm) -> None:
        super().__init__()
        self.how: Norm = how

    def forward(self, x: Frames, modulation: Modulation) -> Frames:
        """Normalise and modulate."""
        if self.how == "frozen" and not self.training and not modulation.fixed:
            modulation.fix(x)
        scale, shift = modulation.scale, modulation.shift
        if self.how == "frame":
            variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            spread = torch.rsqrt(variance + EPSILON)
            x = torch.addcmul(-mean * spread, x, spread)
        elif not modulation.fixed:
            return instance_norm(x, scale, shift)
        return torch.addcmul(shift[..., None].to(x), x, scale[..., None].to(x))


class Affine(nn.Module):
    """A normalisation whose scale and shift are learned."""

    def __init__(self, n_channels: int, how: Norm) -> None:
        super().__init__()
        self.normalisation = Normalisation(how)
        self.scale = nn.Parameter(torch.ones(1, n_channels))
        self.shift = nn.Parameter(torch.zeros(1, n_channels))

    def modulation(self, voice: Voice) -> Modulation:
        """The same for all voices."""
        return Modulation(self.scale, self.shift)

    def forward(self, x: Frames, modulation: Modulation) -> Frames:
        """Normalise."""
        return self.normalisation(x, modulation)


class AdaIN(nn.Module):
    """A normalisation whose scale and shift a voice decides (Huang and Belongie 2017): (1 + γ) IN(x) + β.

    On statistics of single frames this is FiLM (Perez et al. 2018) after a layer norm.
    """

    def __init__(self, n_channels: int, style_dim: int, how: Norm) -> None:
        super().__init__()
        self.normalisation = Normalisation(how)
        self.style = initialised(nn.Linear(style_dim, 2 * n_channels), style_dim)

    def modulation(self, voice: Voice) -> Modulation:
        """Scale and shift for a voice: the same for all of an utterance, so computed once."""
        gamma, beta = self.style(voice).chunk(2, dim=1)
        return Modulation(1.0 + gamma, beta)

    def forward(self, x: Frames, modulation: Modulation) -> Frames:
        """Normalise and put the voice in."""
        return self.normalisation(x, modulation)


def instance_norm(
    x: Frames, scale: Float[Tensor, "rows channels"], shift: Float[Tensor, "rows channels"]
) -> Frames:
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
