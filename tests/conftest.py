"""Shapes are checked in every package while tests run, and what tests share."""

import os
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
install_import_hook(
    ["engine", "data", "pretrain", "vocoders", "w2w", "eval", "benchmarks"], "beartype.beartype"
)

import torch  # noqa: E402 - after the hook, so that nothing of ours is imported before it


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def speech_pack() -> Path:
    """The folder of real recordings, where there is one (environment variable SPEECH_PACK)."""
    folder = Path(os.environ.get("SPEECH_PACK", ROOT.parent / "shared/data/speech"))
    if not folder.is_dir():
        pytest.skip("no speech recordings: set SPEECH_PACK to their folder")
    return folder


@pytest.fixture(scope="session")
def moonshine() -> Path:
    """The folder of Moonshine tiny's encoder, where there is one (environment variable MOONSHINE)."""
    folder = Path(os.environ.get("MOONSHINE", ROOT.parent / "shared/models/moonshine-tiny-encoder"))
    if not folder.is_dir():
        pytest.skip("no Moonshine encoder: set MOONSHINE to its folder")
    return folder
