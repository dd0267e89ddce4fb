"""The sound card's thread, the converting thread, and the queues between them."""

import threading
import time
from typing import Any

import numpy as np
import torch

from engine.user_error import UserError
from w2w.live.devices import Line, reason
from w2w.live.playout import HELD_S, Playout, Ring
from w2w.live.session import Session

SILENT_S = 3.0
"""Seconds without a sign of the device after which it counts as gone."""


class Duplex:
    """Hears by one device, converts, and speaks by another, from ``with`` on until its end.

    The card's callback only copies samples; one thread converts.
    """

    def __init__(self, session: Session, sound: Any, ends: tuple[Line, Line], cushion_ms: float) -> None:
        self.session, self.sound, self.ends = session, sound, ends
        self.heard = Ring(round(HELD_S * session.rate))
        cushion = round(cushion_ms * session.rate / 1000) + session.rest_samples
        self.playout = Playout(session.rate, cushion)
        self.lost = 0
        """Times that samples came too fast to be taken in, or a card lost some itself."""
        self.late = 0
        """Times that a card ran dry itself."""
        self.latency_ms: float | None = None
        """From the microphone's air to the loudspeaker's, measured at the last block."""
        self.failure: BaseException | None = None
        self.arrived, self.over = threading.Event(), threading.Event()
        self.last_sign = time.monotonic()
        self.worker = threading.Thread(target=self._convert, name="convert", daemon=True)

    @property
    def underruns(self) -> int:
        """Times that something had to be spoken and was not there."""
        return self.playout.underruns + self.late

    @property
    def overruns(self) -> int:
        """Times that sound was lost because what came before it was not yet dealt with."""
        return self.playout.overruns + self.lost

    def __enter__(self) -> "Duplex":
        heard, spoken = self.ends
        self.stream = None
        try:
            self.stream = self.sound.Stream(
                samplerate=self.session.rate,
                blocksize=self.session.chunk_samples,
                device=(heard.number, spoken.number),
                channels=(heard.channels, spoken.channels),
                dtype="float32",
                latency="low",
                callback=self.callback,
            )
            self.worker.start()
            self.last_sign = time.monotonic()
            self.stream.start()
        except (ValueError, OSError, self.sound.PortAudioError) as error:
            self.__exit__()
            raise UserError(
                f"{heard.name} and {spoken.name} do not open together at {self.session.rate} Hz"
                f" ({reason(error)}): another program may hold them; --list-devices shows others"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.arrived.set()
        for end in (self.stream.abort, self.stream.close) if self.stream is not None else ():
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
        heard, spoken = self.ends
        gone = self.stream is None or not self.stream.active
        if gone or time.monotonic() - self.last_sign > SILENT_S:
            raise UserError(
                f"no more sound from {heard.name} or to {spoken.name}: if one was unplugged, plug it in and"
                " start again, or choose another (--list-devices)"
            )

    def callback(self, indata: np.ndarray, outdata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """Copy what was heard into one queue, and what is to be spoken out of the other."""
        try:
            self.last_sign = time.monotonic()
            self._measure(clock)
            self.lost += bool(status.input_overflow)
            self.late += bool(status.output_underflow)
            self.lost += self.heard.write(np.ascontiguousarray(indata[:, 0])) < frames
            self.arrived.set()
            spoken = np.empty(frames, np.float32)
            self.playout.read(spoken)
            outdata[:] = spoken[:, None]
        except BaseException as error:
            self.failure = error
            outdata.fill(0)
            raise self.sound.CallbackAbort from None

    def _measure(self, clock: Any) -> None:
        """How old the next sample to be spoken is when it leaves the loudspeaker."""
        between = clock.outputBufferDacTime - clock.inputBufferAdcTime
        if not 0 < between < 10:  # some drivers do not tell
            between = sum(self.stream.latency) if self.stream is not None else 0.0
        # What is inside, as said and as converted: the network puts out as many samples as go in.
        inside = self.heard.written - self.playout.ring.taken
        self.latency_ms = 1000 * (between + inside / self.session.rate)

    def _convert(self) -> None:
        torch.set_num_threads(1)
        size = self.session.chunk_samples
        try:
            while not self.over.is_set():
                if self.heard.level < size:
                    self.arrived.wait(0.5)
                    self.arrived.clear()
                    continue
                chunk = np.empty(size, np.float32)
                self.heard.read(chunk)
                self.playout.write(self.session.push(torch.from_numpy(chunk)[None, None])[0, 0].numpy())
            self.session.flush()
        except BaseException as error:
            self.failure = error
