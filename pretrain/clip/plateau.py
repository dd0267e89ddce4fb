"""A player whose learning rate falls when the validation loss does not (torch's ReduceLROnPlateau)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from engine.optim import OptimConfig, Player
from engine.user_error import UserError


@dataclass(frozen=True, kw_only=True)
class PlateauConfig:
    """When the learning rate falls, and how far."""

    patience: int = 5
    """Evaluations in a row without a better validation loss before the rate falls; 0 never lowers it."""
    factor: float = 0.1
    """What the rate is then multiplied by."""
    threshold: float = 1e-4
    """Share of the best loss by which a better one must be lower."""
    least: float = 1e-3
    """Share of the first rate below which it does not fall."""

    def __post_init__(self) -> None:
        if self.patience < 0 or not 0 < self.factor < 1 or not 0 < self.least <= 1:
            raise UserError(
                f"a plateau needs patience={self.patience} of at least 0, factor={self.factor} and "
                f"least={self.least} between 0 and 1"
            )


class PlateauPlayer(Player):
    """A player whose learning rate falls with the validation loss; stored with its optimiser."""

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        config: OptimConfig,
        plateau: PlateauConfig,
        name: str = "player",
    ) -> None:
        super().__init__(modules, config, name)
        self.plateau = plateau
        self.share = 1.0
        """Of the configured learning rate."""
        self.best = math.inf
        self.waited = 0

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.share * super().lr

    def observe(self, loss: float) -> None:
        """Take one evaluation's loss into account."""
        if loss < self.best * (1 - self.plateau.threshold):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.plateau.patience and self.waited > self.plateau.patience:
            self.share = max(self.share * self.plateau.factor, self.plateau.least)
            self.waited = 0

    def agree(self) -> None:
        """Take over the first process's learning rate, which alone evaluates."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            share = torch.tensor(self.share, dtype=torch.float64, device=self.parameters[0].device)
            dist.broadcast(share, src=0)
            self.share = float(share)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next update depends on, besides the parameters."""
        plateau = {"share": self.share, "best": self.best, "waited": self.waited}
        return {**super().state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a stored ``state_dict``."""
        super().load_state_dict(state)
        plateau = state["plateau"]
        self.share, self.best, self.waited = plateau["share"], plateau["best"], plateau["waited"]
