"""Runtime of an exported converter without torch: it needs numpy, soundfile, soxr and onnxruntime only.

    python -m w2w.export --format onnx --chunk-ms 20 --voice her.wav --out live.onnx
    python -m w2w.exported.runtime live.onnx me.wav as_her.wav --pitch -2

The first command needs this package and torch, the second one neither: this file may be copied. From Python:

    exported = Exported("live.onnx")
    converted = exported.convert(wave, sample_rate)  # (samples,), float32
    live = exported.stream()
    pieces = [*map(live.push, chunks), live.flush()]  # as long as the chunks, at exported.sample_rate
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import soxr

State = dict[str, np.ndarray]


class Exported:
    """One exported step, which several streams may share.

    ``voice``, from `Converter.embed`, shaped (1, dim), replaces the one in the file. Raises ``ValueError``
    for a file that is no exported step, or that needs a voice and gets none.
    """

    def __init__(self, model: str | Path, *, voice: np.ndarray | None = None, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # one chunk is too little work for several threads
        options.log_severity_level = 3  # silences warnings about inputs with defaults, which are intended
        try:
            cpu = ["CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(str(model), options, providers=cpu)
        except Exception as error:  # onnxruntime's errors have no other common base
            reason = str(error).splitlines()[0]
            message = f"{model} is no exported step ({reason}): make it by python -m w2w.export"
            raise ValueError(message) from None
        metadata = self.session.get_modelmeta().custom_metadata_map
        if "chunk_samples" not in metadata:
            raise ValueError(f"{model} is another kind of model: make it by python -m w2w.export")
        self.sample_rate, self.chunk_samples = int(metadata["sample_rate"]), int(metadata["chunk_samples"])
        self.look_ahead, self.latency_ms = int(metadata["look_ahead"]), float(metadata["latency_ms"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.voice: State = {} if voice is None else {"voice": np.asarray(voice, np.float32)}
        if "voice" in {node.name for node in self.session.get_inputs()} and not self.voice:
            raise ValueError(f"{model} holds no voice: give one by voice=, or export it with --voice")

    def step(self, chunk: np.ndarray, state: State, semitones: float = 0.0) -> tuple[np.ndarray, State]:
        """Convert ``chunk_samples`` samples, late by ``look_ahead``; ``{}`` is the state before the first."""
        feeds = {"chunk": chunk[None, None], "semitones": np.array([semitones]), **self.voice, **state}
        converted: dict[str, Any] = dict(zip(self.names, self.session.run(self.names, feeds)))
        wave = converted.pop("wave")[0, 0]
        return wave, {name.replace("next_", "state_", 1): value for name, value in converted.items()}

    def stream(self, semitones: float = 0.0) -> "Live":
        """Start a conversion in chunks, at ``sample_rate``."""
        return Live(self, semitones)

    def convert(self, wave: np.ndarray, sample_rate: int, semitones: float = 0.0) -> np.ndarray:
        """Convert a whole recording, shaped (samples,); the result is as long, at the same rate."""
        live = self.stream(semitones)
        resampled = soxr.resample(wave.astype(np.float32), sample_rate, self.sample_rate)
        converted = soxr.resample(
            np.concatenate([live.push(resampled), live.flush()]), self.sample_rate, sample_rate
        )
        return np.pad(converted, (0, max(0, len(wave) - len(converted))))[: len(wave)]


class Live:
    """One live conversion; it returns as many samples as were pushed, with a delay."""

    def __init__(self, exported: Exported, semitones: float) -> None:
        self.exported, self.semitones = exported, semitones
        self.state: State = {}
        self.waiting, self.last = np.zeros(0, np.float32), 0.0
        self.to_drop, self.owed = exported.look_ahead, 0

    def push(self, chunk: np.ndarray) -> np.ndarray:
        """Take any number of samples, shaped (samples,); return those that are ready."""
        self.owed += len(chunk)
        self.last = chunk[-1] if len(chunk) else self.last
        return self._run(chunk)

    def flush(self) -> np.ndarray:
        """End the stream; return the remaining samples."""
        owed = self.owed
        # The last sample is repeated: an offset that ended abruptly would click.
        padding = np.full(self.exported.look_ahead + self.exported.chunk_samples, self.last, np.float32)
        return self._run(padding)[:owed]

    def _run(self, chunk: np.ndarray) -> np.ndarray:
        waves, size = [np.zeros(0, np.float32)], self.exported.chunk_samples
        self.waiting = np.concatenate([self.waiting, chunk.astype(np.float32)])
        while len(self.waiting) >= size:
            wave, self.state = self.exported.step(self.waiting[:size], self.state, self.semitones)
            self.waiting = self.waiting[size:]
            waves.append(wave[self.to_drop :])
            self.to_drop = max(0, self.to_drop - size)
        ready = np.concatenate(waves)
        self.owed -= len(ready)
        return ready


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m w2w.exported.runtime", description=__doc__)
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    for name in ("model", "source", "out"):
        arguments.add_argument(name)
    arguments.add_argument("--pitch", type=float, default=0.0, metavar="SEMITONES", help="pitch shift")
    args = arguments.parse_args()
    try:
        exported = Exported(args.model)
        wave, rate = soundfile.read(args.source, dtype="float32", always_2d=True)
        soundfile.write(args.out, exported.convert(wave.mean(axis=1), rate, args.pitch), rate)
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # soundfile names the file
        sys.exit(f"error: {error}")
    steps = f"in chunks of {exported.chunk_samples} samples, late by {exported.latency_ms:g} ms"
    print(f"{args.out}: {len(wave) / rate:.2f} s {steps}")


if __name__ == "__main__":
    main()
