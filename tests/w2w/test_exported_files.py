"""Exported files run without this package, ONNX also without torch; the graph cache."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.testing import assert_close

from data.audio import load, save
from engine.checkpoint import export
from w2w.converter import Converter
from w2w.export import main
from w2w.exported.engine import open_engine
from w2w.exported.runtime import Exported

ROOT = Path(__file__).resolve().parents[2]
NO_TORCH = "import sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; import runpy; "


@pytest.fixture
def folder(built, tmp_path) -> Path:
    """An exported tiny converter."""
    return export(tmp_path / "export", built().config, built())


pytestmark = pytest.mark.usefixtures("graphs_made_once")


def test_file_is_converted_and_streamed_without_torch(folder, tmp_path, buzz):
    source, reference, out = tmp_path / "me.wav", tmp_path / "her.wav", tmp_path / "out.wav"
    save(source, buzz(16_133)[:1], 16_000)
    save(reference, buzz(16_000)[1:], 16_000)
    graph = tmp_path / "live.onnx"
    main([str(folder), "--format", "onnx", "--voice", str(reference), "--out", str(graph)])
    alone = tmp_path / "elsewhere/runtime.py"  # a copy, where there is nothing else of this package
    alone.parent.mkdir()
    shutil.copyfile(ROOT / "w2w/exported/runtime.py", alone)
    run = NO_TORCH + f"runpy.run_path({str(alone)!r}, run_name='__main__')"
    command = [sys.executable, "-c", run, "runtime.py", graph, source, out]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    converter = Converter.from_pretrained(folder)
    whole = converter.convert(load(source, 16_000), converter.embed(load(reference, 16_000)))
    assert_close(load(out, 16_000), whole, rtol=0, atol=1e-4)  # 16 bits

    exported, heard = Exported(graph), load(source, 16_000)[0, 0].numpy()
    live, cuts = exported.stream(), [0, 7, 333, 334, 9_000, len(heard)]
    pieces = [live.push(heard[a:b]) for a, b in pairwise(cuts)]
    streamed = np.concatenate([*pieces, live.flush()])
    assert_close(torch.from_numpy(streamed)[None, None], whole, rtol=0, atol=1e-4)
    assert len(exported.convert(heard[:5_001], 44_100)) == 5_001
    with pytest.raises(ValueError, match="no exported step"):
        Exported(source)


def test_file_metadata_is_complete(folder, tmp_path):
    graph = tmp_path / "live.onnx"
    main([str(folder), "--format", "onnx", "--chunk-ms", "20", "--out", str(graph)])
    session = onnxruntime.InferenceSession(graph)
    told = session.get_modelmeta().custom_metadata_map
    assert (told["sample_rate"], told["chunk_samples"], told["latency_ms"]) == ("16000", "320", "28")
    assert float(told["difference"]) <= 1e-4
    assert "consent" in told["consent"]
    assert "state_NAME" in told["how_to"]
    states = json.loads(told["state"])
    inputs = {node.name: node for node in session.get_overridable_initializers()}
    for name, wanted in states.items():
        assert inputs[f"state_{name}"].shape == wanted["shape"]
    # Without a voice in the file one must be fed; what is left out begins as it should.
    assert {node.name for node in session.get_inputs()} == {"chunk", "voice"}
    feeds = {"chunk": np.zeros((1, 1, 320), np.float32), "voice": np.zeros((1, 13), np.float32)}
    assert session.run(["wave"], feeds)[0].shape == (1, 1, 320)


def test_torch_program_runs_without_this_package(folder, tmp_path, buzz):
    reference, program = tmp_path / "her.wav", tmp_path / "live.pt2"
    save(reference, buzz(16_000)[1:], 16_000)
    main([str(folder), "--format", "torch", "--voice", str(reference), "--out", str(program)])
    told = {"step.json": ""}
    loaded = torch.export.load(program, extra_files=told)
    assert json.loads(told["step.json"])["chunk_samples"] == "320"
    (chunk, voice, semitones, *state), _ = loaded.example_inputs
    converter = Converter.from_pretrained(folder)
    assert_close(voice, converter.embed(load(reference, 16_000)))
    run, network = loaded.module(), converter.network
    plain_state = network.begin(1)
    for chunk in buzz(3_200)[:1].split(320, dim=-1):
        made, *state = run(chunk, voice, semitones, *state)
        plain, plain_state = network.step(chunk, voice, plain_state)
        # Rounding differs between processors: 1.1e-5 on an Intel Xeon, below 1e-5 on an AMD EPYC.
        assert_close(made, plain, rtol=0, atol=5e-5)


def test_graph_is_cached_and_a_damaged_one_exported_again(built, tmp_path, monkeypatch):
    network = built()
    monkeypatch.setenv("TIMBRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("w2w.exported.engine._sessions", {})
    open_engine(network, "onnx", (2,))
    (kept,) = (tmp_path / "cache").glob("*.onnx")
    written = kept.stat().st_mtime_ns
    monkeypatch.setattr("w2w.exported.engine._sessions", {})
    open_engine(network, "onnx", (2,))
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"half")
    monkeypatch.setattr("w2w.exported.engine._sessions", {})
    open_engine(network, "onnx", (2,))
    assert kept.stat().st_size > 1000


def test_unwritable_cache_is_no_error(built, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIMBRE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("w2w.exported.engine._sessions", {})
    assert open_engine(built(), "onnx", (2,)).begin(1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx"], "--out must name the file"),
        (["--format", "onnx", "--out", "live.pt2"], "ends in .onnx"),
        (["--format", "onnx", "--out", "l.onnx", "--chunk-ms", "13"], "--chunk-ms 13 must be a multiple"),
        (["--format", "onnx", "--out", "l.onnx", "--spread", "1.2"], "--spread is for --format weights"),
        (["--format", "onnx", "--out", "l.onnx", "--half"], "--half is for --format weights"),
        (["--chunk-ms", "20"], "--chunk-ms is for a live step"),
    ],
)
def test_mistakes_are_told_in_one_sentence(folder, words, said, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(folder), *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
