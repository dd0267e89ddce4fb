"""Sound cards by PortAudio: which there are, at which rate they run, and a conversion between two of them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from data.audio.live_resampling import live_resampler
from engine.user_error import UserError
from w2w.live.jitter_buffer import HELD_S, JitterBuffer, Ring
from w2w.live.session import Session

SILENT_S = 3.0
"""Seconds without a sign of the device after which it counts as gone."""
Device = int | str | None
Way = Literal["input", "output"]
USUAL_RATES = (48_000, 44_100, 32_000, 16_000)
NO_CARD = "use --input-file and --output-file to run without a sound card"


@dataclass(frozen=True, kw_only=True)
class DeviceEnd:
    """One end of the live path, as PortAudio is to open it."""

    number: int
    name: str
    channels: int
    """Opened: one to hear, two to speak where there are two."""
    rate: int
    """Hz: the device's own, until ``at_rates`` has chosen."""


def sound_library() -> Any:
    """The sounddevice package."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise UserError(
            f"a sound card is reached by sounddevice: pip install 'timbre[live]', or {NO_CARD}"
        ) from None
    except OSError as error:
        raise UserError(
            f"sounddevice cannot load PortAudio ({error}): install it (Debian: apt install libportaudio2),"
            f" or {NO_CARD}"
        ) from None
    except Exception as error:  # its own PortAudioError, which without the import has no name
        raise UserError(f"PortAudio does not start ({reason(error)}): {NO_CARD}") from None
    return sounddevice


def reason(error: BaseException) -> str:
    """PortAudio's words without its numbers and without a full stop."""
    words = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(words.split()).rstrip(".") or type(error).__name__


def listed(sound: Any) -> str:
    """All devices, the usual ones marked, one a line."""
    devices = list(sound.query_devices())
    if not devices:
        raise UserError(f"no sound card was found: {NO_CARD}")
    usual_in, usual_out = sound.default.device
    lines = ["  #  in out   rate  name   (> usual input, < usual output)"]
    for number, device in enumerate(devices):
        mark = (">" if number == usual_in else " ") + ("<" if number == usual_out else " ")
        channels = f"{device['max_input_channels']:3d} {device['max_output_channels']:3d}"
        lines.append(f"{mark}{number:2d} {channels} {device['default_samplerate']:6.0f}  {device['name']}")
    return "\n".join(lines)


def named(word: str | None) -> Device:
    """A device as the command line names it: by number, or by a part of its name."""
    return int(word) if word is not None and word.isdecimal() else word


def device_end(sound: Any, device: Device, way: Way) -> DeviceEnd:
    end = f"the usual {way} device" if device is None else f"--{way}-device {device}"
    if not len(sound.query_devices()):
        raise UserError(f"no sound card was found: {NO_CARD}")
    try:
        about = sound.query_devices(device, way)
    except (ValueError, sound.PortAudioError) as error:
        if device is None:
            raise UserError(
                f"there is no usual {way} device: name one by --{way}-device (--list-devices shows them)"
            ) from None
        raise UserError(f"{end}: {reason(error)}; --list-devices shows what there is") from None
    most = about[f"max_{way}_channels"]
    if most < 1:
        raise UserError(
            f"{end}: {about['name']} has no {way} channels; name another by --{way}-device"
            " (--list-devices shows which have)"
        )
    rate = round(about["default_samplerate"])
    # Some cards play a mono stream on the left side only.
    channels = 1 if way == "input" else min(most, 2)
    return DeviceEnd(number=about["index"], name=about["name"], channels=channels, rate=rate)


def at_rates(sound: Any, source: DeviceEnd, sink: DeviceEnd, rate: int | None) -> tuple[DeviceEnd, DeviceEnd]:
    """Both ends at the rates they are to be opened at.

    The one asked for, or the first of their own and usual ones that both take; where there is none, each at
    one that it takes.
    """
    wanted = list(dict.fromkeys((rate,) if rate else (source.rate, sink.rate, *USUAL_RATES)))
    on_input = {rate: _refusal(sound, "input", source, rate) for rate in wanted}
    on_output = {rate: _refusal(sound, "output", sink, rate) for rate in wanted}
    of_input = [rate for rate in wanted if on_input[rate] is None]
    of_output = [rate for rate in wanted if on_output[rate] is None]
    if not of_input or not of_output:
        way_out = "leave --rate out" if rate else "choose others by --input-device and --output-device"
        raise UserError(f"{(on_output if of_input else on_input)[wanted[0]]}: {way_out}")
    common = [rate for rate in of_input if rate in of_output]
    return replace(source, rate=(common or of_input)[0]), replace(sink, rate=(common or of_output)[0])


def _refusal(sound: Any, way: Way, end: DeviceEnd, rate: int) -> str | None:
    check = sound.check_input_settings if way == "input" else sound.check_output_settings
    try:
        check(device=end.number, channels=end.channels, dtype="float32", samplerate=rate)
    except (ValueError, sound.PortAudioError) as error:
        return f"{way} device {end.number} ({end.name}) refuses {rate} Hz ({reason(error)})"
    return None


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
