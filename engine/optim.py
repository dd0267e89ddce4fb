"""Optimisation by one or more players, each of which minimises its own loss over its own parameters."""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from engine.processes import Buckets, Gradients, n_processes
from engine.user_error import UserError, within

_micro_batch: ContextVar[tuple[int, int]] = ContextVar("micro_batch", default=(0, 1))


@contextmanager
def micro_batch(index: int, count: int) -> Iterator[None]:
    """Mark the code inside as micro-batch ``index`` of the ``count`` accumulated in one step."""
    before = _micro_batch.set((index, count))
    try:
        yield
    finally:
        _micro_batch.reset(before)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """An optimiser and its learning-rate schedule (warm-up, plateau, decay), in updates of the player."""

    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW, or RMSprop (Tieleman and Hinton 2012) without momentum and weight decay."""
    lr: float = 1e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the averages of the gradient and of its square; RMSprop uses only the second."""
    eps: float = 1e-8
    """Term added to the denominator for numerical stability."""
    weight_decay: float = 0.0
    """Decoupled weight decay per unit of learning rate; with 0 AdamW is Adam."""
    warmup_steps: int = 0
    """Updates of linear learning-rate warm-up from 0."""
    hold_steps: int = 0
    """Updates at the peak learning rate before the decay begins."""
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    """Shape of the learning-rate decay."""
    decay_steps: int = 100_000
    """Length of the decay in updates; the learning rate then stays at ``final`` times its peak."""
    final: float = 0.01
    """Fraction of the peak learning rate that remains after the decay."""
    gradient_clip: float = 0.0
    """Maximum norm of the player's whole gradient; 0 disables clipping."""
    patience: int = 50
    """Consecutive updates skipped for non-finite gradients before the run returns to its last checkpoint."""

    def __post_init__(self) -> None:
        within("(0, inf)", self, "lr")
        if self.optimizer == "rmsprop" and self.weight_decay:
            raise UserError(f"weight_decay={self.weight_decay} needs adamw: rmsprop supports only 0")
        if self.schedule != "constant" and (self.decay_steps < 1 or not 0 < self.final <= 1):
            raise UserError(f"a {self.schedule} schedule needs decay_steps of at least 1 and final in (0, 1]")

    def rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
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
    """A set of parameters with the optimiser that updates only them; adversarial training has several.

    Gradients are averaged over micro-batches and processes here, per call of ``step``, so an ``update`` may
    run any number of forward passes and players without wrapping the modules. If a player steps several times
    per ``update``, gradient accumulation averages the n-th calls of all micro-batches. An update with a
    non-finite gradient is skipped and counted on the device, without synchronising with it.
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
        """Number of updates so far, including skipped ones; the position in the learning-rate schedule."""
        self.halvings = 0
        """How often the learning rate was halved after too many consecutive skipped updates."""
        self.float16 = False
        """Whether losses are scaled up, because small gradients underflow in float16."""
        self.skipped = torch.zeros((), dtype=torch.long)
        """Number of updates skipped because their gradient was not finite."""
        self.skipped_in_row = self.longest_row = self.skipped
        """Length of the current run of consecutive skipped updates, and of the longest one so far."""
        self.grad_norm = torch.zeros(())
        """Norm of the last gradient, before clipping."""
        self._scaler: torch.amp.GradScaler | None = None
        self._scaler_state: dict[str, Any] = {}
        self._buckets = Buckets(self.parameters)
        self._last_call = (-1, 0)  # micro-batch, number within it
        self._sums: dict[int, Gradients] = {}

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.config.rate(self.updates) * 0.5**self.halvings

    def step(self, loss: Float[Tensor, ""], *, retain_graph: bool = False) -> Float[Tensor, ""]:
        """Take one optimiser step on ``loss`` and return the norm of the gradient.

        Other players' parameters receive no gradient. Before the last micro-batch of a step the gradient is
        only accumulated, and the norm of the previous update is returned.
        """
        index, count = _micro_batch.get()
        before, call = self._last_call
        call = call + 1 if before == index else 0
        self._last_call = (index, call)
        earlier = self._sums.pop(call, None) or [None] * len(self.parameters)
        scaled = self._scaler_on(loss.device).scale(loss)

        def backward() -> tuple[Tensor | None, ...]:
            with torch.autocast(loss.device.type, enabled=False):
                return torch.autograd.grad(
                    scaled, self.parameters, retain_graph=retain_graph, allow_unused=True
                )

        def mean(place: int, gradient: Tensor | None) -> Tensor | None:
            total = _add(earlier[place], gradient)
            return total if total is None or count == 1 else total / count

        if index + 1 < count:
            self._sums[call] = [_add(a, b) for a, b in zip(earlier, backward(), strict=True)]
        elif n_processes() > 1:
            self._apply(self._buckets.mean(backward, mean))
        else:
            self._apply([mean(place, gradient) for place, gradient in enumerate(backward())])
        return self.grad_norm

    def _scaler_on(self, device: torch.device) -> torch.amp.GradScaler:
        """The scaler, which scales losses in float16 and lets the optimiser skip an update on the device."""
        if self._scaler is None:
            self._scaler = torch.amp.GradScaler(device.type, init_scale=2.0**16 if self.float16 else 1.0)
            if self._scaler_state:
                self._scaler.load_state_dict(self._scaler_state)
        return self._scaler

    def _apply(self, gradients: Gradients) -> None:
        present = []
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                # Fused kernels ignore strides: a transposed gradient would update the wrong weights.
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
            present += [] if gradient is None else [gradient]
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.updates += 1
        if not present:
            self.grad_norm = self.grad_norm.new_zeros(())
            return
        scaler = self._scaler_on(present[0].device)
        scaler.unscale_(self.optimizer)
        self.grad_norm = torch.nn.utils.get_total_norm(present)
        self._count(~torch.isfinite(self.grad_norm))
        if self.config.gradient_clip > 0:
            scale = (self.config.gradient_clip / (self.grad_norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(present, scale)
        scaler.step(self.optimizer)
        scaler.update(None if self.float16 else 1.0)
        self.optimizer.zero_grad(set_to_none=True)

    def _count(self, skip: Bool[Tensor, ""]) -> None:
        """Count a skipped update on the device, without synchronising with it."""
        skipped, in_row, longest = (
            n.to(skip.device) for n in (self.skipped, self.skipped_in_row, self.longest_row)
        )
        self.skipped, self.skipped_in_row = skipped + skip, (in_row + skip) * skip
        self.longest_row = torch.maximum(longest, self.skipped_in_row)

    def halve(self, times: int) -> None:
        """Continue with the configured learning rate halved ``times`` times; reset the consecutive skips."""
        self.halvings = times
        self.skipped_in_row = self.longest_row = torch.zeros_like(self.skipped)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on, except the parameters."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict() if self._scaler and self.float16 else {},
            "updates": self.updates,
            "halvings": self.halvings,
            "skipped": int(self.skipped),
            "skipped_in_row": int(self.skipped_in_row),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a stored ``state_dict``; those of earlier versions are accepted."""
        groups = [
            {**theirs, "fused": ours["fused"]} if "fused" in ours else theirs
            for ours, theirs in zip(self.optimizer.param_groups, state["optimizer"]["param_groups"])
        ]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.updates, self.halvings = state["updates"], state.get("halvings", 0)
        self.skipped = torch.tensor(state["skipped"])
        self.skipped_in_row = self.longest_row = torch.tensor(state["skipped_in_row"])
        self._scaler, self._scaler_state = None, state.get("scaler", {})


def _optimizer(parameters: list[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    match config.optimizer:
        case "adamw":
            shared = {"betas": config.betas, "weight_decay": config.weight_decay}
            # The fused AdamW skips updates on the device; the others synchronise with the host for that.
            return torch.optim.AdamW(parameters, lr=config.lr, eps=config.eps, fused=True, **shared)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=config.lr, alpha=config.betas[1], eps=config.eps)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


class EMA:
    """An evaluation copy of a module with the exponential moving average of its weights."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self._source = module
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step ``step``, with less decay in early steps; buffers are copied."""
        index, count = _micro_batch.get()
        if index + 1 < count:  # before the last micro-batch of a step the module has not changed
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(self._source.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for our, their in zip(self.module.buffers(), self._source.buffers(), strict=True):
            our.copy_(their)
