"""Optimisation for several players: each descends its own loss, on its own parameters alone."""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError

_micro_batch: ContextVar[tuple[int, int]] = ContextVar("micro_batch", default=(0, 1))


@contextmanager
def micro_batch(index: int, count: int) -> Iterator[None]:
    """Mark the code inside as micro-batch ``index`` of the ``count`` that make one step."""
    before = _micro_batch.set((index, count))
    try:
        yield
    finally:
        _micro_batch.reset(before)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """An optimiser with warm-up, plateau and decay of the learning rate, counted in updates of the player."""

    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """RMSprop (Tieleman and Hinton 2012) keeps no average of the gradient and knows no decay of weights."""
    lr: float = 1e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the gradient's and of the squared gradient's average; RMSprop takes the second alone."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled decay per unit of learning rate; with 0 this is Adam."""
    warmup_steps: int = 0
    """Updates over which the rate rises linearly from 0."""
    hold_steps: int = 0
    """Updates at the peak before the decay begins."""
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    """Shape of the decay."""
    decay_steps: int = 100_000
    """Updates the decay takes; the rate then stays at ``final`` times the peak."""
    final: float = 0.01
    """Share of the peak rate left after the decay."""
    gradient_clip: float = 0.0
    """Largest norm of the player's whole gradient; 0 leaves it alone."""
    patience: int = 50
    """Updates in a row that may be skipped for a gradient that is not finite before the run stops."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"lr={self.lr} must be above 0")
        if self.optimizer == "rmsprop" and self.weight_decay:
            raise UserError(f"weight_decay={self.weight_decay} belongs to adamw: rmsprop takes 0")
        if self.schedule != "constant" and (self.decay_steps < 1 or not 0 < self.final <= 1):
            raise UserError(f"a {self.schedule} schedule needs decay_steps of at least 1 and final in (0, 1]")

    def rate(self, update: int) -> float:
        """Return the learning rate of the ``update``-th update, counted from 0."""
        if update < self.warmup_steps:
            return self.lr * (update + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        done = (update - self.warmup_steps - self.hold_steps) / self.decay_steps
        done = min(max(done, 0.0), 1.0)
        if self.schedule == "exponential":
            return self.lr * self.final**done
        return self.lr * (self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2)


class Player:
    """The owner of some parameters: it follows the gradient of its loss with respect to them alone.

    Gradients are averaged over micro-batches and processes here, per call, so an ``update`` may run as many
    forward passes and players as its algorithm wants, without wrappers around the modules. Where gradients
    are accumulated and a player descends several times in one ``update``, the n-th calls of all micro-batches
    go together.
    """

    def __init__(
        self, modules: nn.Module | Iterable[nn.Module], config: OptimConfig, name: str = "player"
    ) -> None:
        modules = [modules] if isinstance(modules, nn.Module) else list(modules)
        unique = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        self.parameters = list(unique.values())
        if not self.parameters:
            raise ValueError(f"player {name!r} has no trainable parameters")
        self.config, self.name = config, name
        self.optimizer = _optimizer(self.parameters, config)
        self.updates = 0
        """Updates made so far; the schedule's clock."""
        self.skipped = 0
        """Updates left out because their gradient was not finite."""
        self.skipped_in_row = 0
        self.grad_norm = torch.zeros(())
        """Norm of the last gradient, before clipping."""
        self._last_call = (-1, 0)  # micro-batch, number within it
        self._sums: dict[int, list[Tensor | None]] = {}

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.config.rate(self.updates)

    def step(self, loss: Float[Tensor, ""], *, retain_graph: bool = False) -> Float[Tensor, ""]:
        """Take one step down ``loss`` and return the gradient's norm.

        Other players' parameters that the loss depends on receive nothing. In all but the last micro-batch of
        a step the gradient is only added up and the last known norm returned.
        """
        with torch.autocast(loss.device.type, enabled=False):
            gradients: list[Tensor | None] = list(
                torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph, allow_unused=True)
            )
        index, count = _micro_batch.get()
        if count > 1:
            gradients = self._accumulate(gradients, index, count)
            if index + 1 < count:
                return self.grad_norm
        self._apply(_mean_over_processes(gradients, self.parameters))
        return self.grad_norm

    def _accumulate(self, gradients: list[Tensor | None], index: int, count: int) -> list[Tensor | None]:
        call = self._next_call(index)
        if call in self._sums:
            sums = [_add(a, b) for a, b in zip(self._sums.pop(call), gradients, strict=True)]
        else:
            sums = gradients
        if index + 1 < count:
            self._sums[call] = sums
            return sums
        return [None if g is None else g / count for g in sums]

    def _next_call(self, index: int) -> int:
        """Number this call within its micro-batch."""
        micro, number = self._last_call
        number = number + 1 if micro == index else 0
        self._last_call = (index, number)
        return number

    def _apply(self, gradients: list[Tensor | None]) -> None:
        present = [g for g in gradients if g is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(present) if present else self.grad_norm.new_zeros(())
        if not bool(torch.isfinite(self.grad_norm)):
            self._skip()
            return
        self.skipped_in_row = 0
        if self.config.gradient_clip > 0:
            scale = (self.config.gradient_clip / (self.grad_norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(present, scale)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1

    def _skip(self) -> None:
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row >= self.config.patience:
            raise UserError(
                f"the gradient of player {self.name!r} was not finite {self.skipped_in_row} times in a row: "
                "lower its learning rate, clip its gradient, or look for broken recordings with data.check"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next update depends on, besides the parameters."""
        counts = {"updates": self.updates, "skipped": self.skipped, "skipped_in_row": self.skipped_in_row}
        return {"optimizer": self.optimizer.state_dict(), **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a stored ``state_dict``."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self.skipped = state["updates"], state["skipped"]
        self.skipped_in_row = state["skipped_in_row"]


def _optimizer(parameters: list[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    match config.optimizer:
        case "adamw":
            shared = {"betas": config.betas, "weight_decay": config.weight_decay}
            return torch.optim.AdamW(parameters, lr=config.lr, eps=config.eps, **shared)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=config.lr, alpha=config.betas[1], eps=config.eps)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _mean_over_processes(
    gradients: list[Tensor | None], parameters: list[nn.Parameter]
) -> list[Tensor | None]:
    """Average in one flat all-reduce; a parameter unused in some processes counts there as zero."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return gradients
    used = parameters[0].new_tensor([0.0 if g is None else 1.0 for g in gradients])
    dense = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
    flat = torch.cat([*(g.reshape(-1) for g in dense), used])
    dist.all_reduce(flat)
    flat, used = flat[: -len(used)] / dist.get_world_size(), flat[-len(used) :].tolist()
    parts = flat.split([p.numel() for p in parameters])
    return [part.view_as(p) if u else None for part, p, u in zip(parts, parameters, used, strict=True)]


class EMA:
    """An evaluation copy of a module whose weights are an exponential moving average of the module's."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self._source = module
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the module after step ``step``; early steps count for more. Buffers are copied."""
        index, count = _micro_batch.get()
        if index + 1 < count:  # the step is not over, so the module has not moved
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(self._source.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for our, their in zip(self.module.buffers(), self._source.buffers(), strict=True):
            our.copy_(their)
