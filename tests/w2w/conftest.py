"""What tests of the converter share: an export, and graphs, which take seconds to make."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.checkpoint import export
from engine.files import atomic
from w2w.exported.engine import network_key
from w2w.exported.step import Step, onnx_model
from w2w.networks.network import ConverterNetwork


@pytest.fixture(scope="session")
def model(tmp_path_factory, tiny) -> Path:
    """The folder of a tiny converter's export."""
    torch.manual_seed(3)
    config = tiny()
    return export(tmp_path_factory.mktemp("model"), config, ConverterNetwork(config))


@pytest.fixture(scope="session")
def built(tiny):
    """Build tiny networks whose weights are far enough from their start to matter, once each."""

    @cache
    def build(kind: str) -> ConverterNetwork:
        torch.manual_seed(3)
        network = ConverterNetwork(tiny(kind)).eval().requires_grad_(False)
        for parameter in [*network.content.parameters(), *network.decoder.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
        if network.pitch_predictor is not None:
            nn.init.normal_(network.pitch_predictor.distance.weight, std=0.3)
        return network

    return lambda kind="today": build(kind)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory) -> Path:
    """A folder that keeps graphs for all of these tests, whichever process runs them."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"


@pytest.fixture
def graphs_made_once(graphs, monkeypatch) -> None:
    """Wherever the step of a network that was exported before is exported, it is the same graph again.

    It is compared with its network when an engine first opens it, and over a part of a second.
    """
    import onnx

    def once(step: Step, voice: torch.Tensor | None = None) -> onnx.ModelProto:
        file = graphs / f"{network_key(step.network)}-{step.n_hops}.onnx"
        if not file.is_file():
            with atomic(file) as temporary:
                temporary.write_bytes(onnx_model(step, voice).SerializeToString())
        return onnx.load(file)

    for user in ("step", "files"):
        monkeypatch.setattr(f"w2w.exported.{user}.onnx_model", once)
    monkeypatch.setattr("w2w.exported.step.SECONDS", 0.4)
    monkeypatch.setenv("TIMBRE_CACHE", str(graphs / "cache"))
