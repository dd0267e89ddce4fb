"""Seeds that are a function of an address (seed, step, rank, micro-batch), so that runs resume exactly."""

import random

import numpy as np
import torch


def step_seed(seed: int, step: int, *more: int) -> int:
    """Hash an address to a 63-bit seed; adjacent addresses give independent seeds."""
    # Includes the length, because numpy pads short addresses with zeros: (1,) and (1, 0) would collide.
    address = np.random.SeedSequence([len(more), seed, step, *more])
    return int(address.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_step(seed: int, step: int, rank: int = 0, micro: int = 0) -> None:
    """Seed all global random generators for one micro-batch of one process."""
    here = step_seed(seed, step, rank, micro)
    random.seed(here)
    np.random.seed(here % 2**32)  # noqa: NPY002 - third-party code still draws from the global generator
    torch.manual_seed(here)
