"""A judge of the world's pictures that has nothing to do with CLIP: it reads attributes off the pixels."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from data.synthetic.world import World
from data.synthetic.world_scenes import ATTRIBUTES
from engine.seeding import step_seed


class AttributeJudge(nn.Module):
    """Logits of every attribute's values, side by side."""

    def __init__(self, size: int = 64, width: int = 24) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [
                nn.Conv2d(inner, outer, 3, padding=1),
                nn.BatchNorm2d(outer),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.size, self.look = size, nn.Sequential(*layers, nn.Flatten())
        self.sizes = [len(attribute.values) for attribute in ATTRIBUTES]
        seen = widths[-1] * (size // 16) ** 2
        self.read = nn.Sequential(nn.Linear(seen, 128), nn.ReLU(), nn.Linear(128, sum(self.sizes)))

    def forward(self, picture: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch values"]:
        if picture.shape[-2:] != (self.size, self.size):
            own = (self.size, self.size)
            picture = F.interpolate(picture, own, mode="bilinear", antialias=True)
        return self.read(self.look(2 * picture - 1))

    @torch.no_grad()
    def values(self, pictures: UInt8[Tensor, "n 3 height width"]) -> Int[Tensor, "n 5"]:
        """The likeliest value of each attribute."""
        logits = torch.cat([self(part.float() / 255) for part in pictures.split(128)])
        return torch.stack([part.argmax(-1) for part in logits.split(self.sizes, dim=-1)], dim=-1)


def fit_judge(
    world: World,
    pictures: UInt8[Tensor, "n 3 height width"],
    *,
    steps: int = 400,
    batch: int = 48,
    lr: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
) -> AttributeJudge:
    """Learn to read attributes off a world's training pictures."""
    truth = torch.from_numpy(world.values(world.indices[: len(pictures)]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 1))
        judge = AttributeJudge(pictures.shape[-1])
        optimizer = torch.optim.AdamW(judge.parameters(), lr=lr)
        falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
        for _ in tqdm(range(steps), desc="learning to judge", delay=2.0, disable=not progress):
            index = torch.randint(len(pictures), (batch,))
            logits = judge(pictures[index].float() / 255).split(judge.sizes, dim=-1)
            losses = [F.cross_entropy(part, truth[index, number]) for number, part in enumerate(logits)]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
            falling.step()
    return judge.eval().requires_grad_(False)
