"""Shape checks for every package while tests run, and shared fixtures."""

import gc
import math
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from signal import SIG_DFL, SIGHUP, SIGINT, SIGTERM, default_int_handler, signal
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from shapes import check_shapes, new_test

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
check_shapes()
gc.disable()  # until everything is imported
# No limits on wall-clock time, which a busy machine exceeds.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

os.environ["TIMBRE_ENGINE"] = "eager"  # exporting graphs takes seconds, and few tests need them
os.environ["TIMBRE_FIT_STEPS"] = "0"  # nor fitted voices

import torch  # noqa: E402 - after the hook, so that nothing of ours is imported before it
from torch import Tensor  # noqa: E402


def pytest_collection_finish() -> None:
    """Exclude objects created by imports from garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed every test, and check the shapes of its first calls."""
    new_test()
    torch.manual_seed(0)


@pytest.fixture
def signals_of_a_terminal() -> Iterator[None]:
    """Default signal handlers, here and in child processes: nohup and ``&`` ignore some signals."""
    usual = {SIGINT: default_int_handler, SIGTERM: SIG_DFL, SIGHUP: SIG_DFL}
    before = {number: signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal(number, handler)


@pytest.fixture(scope="session")
def speech_pack() -> Path:
    """The folder of real recordings (environment variable SPEECH_PACK)."""
    folder = Path(os.environ.get("SPEECH_PACK", ROOT.parent / "shared/data/speech"))
    if not folder.is_dir():
        pytest.skip("no speech recordings: set SPEECH_PACK to their folder")
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Build a tiny converter's config.

    ``earlier`` has absolute levels, no refiner and no pitch predictor; ``offline`` a pretrained trunk;
    ``ahead`` content codes with a look-ahead of three frames, ``f0_ahead`` F0 with one as well.
    """
    from pretrain.causal.encoder import CausalEncoderConfig
    from pretrain.pitch.network import PitchNetworkConfig
    from w2w.networks.config import ConverterConfig
    from w2w.networks.decoder import DecoderConfig
    from w2w.networks.refiner import RefinerConfig
    from w2w.networks.style import StyleConfig

    def config(
        kind: Literal["today", "earlier", "offline", "ahead", "f0_ahead"] = "today", **changes
    ) -> ConverterConfig:
        start = ConverterConfig(
            content=CausalEncoderConfig(n_channels=16, n_blocks=2, dim=6, n_mels=20),
            style=StyleConfig(n_channels=12, n_blocks=1, n_tokens=3, token_dim=4),
            decoder=DecoderConfig(n_channels=32, n_blocks=2, refiner=RefinerConfig(n_channels=8, n_blocks=1)),
        )
        if kind == "earlier":
            content = replace(start.content, relative_level=False, dilations=(1, 2, 4))
            decoder = replace(start.decoder, refiner=None)
            start = replace(start, content=content, decoder=decoder, pitch_predictor=False)
        if kind == "offline":
            from tiny_encoders import TRUNK  # it loads transformers

            start = replace(start, trunk=TRUNK)
        if kind in ("ahead", "f0_ahead"):
            start = replace(start, content_ahead_ms=30.0)
        if kind == "f0_ahead":
            rate = changes.get("sample_rate", start.sample_rate)
            pitch = PitchNetworkConfig(sample_rate=rate, look_ahead_ms=38.0, n_channels=8, n_blocks=1)
            changes = {"pitch": pitch} | changes
        return replace(start, **changes)

    return config


@pytest.fixture(scope="session")
def buzz() -> Callable[..., Tensor]:
    """Make a harmonic sound with a slow vibrato and a little noise: one row for each F0 in Hz."""

    def sound(samples: int, f0=(120.0, 210.0), rate: int = 16_000, noise: float = 0.003) -> Tensor:
        time = torch.arange(samples).double() / rate
        rows = []
        for base in f0:
            swing = base * (1 + 0.03 * torch.sin(2 * math.pi * 5 * time))
            phase = 2 * math.pi * (swing / rate).cumsum(0)
            rows.append(sum(0.1 / k * torch.sin(k * phase + k) for k in range(1, 12)))
        wave = torch.stack(rows)[:, None].float()
        return wave + noise * torch.randn(wave.shape)

    return sound


@pytest.fixture(scope="session")
def together() -> Callable[[int, Callable[[int], object]], list[int]]:
    """Run a function of the rank in forked processes that form one gloo group; return their exit codes."""

    def run(count: int, function: Callable[[int], object]) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [_fork(rank, count, port, function) for rank in range(count)]
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    return run


def _fork(rank: int, count: int, port: int, function: Callable[[int], object]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)  # OpenMP does not survive a fork
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {k: str(v) for k, v in place.items()} | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        function(rank)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
