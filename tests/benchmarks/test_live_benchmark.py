"""The live benchmark: timing of chunks, the peer's process, goals, and the verdict of a soak."""

import gc
import json
import math
import warnings

import pytest
import torch

from benchmarks.live import Contestant, against, compete, main, row, verdict
from benchmarks.live_peer import Peer, Sinusoids
from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoderConfig
from w2w.networks.config import ConverterConfig
from w2w.networks.decoder import DecoderConfig
from w2w.networks.network import ConverterNetwork
from w2w.networks.style import StyleConfig

INFER = """
import time
import torch
from model import Net
from utils import glob_audio_files


def do_infer(model, audio, chunk_factor, sr, stream):
    assert stream and chunk_factor == 1
    print("output of the peer")
    for chunk in audio.split(model.dec_chunk_size * model.L):
        start = time.time()
        model(chunk)
        elapsed = time.time() - start
"""
MODEL = """
from torch import nn
from speechbrain.lobes.models.transformer.Transformer import PositionalEncoding
import cached_convnet


class Net(nn.Module):
    def __init__(self, L, dec_chunk_size):
        super().__init__()
        self.L, self.dec_chunk_size = L, dec_chunk_size
        self.linear, self.places = nn.Linear(2, 3), PositionalEncoding(8, max_len=20)

    def forward(self, x):
        return x
"""


@pytest.fixture
def checkout(tmp_path):
    """A small stand-in for LLVC's checkout."""
    (tmp_path / "experiments/llvc").mkdir(parents=True)
    (tmp_path / "infer.py").write_text(INFER)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "cached_convnet.py").touch()
    config = {"model_params": {"L": 16, "dec_chunk_size": 13}, "data": {"sr": 16_000}}
    (tmp_path / "experiments/llvc/config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = ConverterConfig(
        content=CausalEncoderConfig(n_channels=16, n_blocks=1, dim=6, n_mels=20),
        style=StyleConfig(n_channels=12, n_blocks=1, n_tokens=3, token_dim=4),
        decoder=DecoderConfig(n_channels=32, n_blocks=1, refiner=None),
    )
    return export(tmp_path_factory.mktemp("model"), config, ConverterNetwork(config))


def test_command_measures_each_chunk_length(model, capsys):
    main(f"--checkpoint {model} --engine eager --chunk-ms 13 40 --seconds 1".split())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ours")]
    assert [line.split("|")[2].strip() for line in lines] == ["13 ms", "40 ms"]
    assert [line.split("|")[3].strip() for line in lines] == ["30 ms", "48 ms"]


def test_soak_streams_with_watermark_and_voice_changes(model, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.live.TURNS", 3)
    gc.collect()  # so that garbage of earlier tests does not warn below, where a session collects it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(f"--checkpoint {model} --engine eager --chunk-ms 1000 --soak-minutes 1".split())
    printed = capsys.readouterr().out
    assert "1 minutes at once, eager, chunks of 1000 ms at 16000 Hz, watermarked" in printed
    assert "memory +0.0 MiB from the first minutes to the last (" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seconds 0", "at least 1"),
        ("--soak-minutes 0.5", "at least 1"),
        ("--chunk-ms 0", "between 1 and 1000"),
        ("--chunk-ms nan", "between 1 and 1000"),
        ("--seconds nan", "at least 1"),
    ],
)
def test_invalid_options_are_refused(capsys, options, message):
    with pytest.raises(SystemExit) as end:
        main(options.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_peer_runs_its_own_code_and_times_each_chunk(checkout):
    with Peer(checkout, torch.randn(1, 1, 2_080)) as peer:
        assert peer.name == "LLVC (0.0 M, random weights)"
        assert peer.latency_ms == 15.0
        for _ in range(2):
            took, processor_s = peer.turn()
            assert processor_s > 0
            assert len(took) == 10
            assert all(seconds > 0 for seconds in took)
        process = peer.process
    assert process.poll() is not None


def test_failing_peer_raises_one_sentence(checkout, monkeypatch):
    python = checkout / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2\necho 'ImportError: not of this time' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(UserError, match="its code ended: ImportError: not of this time"):
        Peer(checkout, torch.zeros(1, 1, 2_080)).__enter__()
    (checkout / "infer.py").unlink()
    with pytest.raises(UserError, match=r"not a checkout of LLVC's published code: infer.py is missing"):
        Peer(checkout, torch.zeros(1, 1, 16))


def test_position_encoding_stub_is_sinusoidal():
    places = Sinusoids(6, max_len=10)(torch.zeros(2, 7, 6))
    assert places.shape == (1, 7, 6)
    assert places[0, 5, 2].item() == pytest.approx(math.sin(5 / 10_000 ** (2 / 6)), abs=1e-5)
    assert places[0, 5, 3].item() == pytest.approx(math.cos(5 / 10_000 ** (2 / 6)), abs=1e-5)


def test_contestants_take_equally_many_turns_in_rotating_order(capsys):
    order = []

    def contestant(name, chunk_ms, seconds):
        def turn(wave):
            order.append(name)
            return [seconds] * 4, 2 * seconds

        return Contestant(name=name, chunk_ms=chunk_ms, latency_ms=None, turn=turn)

    ours, theirs = contestant("ours", 13.0, 0.001), contestant("theirs", 13.0, 0.01)
    compete([ours, theirs], torch.zeros(1, 1, 100), 15.0, 100)
    assert order == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert len(ours.took) == len(theirs.took) == 12
    against([ours, theirs])
    assert ours.factor == pytest.approx(1 / 13)
    assert ours.processor_factor == pytest.approx(0.5 / 13)
    assert "ours: 0.100 of the computing time of theirs, chunks of 13 ms" in capsys.readouterr().out


def test_goals_check_factor_and_99th_percentile():
    def judged(took, chunk_ms):
        return row(
            Contestant(name="", chunk_ms=chunk_ms, latency_ms=28.0, turn=lambda _: ([], 0.0), took=took)
        )[-1]

    assert judged([0.0019] * 100, 20.0) == "yes"
    assert judged([0.0021] * 100, 20.0) == "NO"
    assert judged([0.001] * 97 + [0.009] * 3, 20.0) == "NO"
    assert judged([0.001] * 97 + [0.009] * 3, 10.0) == "yes"
    assert judged([1.0], 40.0) == ""


def test_soak_is_flat_only_if_neither_memory_nor_time_grows():
    flat = [500.0 + 0.01 * minute for minute in range(60)]
    assert verdict(flat, 1.05).endswith("fresh session's: flat")
    leaking = [500.0 + minute for minute in range(60)]
    assert verdict(leaking, 1.0).endswith("NOT flat")
    assert verdict(flat, 1.2).endswith("NOT flat")
