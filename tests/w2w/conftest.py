"""Shared by tests of the converter: an export, graphs (which take seconds), recordings, refused commands."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from data.audio import save
from engine.checkpoint import export, load_weights
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
    """Build tiny networks once each, with weights far from their initial values."""

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
    """A folder of exported graphs, shared by all tests and processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"


@pytest.fixture
def graphs_made_once(graphs, monkeypatch) -> None:
    """Export each network's step only once, and compare it with the network over a part of a second only."""
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


@pytest.fixture
def refusal(capsys):
    """Run a command that must be refused, and return its message: one sentence, the last line of stderr.

    Unless ``alone`` is False, nothing else may be printed.
    """

    def refused(command: Callable[[list[str]], object], line: str, *, alone: bool = True) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command(line.split())
        printed = capsys.readouterr()
        *before, last = printed.err.strip().splitlines()
        assert end.value.code == 2
        assert last.startswith("error: ")
        assert "Traceback" not in printed.err
        assert not alone or not (before or printed.out)
        return last

    return refused


@pytest.fixture
def here(tmp_path, monkeypatch, buzz, model):
    """The working folder: a source, two references, and a tiny converter as the released one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("w2w.weights.RELEASED", model)
    save("me.wav", buzz(12_345, f0=(120.0,)), 16_000)
    save("her.wav", buzz(9_000, f0=(200.0,)), 16_000)
    save("voices/his.flac", buzz(9_000, f0=(100.0,)), 16_000)
    return tmp_path


@pytest.fixture
def files_under() -> Callable[[Path], set[str]]:
    """Names of all files in a folder, relative to it."""
    return lambda folder: {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def corpus(tmp_path, buzz) -> Path:
    """The manifest of three speakers with two recordings each; the speakers' sentences are the same."""
    lines = ["path,speaker,parallel"]
    for number, f0 in enumerate((100.0, 150.0, 220.0)):
        for take in range(2):
            save(tmp_path / f"speaker{number}_{take}.wav", buzz(12_000, (f0 + 5 * take,)), 16_000)
            lines.append(f"speaker{number}_{take}.wav,speaker{number},sentence{take}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "manifest.csv"


@pytest.fixture(scope="session")
def assert_same_checkpoints() -> Callable[..., None]:
    """Assert that two checkpoints are bit-equal, with optimisers, and have at least the named networks."""

    def compare(ours: Path, theirs: Path, *names: str) -> None:
        files = sorted(path.name for path in ours.glob("*.safetensors"))
        assert {f"{name}.safetensors" for name in names} <= set(files)
        assert files == sorted(path.name for path in theirs.glob("*.safetensors"))
        for name in files:
            assert_close(load_weights(ours / name), load_weights(theirs / name), rtol=0, atol=0)
        optimizers = (torch.load(f / "optimizers.pt", weights_only=True) for f in (ours, theirs))
        assert_close(*optimizers, rtol=0, atol=0)

    return compare
