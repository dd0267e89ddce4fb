"""A live conversion with its knobs: voices, pitch, bypass. Sound cards and files run the same one."""

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
from w2w.convert import MOST_SEMITONES
from w2w.converter import Converter
from w2w.live.recorder import Recorder

FLOOR_DB = -99.0
"""dBFS shown for silence."""


class Meter:
    """The peak level since one last looked."""

    def __init__(self) -> None:
        self.peak = 0.0

    def measure(self, wave: Float[Tensor, "1 1 samples"]) -> None:
        """Take note of a piece."""
        if wave.shape[-1]:
            self.peak = max(self.peak, float(wave.abs().amax()))

    def look(self) -> float:
        """The peak in dBFS since the last look."""
        peak, self.peak = self.peak, 0.0
        return max(float(20 * torch.log10(torch.tensor(peak))), FLOOR_DB) if peak > 0 else FLOOR_DB


class Load:
    """Computing time as a share of the time that the sound lasts."""

    def __init__(self, chunk_s: float) -> None:
        self.chunk_s = chunk_s
        self.recent: deque[float] = deque(maxlen=max(round(1 / chunk_s), 1))
        """Shares of the last second's chunks."""
        self.worst = self.total_s = 0.0
        self.chunks = 0

    def note(self, seconds: float) -> None:
        """Take note of a chunk's computing time."""
        share = seconds / self.chunk_s
        self.recent.append(share)
        self.worst = max(self.worst, share)
        self.total_s += seconds
        self.chunks += 1

    @property
    def total(self) -> float:
        """Since the beginning."""
        return self.total_s / (self.chunk_s * self.chunks) if self.chunks else 0.0

    @property
    def mean(self) -> float:
        """Over the last second."""
        recent = list(self.recent)
        return sum(recent) / len(recent) if recent else 0.0


Chunk = Float[Tensor, "1 1 samples"]
Ready = Float[Tensor, "1 1 ready"]
Voice = Float[Tensor, "1 dim"]

RAMP_MS = 100.0
"""Time in which voice and pitch go over into new ones."""
FADE_MS = 20.0
"""Time in which the bypass fades in or out."""
LOUDEST = 100.0
"""Beyond this, 40 dB above full scale, a sample is a driver's uninitialized memory."""
SWITCH_S = 0.001
"""Seconds a thread may keep the others from running: the usual 5 ms are half a small chunk."""


class Session:
    """Converts chunk by chunk, with one of several voices, or lets the own voice through.

    ``push`` and ``flush`` belong to one thread; ``choose_voice``, ``move_pitch`` and ``switch_bypass`` may be
    called from any other and hold from the next chunk on. The pieces together are as long as what was
    pushed. In bypass the conversion goes on unheard, and the own voice is as late as the converted one.
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
        """The source's samples whose conversions are not out yet."""
        self.source_gain = float(bypass)
        self.wishes: SimpleQueue[tuple[Voice | None, float | None]] = SimpleQueue()
        self.input_meter, self.output_meter = Meter(), Meter()
        self.load = Load(self.chunk_samples / self.rate)
        self.broken = 0
        """Samples that were no sound (NaN, infinite, or beyond ``LOUDEST``), and were taken for silence."""

    @property
    def latency_ms(self) -> float:
        """Milliseconds by which sound is late, computing and devices left out."""
        return self.stream.latency_ms

    @property
    def rest_samples(self) -> int:
        """By how many samples what is ready after a chunk may fall short of it: a hop's rest."""
        return self.stream.latency_samples - self.stream.lag - self.chunk_samples

    def choose_voice(self, number: int) -> bool:
        """Move to a voice, counted from 0; False where there is none of that number."""
        if not 0 <= number < len(self.voices):
            return False
        self.voice_number = number
        self.wishes.put((self.voices[number], None))
        return True

    def move_pitch(self, semitones: float) -> bool:
        """Move up or down by some semitones; False where that goes too far or the converter cannot."""
        wanted = self.semitones + semitones
        if not self.moves_pitch or abs(wanted) > MOST_SEMITONES:
            return False
        self.semitones = wanted
        self.wishes.put((None, wanted))
        return True

    def switch_bypass(self) -> None:
        """Fade between the converted and the own voice."""
        self.bypass = not self.bypass

    def warm_up(self) -> None:
        """Let what is made once be made before sound flows; nothing of it is heard."""
        state, marks = self.stream.begin(), self.marks
        for _ in range(10):
            # Far below what can be heard, yet no silence: exact zeros would take short cuts.
            chunk = 1e-4 * torch.randn(1, 1, self.chunk_samples)
            ready, state = self.stream.step(chunk, state)
            if self.marker is not None:
                _, marks = self.marker.step(ready, marks)

    @torch.inference_mode()
    def push(self, chunk: Chunk) -> Ready:
        """Take the next samples; return what is ready to be heard, perhaps nothing."""
        began = time.perf_counter()
        self._grant()
        sound = chunk.abs() <= LOUDEST  # NaN is not
        if not bool(sound.all()):
            # A driver's fault must not end the conversion, stay in its memory, nor shift what comes after.
            self.broken += int((~sound).sum())
            chunk = torch.where(sound, chunk, 0.0)
        self.input_meter.measure(chunk)
        ready = self._finished(self.stream.push(chunk), chunk)
        self.load.note(time.perf_counter() - began)
        return ready

    @torch.inference_mode()
    def flush(self) -> Ready:
        """End the source; return the rest."""
        return self._finished(self.stream.flush(), self.source[..., :0])

    def _grant(self) -> None:
        while True:
            try:
                voice, semitones = self.wishes.get_nowait()
            except Empty:
                return
            self.stream.change(voice=voice, semitones=semitones, over_ms=RAMP_MS)

    def _finished(self, converted: Tensor, chunk: Tensor) -> Tensor:
        """What is heard of it: marked, faded with the own voice, metered and recorded."""
        if self.marker is not None:
            converted, self.marks = self.marker.step(converted, self.marks)
        waiting = torch.cat([self.source, chunk], dim=-1)
        count = converted.shape[-1]
        ready = self._faded(converted, waiting[..., :count])
        # Copied: as a part of the whole it would keep the whole in memory.
        self.source = waiting[..., count:].clone()
        self.output_meter.measure(ready)
        if self.recorder is not None:
            self.recorder.write(ready)
        return ready

    def _faded(self, converted: Tensor, source: Tensor) -> Tensor:
        """The converted voice, the own one, or what lies between while the bypass fades."""
        wanted, count = float(self.bypass), source.shape[-1]
        if self.source_gain == wanted or not count:
            return source if self.source_gain == 1.0 else converted
        step = 1000.0 / (FADE_MS * self.rate) * (1 if wanted else -1)
        gain = (self.source_gain + step * torch.arange(1, count + 1)).clamp(0.0, 1.0)
        self.source_gain = float(gain[-1])
        return gain * source + (1 - gain) * converted


@contextmanager
def undisturbed() -> Iterator[None]:
    """Have Python pause a conversion as little as it can: threads change often, old objects are let be."""
    interval = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
