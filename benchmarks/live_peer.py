"""LLVC's published streaming code, timed in a separate process, because its imports would clash with ours.

The checkout is unchanged: its ``infer.infer_stream`` runs as it is, with a clock instead of its ``time``. Two
of its imports are replaced by stubs: ``utils``, which only training needs, and the position encoding of
speechbrain, if that is not installed.
"""

import importlib
import json
import math
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.table import one_thread
from data.audio import load, save
from engine.user_error import UserError

CHUNK_MS = 13.0
"""Chunk length of the published model, ms."""
NEEDED = ("infer.py", "model.py", "cached_convnet.py", "experiments/llvc/config.json")
WEIGHTS = "llvc_models/models/checkpoints/llvc/G_500000.pth"
"""Path of the weights within the checkout, as in its own script."""


class Sinusoids(nn.Module):
    """Sinusoidal position encoding that replaces speechbrain's."""

    def __init__(self, input_size: int, max_len: int = 2500) -> None:
        super().__init__()
        place = torch.arange(max_len)[:, None].float()
        rate = torch.exp(torch.arange(0, input_size, 2).float() * (-math.log(10_000.0) / input_size))
        table = torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=-1).flatten(1)
        self.register_buffer("pe", table[None])

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "1 time dim"]:
        return self.get_buffer("pe")[:, : x.shape[1]].clone().detach()


class Peer:
    """The peer's process, which runs within a ``with`` block and processes the wave at every ``turn``."""

    def __init__(self, checkout: Path, wave: Float[Tensor, "1 1 samples"]) -> None:
        if missing := [name for name in NEEDED if not (checkout / name).is_file()]:
            what = "a checkout of LLVC's published code"
            raise UserError(f"--peer {checkout} is not {what}: {missing[0]} is missing")
        self.checkout, self.wave = checkout.resolve(), wave

    def __enter__(self) -> "Peer":
        self.scratch = tempfile.TemporaryDirectory()
        source = Path(self.scratch.name, "source.wav")
        save(source, self.wave, 16_000)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.live_peer", str(self.checkout), str(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=one_thread(),
        )
        about = self._answer()
        self.name, self.latency_ms = about["name"], about["latency_ms"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.scratch.cleanup()

    def turn(self) -> tuple[list[float], float]:
        """Process the wave once; return the seconds of each chunk, and the processor seconds in total."""
        assert self.process.stdin is not None
        self.process.stdin.write("turn\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer["took"], answer["processor_s"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            stderr = self.process.communicate()[1].strip() or "no error message"
            last = stderr.splitlines()[-1]
            raise UserError(f"--peer {self.checkout}: its code ended: {last}")
        return json.loads(line)


def imported(checkout: Path) -> Any:
    sys.path.insert(0, str(checkout))
    sys.modules["utils"] = stand_in("utils", glob_audio_files=None)
    path = "speechbrain.lobes.models.transformer.Transformer"
    try:
        importlib.import_module(path)
    except ImportError:
        for name in accumulate(path.split("."), "{}.{}".format):
            sys.modules[name] = stand_in(name)
        vars(sys.modules[path])["PositionalEncoding"] = Sinusoids
    return importlib.import_module("infer")


def stand_in(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names, __path__=[])
    return module


def opened(checkout: Path, infer: Any) -> tuple[Any, int, str]:
    """The peer's network, its sample rate, and a description of its weights."""
    settings, weights = checkout / "experiments/llvc/config.json", checkout / WEIGHTS
    if weights.is_file():
        model, rate = infer.load_model(str(weights), str(settings))
        return model.eval(), rate, "its weights"
    config = json.loads(settings.read_text())
    torch.manual_seed(0)
    return infer.Net(**config["model_params"]).eval(), config["data"]["sr"], "random weights"


def serve(checkout: Path, source: Path) -> None:
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # keeps the peer's own output apart from the answers
    infer = imported(checkout)
    model, rate, weights = opened(checkout, infer)
    reads: list[float] = []  # of the clock, before and after each chunk

    def clock() -> float:
        reads.append(time.perf_counter())
        return reads[-1]

    infer.time = SimpleNamespace(time=clock)
    wave = load(source, rate)[0, 0]
    latency_ms = 1000.0 * (model.dec_chunk_size + 2) * model.L / rate
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    about = {"name": f"LLVC ({parameters:.1f} M, {weights})", "latency_ms": latency_ms}
    print(json.dumps(about), file=answers, flush=True)
    for _ in sys.stdin:
        reads.clear()
        processor = time.process_time()
        infer.do_infer(model, wave, 1, rate, True)
        processor_s = time.process_time() - processor
        took = [after - before for before, after in zip(reads[::2], reads[1::2])]
        print(json.dumps({"processor_s": processor_s, "took": took}), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
