"""Audio devices by PortAudio: list them, choose sample rates, and convert from one device to another."""

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
from w2w.live.jitter_buffer import CAPACITY_S, JitterBuffer, Ring
from w2w.live.session import Session

SILENT_S = 3.0
"""Seconds without a callback after which a device counts as unplugged."""
Device = int | str | None
Way = Literal["input", "output"]
USUAL_RATES = (48_000, 44_100, 32_000, 16_000)
NO_DEVICE = "use --input-file and --output-file to run without an audio device"


@dataclass(frozen=True, kw_only=True)
class DeviceEnd:
    """An input or output device and the format in which PortAudio opens it."""

    number: int
    name: str
    channels: int
    """Channels to open: 1 for input; 2 for output, or 1 if the device has only one."""
    rate: int
    """Hz; the device's default rate until ``at_rates`` chooses one."""


def sound_library() -> Any:
    """Import the sounddevice package; an error names how to install what is missing."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise UserError(
            f"audio devices need the package sounddevice: pip install 'timbre[live]', or {NO_DEVICE}"
        ) from None
    except OSError as error:
        raise UserError(
            f"sounddevice cannot load PortAudio ({error}): install it (Debian: apt install libportaudio2),"
            f" or {NO_DEVICE}"
        ) from None
    except Exception as error:  # PortAudioError, which cannot be named as the import failed
        raise UserError(f"PortAudio does not start ({reason(error)}): {NO_DEVICE}") from None
    return sounddevice


def reason(error: BaseException) -> str:
    """PortAudio's error text without its error code and final full stop."""
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def listed(sound: Any) -> str:
    """A table of all devices, one per line, with the default ones marked."""
    devices = list(sound.query_devices())
    if not devices:
        raise UserError(f"no audio device was found: {NO_DEVICE}")
    default_in, default_out = sound.default.device
    lines = ["  #  in out   rate  name   (> default input, < default output)"]
    for number, device in enumerate(devices):
        mark = (">" if number == default_in else " ") + ("<" if number == default_out else " ")
        channels = f"{device['max_input_channels']:3d} {device['max_output_channels']:3d}"
        lines.append(f"{mark}{number:2d} {channels} {device['default_samplerate']:6.0f}  {device['name']}")
    return "\n".join(lines)


def named(word: str | None) -> Device:
    """Parse a device given on the command line: its number or part of its name."""
    return int(word) if word is not None and word.isdecimal() else word


def device_end(sound: Any, device: Device, way: Way) -> DeviceEnd:
    end = f"the default {way} device" if device is None else f"--{way}-device {device}"
    if not len(sound.query_devices()):
        raise UserError(f"no audio device was found: {NO_DEVICE}")
    try:
        about = sound.query_devices(device, way)
    except (ValueError, sound.PortAudioError) as error:
        if device is None:
            raise UserError(
                f"there is no default {way} device: choose one by --{way}-device (--list-devices lists them)"
            ) from None
        raise UserError(f"{end}: {reason(error)}; --list-devices lists the devices") from None
    most = about[f"max_{way}_channels"]
    if most < 1:
        raise UserError(
            f"{end}: {about['name']} has no {way} channels; choose another by --{way}-device"
            " (--list-devices shows the channels)"
        )
    rate = round(about["default_samplerate"])
    # Some devices play a mono stream on the left side only.
    channels = 1 if way == "input" else min(most, 2)
    return DeviceEnd(number=about["index"], name=about["name"], channels=channels, rate=rate)


def at_rates(sound: Any, source: DeviceEnd, sink: DeviceEnd, rate: int | None) -> tuple[DeviceEnd, DeviceEnd]:
    """Set the sample rates at which both devices are opened: ``rate`` for both, if given.

    Otherwise it is the first of their default rates and the usual rates that both support; without a common
    rate, each device gets the first one that it supports.
    """
    wanted = list(dict.fromkeys((rate,) if rate else (source.rate, sink.rate, *USUAL_RATES)))
    on_input = {rate: _refusal(sound, "input", source, rate) for rate in wanted}
    on_output = {rate: _refusal(sound, "output", sink, rate) for rate in wanted}
    of_input = [rate for rate in wanted if on_input[rate] is None]
    of_output = [rate for rate in wanted if on_output[rate] is None]
    if not of_input or not of_output:
        way_out = "omit --rate" if rate else "choose others by --input-device and --output-device"
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
    """Context manager that records from one device, converts, and plays to another.

    The audio callbacks only copy samples; one worker thread converts. Devices of different sample rates are
    opened as two streams; the session runs at the microphone's rate.
    """

    def __init__(
        self, session: Session, sound: Any, ends: tuple[DeviceEnd, DeviceEnd], buffer_ms: float
    ) -> None:
        self.session, self.sound, self.ends = session, sound, ends
        self.captured = Ring(round(CAPACITY_S * session.rate))
        self.converted = 0
        """Converted samples so far, at the session's rate."""
        rate = ends[1].rate
        depth = buffer_ms / 1000 + session.shortfall_samples / session.rate
        self.jitter_buffer = JitterBuffer(rate, round(depth * rate))
        self.resampler = None if rate == session.rate else live_resampler(session.rate, rate)
        self.input_overflows = 0
        """Number of overflows of the capture queue or the input device."""
        self.output_underflows = 0
        """Number of underflows that the output device reported."""
        self.device_latency_s = 0.0
        """Time from the microphone's sample to the loudspeaker's sample of a block, as the driver reports."""
        self.failure: BaseException | None = None
        self.arrived, self.over = threading.Event(), threading.Event()
        self.last_callback = time.monotonic()
        self.worker = threading.Thread(target=self._convert, name="convert", daemon=True)

    @property
    def underruns(self) -> int:
        """Number of times that no converted audio was ready to be played."""
        return self.jitter_buffer.underruns + self.output_underflows

    @property
    def overruns(self) -> int:
        """Number of times that audio was lost because a queue was full."""
        return self.jitter_buffer.overruns + self.input_overflows

    def __enter__(self) -> "Duplex":
        source, sink = self.ends
        self.streams = []
        try:
            self._open(source, sink)
            self.worker.start()
            self.last_callback = time.monotonic()
            for stream in self.streams:
                stream.start()
        except (ValueError, OSError, self.sound.PortAudioError) as error:
            self.__exit__()
            rates = " and ".join(str(rate) for rate in dict.fromkeys((source.rate, sink.rate)))
            raise UserError(
                f"{source.name} and {sink.name} cannot be opened together at {rates} Hz"
                f" ({reason(error)}): another program may use them; --list-devices lists others"
            ) from None
        return self

    def _open(self, source: DeviceEnd, sink: DeviceEnd) -> None:
        shared, chunk = {"dtype": "float32", "latency": "low"}, self.session.chunk_samples
        if source.rate == sink.rate:
            ends = {"device": (source.number, sink.number), "channels": (source.channels, sink.channels)}
            both = {"samplerate": source.rate, "blocksize": chunk, "callback": self.exchange}
            self.streams.append(self.sound.Stream(**ends, **both, **shared))
            return
        sides = (
            (self.sound.InputStream, source, chunk, self.capture),
            (self.sound.OutputStream, sink, round(chunk * sink.rate / source.rate), self.play),
        )
        for stream, end, block, callback in sides:
            one = {"device": end.number, "channels": end.channels, "samplerate": end.rate}
            self.streams.append(stream(**one, blocksize=block, callback=callback, **shared))

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.arrived.set()
        for end in [end for stream in self.streams for end in (stream.abort, stream.close)]:
            try:
                end()
            except Exception:  # of an unplugged device; the rest is closed all the same
                continue
        if self.worker.ident is not None:
            self.worker.join(timeout=5.0)

    def check(self) -> None:
        """Raise the error of another thread, if any, or a ``UserError`` if a device was unplugged."""
        if isinstance(self.failure, UserError):
            raise self.failure
        if self.failure is not None:
            raise RuntimeError("the live conversion failed") from self.failure
        source, sink = self.ends
        gone = not all(stream.active for stream in self.streams)
        if gone or time.monotonic() - self.last_callback > SILENT_S:
            raise UserError(
                f"the audio from {source.name} or to {sink.name} stopped: if one was unplugged, plug it in"
                " and start again, or choose another (--list-devices)"
            )

    def exchange(self, indata: np.ndarray, outdata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """PortAudio callback of a two-way stream: capture one block and play one."""
        outdata.fill(0)
        self.capture(indata, frames, clock, status)
        self.play(outdata, frames, clock, status)
        self.device_latency_s = clock.outputBufferDacTime - clock.inputBufferAdcTime

    def capture(self, indata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """PortAudio callback of an input stream: copy a block into the capture queue."""
        with self._abort_on_error():
            self.last_callback = time.monotonic()
            self.input_overflows += bool(status.input_overflow)
            self.input_overflows += self.captured.write(np.ascontiguousarray(indata[:, 0])) < frames
            self.arrived.set()

    def play(self, outdata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """PortAudio callback of an output stream: fill a block from the jitter buffer."""
        outdata.fill(0)
        with self._abort_on_error():
            self.output_underflows += bool(status.output_underflow)
            block = np.empty(frames, np.float32)
            self.jitter_buffer.read(block)
            outdata[:] = block[:, None]

    @contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failure = error
            raise self.sound.CallbackAbort from None

    @property
    def latency_ms(self) -> float | None:
        """Latency from microphone to loudspeaker, devices included; None before the first block."""
        if not self.captured.written:
            return None
        devices_s = self.device_latency_s
        if not 0 < devices_s < 10:  # some drivers report no times
            devices_s = float(np.sum([stream.latency for stream in self.streams]))
        rate = self.session.rate
        inside = (self.captured.written - self.converted) / rate + self.jitter_buffer.seconds
        if self.resampler is not None:
            inside += float(self.resampler.delay) / rate
        return 1000 * (devices_s + inside)

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
