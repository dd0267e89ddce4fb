"""A small run: two players, batch statistics, an EMA copy, a bank and noise."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.config import cli
from engine.loop import LoopConfig, accelerator, fit
from engine.optim import EMA, OptimConfig, Player
from engine.processes import gather
from engine.seeding import step_seed
from engine.tracking import Samples
from engine.user_error import exits_cleanly
from w2w.cluit.losses import MemoryBank


@dataclass(frozen=True, kw_only=True)
class Wide:
    """A wide body."""

    width: int = 8
    """Hidden units."""


@dataclass(frozen=True, kw_only=True)
class Deep:
    """A deep body."""

    layers: int = 2
    """Hidden layers."""


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """A toy run."""

    body: Wide | Deep = field(default_factory=Wide)
    """Shape of the network."""
    spare: Deep | None = None
    """An optional part."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=0.01, schedule="cosine", decay_steps=40)
    )
    """Optimiser of both players."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=10, log_every=3, save_every=4, sample_every=5, cpu=True)
    )
    """The loop."""
    signal_at: int = 0
    """Step in which the run sends itself SIGTERM; 0 for none."""


class Toy:
    def __init__(self, config: ToyConfig) -> None:
        self.config = config
        self.maker = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))
        self.critic, self.bank = nn.Linear(4, 1), nn.Module()
        self.bank.register_buffer("rows", torch.zeros(4, 4))
        self.ema = EMA(self.maker, 0.9)
        self.players = {n: Player(getattr(self, n), config.optim, n) for n in ("maker", "critic")}
        named = {"maker": self.maker, "critic": self.critic, "bank": self.bank}
        self.modules: dict[str, nn.Module] = {**named, "maker_ema": self.ema.module}

    def update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        if self.config.signal_at and step == self.config.signal_at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        fake = self.maker(real + torch.randn_like(real))
        critic = (self.critic(real) - 1).square().mean() + self.critic(fake.detach()).square().mean()
        if step % 2 == 0:
            self.players["critic"].step(critic)
        maker = (self.critic(fake) - 1).square().mean() + (fake - self.bank.rows.mean(0)).square().mean()
        self.players["maker"].step(maker)
        self.bank.rows.copy_(torch.cat([self.bank.rows[1:], fake[:1].detach()]))
        self.ema.update(step)
        return {"loss/critic/adversarial": critic, "loss/maker/adversarial": maker}

    def samples(self, step: int) -> Samples:
        return Samples(audio={"noise": (torch.rand(1, 1, 800), 8000)}, mels={"noise": torch.randn(8, 20)})

    def evaluate(self, step: int) -> dict[str, float]:
        return {"score": float(step)}


class Batches:
    def __init__(self, config: LoopConfig, rank: int, poisoned: tuple[int, ...] = ()) -> None:
        self.config, self.rank, self.poisoned = config, rank, poisoned

    def __call__(self, start: int) -> Iterator[Tensor]:
        step = start
        while True:
            for micro in range(self.config.accumulate):
                rng = torch.Generator().manual_seed(step_seed(self.config.seed, step, self.rank, micro))
                batch = torch.randn(6, 4, generator=rng)
                yield batch.fill_(torch.nan) if step in self.poisoned else batch
            step += 1


class Shares:
    """Equal parts of one global batch and no random task, so that N processes equal one."""

    def __init__(self, rank: int, count: int, accumulate: int = 1) -> None:
        self.rank, self.count, self.accumulate = rank, count, accumulate

    def __call__(self, start: int) -> Iterator[Tensor]:
        step = start
        while True:
            rng = torch.Generator().manual_seed(step_seed(0, step))
            whole = torch.randn(8, 4, generator=rng).chunk(self.count * self.accumulate)
            yield from whole[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]
            step += 1


class Together:
    """A network, a critic used every other step, gathered negatives, a bank and an EMA copy."""

    def __init__(self) -> None:
        self.maker, self.critic, self.bank = nn.Linear(4, 4), nn.Linear(4, 1), MemoryBank(24, 4)
        self.ema = EMA(self.maker, 0.9)
        config = OptimConfig(lr=0.01, gradient_clip=0.1)
        self.players = {name: Player(getattr(self, name), config, name) for name in ("maker", "critic")}
        self.modules: dict[str, nn.Module] = {
            "maker": self.maker,
            "critic": self.critic,
            "bank": self.bank,
            "ema": self.ema.module,
        }

    def update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        fake = self.maker(real)
        critic = (self.critic(real) - 1).square().mean() + self.critic(fake.detach()).square().mean()
        if step % 2 == 0:
            self.players["critic"].step(critic)
        keys = gather(real.detach())
        contrast = (fake @ torch.cat([self.bank.keys, keys]).T).logsumexp(1).mean()
        maker = contrast + (self.critic(fake) - 1).square().mean()
        self.players["maker"].step(maker)
        self.bank.push(keys, torch.zeros(len(keys), dtype=torch.long))
        self.ema.update(step)
        return {"loss/critic/adversarial": critic, "loss/maker/contrast": contrast}


BASE = ToyConfig()
PRESETS = {"base": BASE, "tiny": replace(BASE, body=Deep())}


def train(config: ToyConfig) -> int:
    place = accelerator(config.loop)
    _, steps = fit(
        lambda: Toy(config), Batches(config.loop, place.process_index), config.loop, full_config=config
    )
    return steps


@exits_cleanly
def main() -> None:
    config = cli(PRESETS)
    print(f"done: {train(config)} steps")


if __name__ == "__main__":
    main()
