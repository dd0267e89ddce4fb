"""Randomness addressed by step: the same address gives the same numbers in any process, at any time."""

import random

import numpy as np
import torch


def step_seed(seed: int, step: int, *more: int) -> int:
    """Return the 63-bit seed of an address; near addresses give unrelated seeds."""
    # The count goes in too: numpy pads short addresses with zeros, so (1,) and (1, 0) would collide.
    address = np.random.SeedSequence([len(more), seed, step, *more])
    return int(address.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_step(seed: int, step: int, rank: int = 0, micro: int = 0) -> None:
    """Set every global random generator to the address of one micro-batch of one process."""
    here = step_seed(seed, step, rank, micro)
    random.seed(here)
    np.random.seed(here % 2**32)  # noqa: NPY002 - third-party code still draws from the global generator
    torch.manual_seed(here)
