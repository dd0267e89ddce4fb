"""The sound card's thread, the converting thread, and the queues between them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from data.audio.live_resampling import live_resampler
from engine.user_error import UserError
from w2w.live.devices import DeviceEnd, reason
from w2w.live.jitter_buffer import HELD_S, JitterBuffer, Ring
from w2w.live.session import Session

SILENT_S = 3.0
"""Seconds without a sign of the device after which it counts as gone."""


class Duplex:
    """Records from one device, converts, and plays to another, from ``with`` on until its end.

    The card's callbacks only copy samples; one thread converts. Devices of different rates are two streams;
    the session's rate is the microphone's.
    """

    def __init__(
        self, session: Session, sound: Any, ends: tuple[DeviceEnd, DeviceEnd], buffer_ms: float
    ) -> None:
        self.session, self.sound, self.ends = session, sound, ends
        self.captured = Ring(round(HELD_S * session.rate))
        self.converted = 0
        """Samples that have left the conversion, at the session's rate."""
        rate = ends[1].rate
        depth = buffer_ms / 1000 + session.rest_samples / session.rate
        self.jitter_buffer = JitterBuffer(rate, round(depth * rate))
        self.resampler = None if rate == session.rate else live_resampler(session.rate, rate)
        self.lost = 0
        """Times that samples came too fast to be taken in, or a card lost some itself."""
        self.late = 0
        """Times that a card ran dry itself."""
        self.between_s = 0.0
        """Between a microphone's sample and a loudspeaker's in one block, as one driver tells."""
        self.failure: BaseException | None = None
        self.arrived, self.over = threading.Event(), threading.Event()
        self.last_sign = time.monotonic()
        self.worker = threading.Thread(target=self._convert, name="convert", daemon=True)

    @property
    def underruns(self) -> int:
        """Times that something had to be played and was not there."""
        return self.jitter_buffer.underruns + self.late

    @property
    def overruns(self) -> int:
        """Times that sound was lost because what came before it was not yet dealt with."""
        return self.jitter_buffer.overruns + self.lost

    def __enter__(self) -> "Duplex":
        source, sink = self.ends
        self.streams = []
        try:
            self._open(source, sink)
            self.worker.start()
            self.last_sign = time.monotonic()
            for stream in self.streams:
                stream.start()
        except (ValueError, OSError, self.sound.PortAudioError) as error:
            self.__exit__()
            rates = " and ".join(str(rate) for rate in dict.fromkeys((source.rate, sink.rate)))
            raise UserError(
                f"{source.name} and {sink.name} do not open together at {rates} Hz"
                f" ({reason(error)}): another program may hold them; --list-devices shows others"
            ) from None
        return self

    def _open(self, source: DeviceEnd, sink: DeviceEnd) -> None:
        usual, chunk = {"dtype": "float32", "latency": "low"}, self.session.chunk_samples
        if source.rate == sink.rate:
            ends = {"device": (source.number, sink.number), "channels": (source.channels, sink.channels)}
            both = {"samplerate": source.rate, "blocksize": chunk, "callback": self.exchange}
            self.streams.append(self.sound.Stream(**ends, **both, **usual))
            return
        sides = (
            (self.sound.InputStream, source, chunk, self.capture),
            (self.sound.OutputStream, sink, round(chunk * sink.rate / source.rate), self.play),
        )
        for stream, end, block, callback in sides:
            one = {"device": end.number, "channels": end.channels, "samplerate": end.rate}
            self.streams.append(stream(**one, blocksize=block, callback=callback, **usual))

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.arrived.set()
        for end in [end for stream in self.streams for end in (stream.abort, stream.close)]:
            try:
                end()
            except Exception:  # of a card that was pulled out: all is over anyway
                continue
        if self.worker.ident is not None:
            self.worker.join(timeout=5.0)

    def check(self) -> None:
        """Raise what went wrong in the other threads, or that the device is gone."""
        if isinstance(self.failure, UserError):
            raise self.failure
        if self.failure is not None:
            raise RuntimeError("the live conversion failed") from self.failure
        source, sink = self.ends
        gone = not all(stream.active for stream in self.streams)
        if gone or time.monotonic() - self.last_sign > SILENT_S:
            raise UserError(
                f"no more sound from {source.name} or to {sink.name}: if one was unplugged, plug it in and"
                " start again, or choose another (--list-devices)"
            )

    def exchange(self, indata: np.ndarray, outdata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """One device's block: what was recorded, and what is to be played."""
        outdata.fill(0)
        self.capture(indata, frames, clock, status)
        self.play(outdata, frames, clock, status)
        self.between_s = clock.outputBufferDacTime - clock.inputBufferAdcTime

    def capture(self, indata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """Copy a recorded block into one queue."""
        with self._failing_in_silence():
            self.last_sign = time.monotonic()
            self.lost += bool(status.input_overflow)
            self.lost += self.captured.write(np.ascontiguousarray(indata[:, 0])) < frames
            self.arrived.set()

    def play(self, outdata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """Fill a block to be played from the other."""
        outdata.fill(0)
        with self._failing_in_silence():
            self.late += bool(status.output_underflow)
            block = np.empty(frames, np.float32)
            self.jitter_buffer.read(block)
            outdata[:] = block[:, None]

    @contextmanager
    def _failing_in_silence(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failure = error
            raise self.sound.CallbackAbort from None

    @property
    def latency_ms(self) -> float | None:
        """From the microphone's air to the loudspeaker's; none before it runs."""
        if not self.captured.written:
            return None
        between = self.between_s
        if not 0 < between < 10:  # some drivers do not tell
            between = float(np.sum([stream.latency for stream in self.streams]))
        rate = self.session.rate
        inside = (self.captured.written - self.converted) / rate + self.jitter_buffer.seconds
        if self.resampler is not None:
            inside += float(self.resampler.delay) / rate
        return 1000 * (between + inside)

    def _convert(self) -> None:
        torch.set_num_threads(1)
        size, resampler = self.session.chunk_samples, self.resampler
        state = resampler.begin(1) if resampler else None
        try:
            while not self.over.is_set():
                if self.captured.level < size:
                    self.arrived.wait(0.5)
                    self.arrived.clear()
                    continue
                chunk = np.empty(size, np.float32)
                self.captured.read(chunk)
                output = self.session.push(torch.from_numpy(chunk)[None, None])
                self.converted += output.shape[-1]
                if resampler and state:
                    output, state = resampler.step(output, state)
                self.jitter_buffer.write(output[0, 0].numpy())
            self.session.flush()
        except BaseException as error:
            self.failure = error
