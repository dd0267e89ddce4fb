"""The toy run, to be imported and to be run as a program, and processes that train together."""

import importlib.util
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(scope="session")
def toy_path() -> Path:
    return Path(__file__).with_name("toy_run.py")


@pytest.fixture(scope="session")
def toy(toy_path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_run", toy_path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_run"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
