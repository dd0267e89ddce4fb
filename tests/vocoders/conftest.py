"""Fixtures of the vocoders' tests: published outputs, and a harmonic sound."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def published() -> Callable[[str], dict[str, Any]]:
    """Read a published implementation's inputs, weights and outputs (environment variable GOLDEN)."""
    folder = Path(os.environ.get("GOLDEN", ROOT.parent / "shared/golden"))

    def read(name: str) -> dict[str, Any]:
        path = folder / f"{name}.pt"
        if not path.is_file():
            pytest.skip(f"no {path.name}: set GOLDEN to the folder of published outputs")
        return torch.load(path, weights_only=True)

    return read


@pytest.fixture(scope="session")
def hum() -> Callable[..., Tensor]:
    """Make a harmonic sound with a vibrato and a little noise: one row for each F0 in Hz."""

    def sound(samples: int, f0: tuple[float, ...] = (120.0, 210.0), rate: int = 16_000) -> Tensor:
        time = torch.arange(samples).double() / rate
        rows = []
        for base in f0:
            phase = 2 * math.pi * ((base * (1 + 0.03 * torch.sin(2 * math.pi * 5 * time))) / rate).cumsum(0)
            rows.append(sum(0.1 / k * torch.sin(k * phase + k) for k in range(1, 12)))
        wave = torch.stack(rows)[:, None].float()
        return wave + 0.003 * torch.randn(wave.shape)

    return sound
