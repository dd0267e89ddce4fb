"""The toy run as a module and as a path."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


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
