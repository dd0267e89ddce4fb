"""wav2vec 2.0's contrastive loss: identify a masked frame's quantised target among others of the clip."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engine.user_error import UserError
from pretrain.speech.encoder import Local
from pretrain.speech.student import Index, gather_frames

Flat = Float[Tensor, "n conv_dim"]


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Settings of the contrastive loss and its quantiser (Baevski et al., 2020)."""

    weight: float = 1.0
    """Loss weight."""
    groups: int = 2
    """Number of codebooks."""
    codes: int = 320
    """Entries per codebook."""
    code_dim: int = 256
    """Channels of the concatenated entries of all codebooks."""
    dim: int = 256
    """Channels of the projections in which states and targets are compared."""
    negatives: int = 100
    """Negatives per masked frame, drawn from the other masked frames of the clip."""
    temperature: float = 0.1
    """Temperature of the contrastive softmax."""
    diversity: float = 0.1
    """Weight of the penalty on unused codes."""
    gumbel_first: float = 2.0
    """Initial temperature of the Gumbel softmax."""
    gumbel_last: float = 0.5
    """Minimum temperature of the Gumbel softmax."""
    gumbel_decay: float = 0.999995
    """Factor of the Gumbel temperature per update."""

    def __post_init__(self) -> None:
        if self.code_dim % self.groups:
            raise UserError(f"code_dim={self.code_dim} must be a multiple of groups={self.groups}")

    def gumbel(self, update: int) -> float:
        return max(self.gumbel_first * self.gumbel_decay**update, self.gumbel_last)


class Quantiser(nn.Module):
    """Gumbel-softmax quantiser: selects one entry of each codebook, with a straight-through gradient."""

    def __init__(self, config: ContrastConfig, conv_dim: int) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Linear(conv_dim, config.groups * config.codes)
        self.entries = nn.Parameter(torch.rand(config.groups, config.codes, config.code_dim // config.groups))
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(
        self, local: Flat, temperature: float
    ) -> tuple[Float[Tensor, "n code_dim"], Int[Tensor, "n"], Float[Tensor, ""]]:
        """Return the entries, an index of each combination of codes, and the perplexity of their use."""
        groups, codes = self.config.groups, self.config.codes
        logits = rearrange(self.logits(local).float(), "n (group code) -> group n code", group=groups)
        if self.training:
            choice = F.gumbel_softmax(logits, tau=temperature, hard=True)
            use = logits.softmax(-1).mean(1)
        else:
            choice = F.one_hot(logits.argmax(-1), codes).to(logits.dtype)
            use = choice.mean(1)
        use = use.clamp(min=1e-9)  # at 0 the logarithm would have no gradient
        perplexity = torch.exp(-(use * use.log()).sum(-1)).sum()
        number = torch.zeros_like(choice[0, :, 0], dtype=torch.long)
        for chosen in choice.detach().argmax(-1):
            number = number * codes + chosen
        return torch.cat([*torch.bmm(choice, self.entries.to(choice.dtype))], dim=-1), number, perplexity


class Contrast(nn.Module):
    """The contrastive loss of states against quantised targets; gradients reach the convolutions by both."""

    def __init__(self, config: ContrastConfig, *, dim: int, local_dim: int) -> None:
        super().__init__()
        self.config = config
        self.quantiser = Quantiser(config, local_dim)
        self.project_states = nn.Linear(dim, config.dim)
        self.project_targets = nn.Linear(config.code_dim, config.dim)

    def forward(
        self, states: Float[Tensor, "rows steps hidden"], local: Local, index: Index, update: int
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        if len(index) == len(local):  # quantise only the masked frames
            local, index = (
                gather_frames(local, index),
                torch.arange(index.shape[1], device=index.device).expand_as(index),
            )
        flat = local.reshape(-1, local.shape[-1])
        entries, number, perplexity = self.quantiser(flat, self.config.gumbel(update))
        targets = gather_frames(self.project_targets(entries).view(*local.shape[:2], -1), index)
        numbers = gather_frames(number.view(*local.shape[:2], 1), index)[..., 0]

        logits = contrastive_logits(
            self.project_states(states),
            targets,
            numbers,
            draw_negatives(len(index), index.shape[1], self.config.negatives, states.device),
            self.config.temperature,
        )
        right = logits.new_zeros(logits.shape[:2], dtype=torch.long)
        contrast = F.cross_entropy(logits.flatten(0, 1), right.flatten())
        all_codes = self.config.groups * self.config.codes
        unused = (all_codes - perplexity) / all_codes
        scalars = {
            "contrast": contrast.detach(),
            "codes_in_use": perplexity.detach(),
            "chosen_right": (logits.detach().argmax(-1) == 0).float().mean(),
        }
        return contrast + self.config.diversity * unused, scalars


def draw_negatives(
    rows: int, steps: int, count: int, device: torch.device | None = None
) -> Int[Tensor, "rows steps count"]:
    """For each masked step of each row, draw indices of other masked steps of that row."""
    if steps < 2:
        raise UserError("a clip with fewer than 2 masked steps has no negatives: use longer clips")
    drawn = torch.randint(steps - 1, (rows, steps, count), device=device)
    return drawn + (drawn >= torch.arange(steps, device=device)[:, None])


def contrastive_logits(
    states: Float[Tensor, "rows steps dim"],
    targets: Float[Tensor, "rows steps dim"],
    numbers: Int[Tensor, "rows steps"],
    negatives: Int[Tensor, "rows steps count"],
    temperature: float,
) -> Float[Tensor, "rows steps choices"]:
    """Return each state's cosine similarity to its target (first) and its negatives, over the temperature.

    The negatives are gathered from one product of all states of a row with all its targets, which is cheaper
    than gathering a hundred vectors per state. Negatives with the same codes as the positive are masked.
    """
    cosines = F.normalize(states.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).transpose(1, 2)
    same: Bool[Tensor, "rows steps steps"] = numbers[:, :, None] == numbers[:, None]
    others = cosines.masked_fill(same, -torch.inf).gather(-1, negatives)
    positives = cosines.diagonal(dim1=1, dim2=2)[..., None]
    return torch.cat([positives, others], dim=-1) / temperature
