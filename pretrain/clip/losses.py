"""CLIP's contrastive loss, its temperature, and Wav2CLIP's form with projections both ways."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

FIRST = math.log(1 / 0.07)
"""CLIP's first log scale."""
MOST = math.log(100)
"""CLIP's largest: a scale of 100."""

Rows = Float[Tensor, "batch dim"]


class LogitScale(nn.Module):
    """The learnable inverse temperature of a contrastive loss, between 1 and 100."""

    def __init__(self, log_scale: float = FIRST) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def forward(self) -> Float[Tensor, ""]:
        return self.log_scale.clamp(0.0, MOST).exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the parameter back into its range after a step: outside it there is no gradient."""
        self.log_scale.clamp_(0.0, MOST)


def clip_loss(a: Rows, b: Rows, scale: Float[Tensor, ""], *, gathered: bool = True) -> Float[Tensor, ""]:
    """Ask every row of ``a`` for its partner among ``b``, and the other way; the mean of both answers.

    Vectors are brought to unit length here. Gradients reach both and the scale. With ``gathered``, the rows
    of all processes are each other's negatives: this process's loss is over its own rows, and the mean of
    the processes' losses and gradients are those of one process with the whole batch.
    """
    device = a.device.type
    with torch.autocast(device, enabled=False):
        a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
        all_a, all_b, first = a, b, 0
        if gathered and n_processes() > 1:
            all_a, all_b = gather(a), gather(b)
            first = dist.get_rank() * len(a)
        partner = torch.arange(first, first + len(a), device=a.device)
        from_a = F.cross_entropy(scale * a @ all_b.T, partner)
        from_b = F.cross_entropy(scale * b @ all_a.T, partner)
        return (from_a + from_b) / 2


def cx_loss(
    audio: Float[Tensor, "batch channels"],
    image: Float[Tensor, "batch dim"],
    audio_as_image: Float[Tensor, "batch dim"],
    image_as_audio: Float[Tensor, "batch channels"],
    scale_audio: Float[Tensor, ""],
    scale_image: Float[Tensor, ""],
    *,
    gathered: bool = True,
) -> Float[Tensor, ""]:
    """Wav2CLIP's loss: ½ [CLIP(a, f(i)) + CLIP(g(a), i)], each comparison with its own temperature."""
    in_audio = clip_loss(audio, image_as_audio, scale_audio, gathered=gathered)
    in_image = clip_loss(audio_as_image, image, scale_image, gathered=gathered)
    return (in_audio + in_image) / 2


def n_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(rows: Shaped[Tensor, "batch *rest"]) -> Shaped[Tensor, "all *rest"]:
    """Stack the rows of all processes in order of rank; each gets its gradient from all processes' losses."""
    return _Gather.apply(rows) if n_processes() > 1 else rows  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(n_processes())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        # A sum, because Player then averages the parameters' gradients over processes.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(n_processes())[dist.get_rank()]
