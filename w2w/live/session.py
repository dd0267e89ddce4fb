"""A live conversion session with controls for voice, pitch and bypass, for audio devices and files."""

import gc
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from w2w.converter import Converter, Voice
from w2w.live.recorder import Recorder
from w2w.networks.wave_network import MOST_SEMITONES

FLOOR_DB = -99.0
"""dBFS shown for silence."""


class Meter:
    def __init__(self) -> None:
        self.peak = 0.0

    def measure(self, wave: Float[Tensor, "1 1 samples"]) -> None:
        if wave.shape[-1]:
            self.peak = max(self.peak, float(wave.abs().amax()))

    def pop_peak_db(self) -> float:
        """Return the peak in dBFS since the last call, and reset it."""
        peak, self.peak = self.peak, 0.0
        return max(float(20 * torch.log10(torch.tensor(peak))), FLOOR_DB) if peak > 0 else FLOOR_DB


class Load:
    """Computing time as a fraction of audio time (the real-time factor)."""

    def __init__(self, chunk_s: float) -> None:
        self.chunk_s = chunk_s
        self.recent: deque[float] = deque(maxlen=max(round(1 / chunk_s), 1))
        """Loads of the chunks of the last second."""
        self.worst = self.total_s = 0.0
        self.chunks = 0

    def add(self, seconds: float) -> None:
        load = seconds / self.chunk_s
        self.recent.append(load)
        self.worst = max(self.worst, load)
        self.total_s += seconds
        self.chunks += 1

    @property
    def total(self) -> float:
        """Mean load since the start."""
        return self.total_s / (self.chunk_s * self.chunks) if self.chunks else 0.0

    @property
    def mean(self) -> float:
        """Mean load over the last second."""
        recent = list(self.recent)
        return sum(recent) / len(recent) if recent else 0.0


Chunk = Float[Tensor, "1 1 samples"]
Ready = Float[Tensor, "1 1 ready"]

RAMP_MS = 100.0
"""Duration of a transition between voices or pitches."""
FADE_MS = 20.0
"""Duration of the cross-fade into or out of bypass."""
LOUDEST = 100.0
"""Largest valid sample, 40 dB above full scale; larger ones come from uninitialised driver memory."""
SWITCH_S = 0.001
"""Python's thread switch interval in seconds; the default of 5 ms is half a small chunk."""


class Session:
    """Converts chunk by chunk to one of several voices; in bypass it passes the source through.

    ``push`` and ``flush`` must be called from one thread; ``choose_voice``, ``move_pitch`` and
    ``switch_bypass`` may be called from any thread and take effect with the next chunk. The concatenated
    output is as long as the input. In bypass the conversion continues, unused, and the source is
    delayed by the same latency as converted audio.
    """

    def __init__(
        self,
        converter: Converter,
        voices: Sequence[Voice],
        *,
        chunk_ms: float = 20.0,
        rate: int | None = None,
        semitones: float = 0.0,
        bypass: bool = False,
        engine: Any = None,
        marker: Any = None,
        recorder: Recorder | None = None,
    ) -> None:
        if not voices:
            raise UserError("a live session needs at least one voice")
        self.rate = converter.sample_rate if rate is None else rate
        self.chunk_samples = round(chunk_ms * self.rate / 1000)
        self.voices, self.semitones = list(voices), semitones
        self.voice_number = 0
        self.bypass = bypass
        self.moves_pitch = bool(converter.network.moves_pitch)
        self.stream = converter.stream(
            voices[0], self.chunk_samples, semitones=semitones, sample_rate=self.rate, engine=engine
        )
        self.marker = marker
        self.marks = marker.begin(1) if marker is not None else None
        self.recorder = recorder
        self.source = torch.zeros(1, 1, 0)
        """Source samples for which no output has been returned yet."""
        self.source_gain = float(bypass)
        self.changes: SimpleQueue[tuple[Voice | None, float | None]] = SimpleQueue()
        self.input_meter, self.output_meter = Meter(), Meter()
        self.load = Load(self.chunk_samples / self.rate)
        self.n_invalid = 0
        """Number of invalid samples (NaN, infinite, or beyond ``LOUDEST``); they are replaced by silence."""

    @property
    def latency_ms(self) -> float:
        """Algorithmic latency, without computing time and devices."""
        return self.stream.latency_ms

    @property
    def shortfall_samples(self) -> int:
        """Largest number of samples by which an output may be shorter than its chunk: a partial hop."""
        return self.stream.latency_samples - self.stream.lag - self.chunk_samples

    def choose_voice(self, number: int) -> bool:
        """Change to voice ``number``, counted from 0; return False if there is no such voice."""
        if not 0 <= number < len(self.voices):
            return False
        self.voice_number = number
        self.changes.put((self.voices[number], None))
        return True

    def move_pitch(self, semitones: float) -> bool:
        """Shift the pitch further by ``semitones``; return False if out of range or not supported."""
        wanted = self.semitones + semitones
        if not self.moves_pitch or abs(wanted) > MOST_SEMITONES:
            return False
        self.semitones = wanted
        self.changes.put((None, wanted))
        return True

    def switch_bypass(self) -> None:
        """Toggle between the converted voice and the source, with a cross-fade."""
        self.bypass = not self.bypass

    def warm_up(self) -> None:
        """Run ten chunks for lazy initialisation; the session's state does not change."""
        state, marks = self.stream.begin(), self.marks
        for _ in range(10):
            # Inaudible noise, not silence: exact zeros would take shortcuts.
            chunk = 1e-4 * torch.randn(1, 1, self.chunk_samples)
            ready, state = self.stream.step(chunk, state)
            if self.marker is not None:
                _, marks = self.marker.step(ready, marks)

    @torch.inference_mode()
    def push(self, chunk: Chunk) -> Ready:
        """Push the next chunk; return the output that is ready, which may be empty."""
        began = time.perf_counter()
        self._apply_changes()
        valid = chunk.abs() <= LOUDEST  # False for NaN
        if not bool(valid.all()):
            # A driver's fault must not stop the conversion, stay in its state, or shift later samples.
            self.n_invalid += int((~valid).sum())
            chunk = torch.where(valid, chunk, 0.0)
        self.input_meter.measure(chunk)
        ready = self._finished(self.stream.push(chunk), chunk)
        self.load.add(time.perf_counter() - began)
        return ready

    @torch.inference_mode()
    def flush(self) -> Ready:
        """End the source; return the remaining output."""
        return self._finished(self.stream.flush(), self.source[..., :0])

    def _apply_changes(self) -> None:
        while True:
            try:
                voice, semitones = self.changes.get_nowait()
            except Empty:
                return
            self.stream.change(voice=voice, semitones=semitones, over_ms=RAMP_MS)

    def _finished(self, converted: Tensor, chunk: Tensor) -> Tensor:
        """Watermark the output, cross-fade it with the source, meter and record it."""
        if self.marker is not None:
            converted, self.marks = self.marker.step(converted, self.marks)
        waiting = torch.cat([self.source, chunk], dim=-1)
        count = converted.shape[-1]
        ready = self._faded(converted, waiting[..., :count])
        # Cloned: a view would keep the whole tensor in memory.
        self.source = waiting[..., count:].clone()
        self.output_meter.measure(ready)
        if self.recorder is not None:
            self.recorder.write(ready)
        return ready

    def _faded(self, converted: Tensor, source: Tensor) -> Tensor:
        """The converted voice, the source, or a mixture of both during a bypass fade."""
        wanted, count = float(self.bypass), source.shape[-1]
        if self.source_gain == wanted or not count:
            return source if self.source_gain == 1.0 else converted
        step = 1000.0 / (FADE_MS * self.rate) * (1 if wanted else -1)
        gain = (self.source_gain + step * torch.arange(1, count + 1)).clamp(0.0, 1.0)
        self.source_gain = float(gain[-1])
        return gain * source + (1 - gain) * converted


@contextmanager
def undisturbed() -> Iterator[None]:
    """Reduce Python's pauses: shorter thread switch interval, existing objects frozen for the collector."""
    interval = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
