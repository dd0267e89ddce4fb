"""Fixtures of the tests of pretraining: a tiny CLIP."""

from pathlib import Path

import pytest
from tiny_towers import write_towers

from pretrain.clip.towers import Towers, TowersConfig, open_towers


@pytest.fixture(scope="session")
def towers_folder(tmp_path_factory) -> Path:
    """Return the folder of a tiny CLIP with random weights."""
    return write_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="session")
def towers(towers_folder) -> Towers:
    """Return its towers; no test changes them."""
    return open_towers(TowersConfig(name=str(towers_folder)))
