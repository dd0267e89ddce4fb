"""Means of what a task reports between two readings, and where the time went."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from engine.optim import Player


class Meter:
    """Adds scalars up on the device, so that only reading them waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Take in what one ``update`` returned."""
        for name, value in scalars.items():
            value = torch.as_tensor(value).detach().float()
            total, count = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = (total + value, count + 1)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time one step."""
        began = time.perf_counter()
        yield
        self._steps, self._seconds = self._steps + 1, self._seconds + time.perf_counter() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the wait for data within a step."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def read(self, players: Mapping[str, Player]) -> dict[str, float]:
        """Return the means since the last reading, each player's state and the step's time; start anew."""
        scalars = {name: float(total) / count for name, (total, count) in self._sums.items()}
        for name, player in players.items():
            scalars |= {f"grad/{name}": float(player.grad_norm), f"lr/{name}": player.lr}
            scalars[f"skipped/{name}"] = float(player.skipped)
        scalars["time/step_seconds"] = self._seconds / max(self._steps, 1)
        scalars["time/data_share"] = self._waited / max(self._seconds, 1e-9)
        self.__init__()
        return scalars


def brief(scalars: Mapping[str, float]) -> str:
    """Shorten the first losses for a progress bar."""
    losses = [
        (name.removeprefix("loss/"), value) for name, value in scalars.items() if name.startswith("loss/")
    ]
    return " ".join(f"{name}={value:.3g}" for name, value in losses[:6])
