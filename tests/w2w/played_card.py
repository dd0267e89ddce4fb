"""A sound card that is played by a test, in place of sounddevice's."""

import threading
import time
from types import ModuleType, SimpleNamespace

import numpy as np


class PortAudioError(Exception):
    """Has the name of sounddevice's class."""


class CallbackAbort(Exception):  # noqa: N818 - its name there
    """Has the name of sounddevice's class."""


class Card:
    """As ``sounddevice.Stream``, but each block is exchanged when the test says so, or by its own thread."""

    def __init__(self, sound, *, samplerate, blocksize, device, channels, dtype, latency, callback):
        if sound.busy:
            raise PortAudioError("Device unavailable", -9985)
        self.sound, self.rate, self.block, self.channels = sound, samplerate, blocksize, channels
        self.callback, self.active, self.latency = callback, False, (0.01, 0.02)
        self.played, self.place = [], 0
        assert dtype == "float32"
        sound.cards.append(self)

    def start(self):
        self.active = True
        if self.sound.runs:
            threading.Thread(target=self._run, daemon=True).start()

    def abort(self):
        if self.sound.gone:
            raise PortAudioError("Unanticipated host error", -9999)
        self.active = False

    def close(self):
        self.active = False

    def exchange(self, **status):
        """Exchange one block of input, of output, or both."""
        source = self.sound.source
        take = np.arange(self.place, self.place + self.block) % len(source)
        heard = np.repeat(source[take][:, None], self.channels[0], axis=1)
        spoken = np.full((self.block, self.channels[1]), 9.0, np.float32)
        clock = SimpleNamespace(inputBufferAdcTime=1.0, outputBufferDacTime=1.0 + self.sound.between)
        flags = {"input_overflow": False, "output_underflow": False, **status}
        try:
            self.callback(heard, spoken, self.block, clock, SimpleNamespace(**flags))
        except CallbackAbort:
            self.active = False
        self.place += self.block
        self.played.append(spoken)

    def _run(self):
        while self.active and not self.sound.gone:
            self.exchange()
            time.sleep(self.block / self.rate)
        self.active = False


class Microphone(Card):
    """As ``sounddevice.InputStream``."""

    def __init__(self, sound, *, device, channels, callback, **options):
        def hear(heard, spoken, frames, clock, status):
            callback(heard, frames, clock, status)

        super().__init__(sound, device=device, channels=(channels, 1), callback=hear, **options)
        self.latency = 0.01


class Loudspeaker(Card):
    """As ``sounddevice.OutputStream``."""

    def __init__(self, sound, *, device, channels, callback, **options):
        def speak(heard, spoken, frames, clock, status):
            callback(spoken, frames, clock, status)

        super().__init__(sound, device=device, channels=(1, channels), callback=speak, **options)
        self.latency = 0.02


class Sound(ModuleType):
    """A stand-in for the sounddevice module with a microphone and two loudspeakers."""

    PortAudioError, CallbackAbort = PortAudioError, CallbackAbort

    def __init__(self):
        super().__init__("sounddevice")
        self.cards, self.gone, self.busy, self.runs, self.between = [], False, False, False, 0.03
        self.source, self.default = np.zeros(160, np.float32), SimpleNamespace(device=(0, 1))
        self.takes, self.speaks = {8_000, 16_000, 48_000}, None
        self.devices = [
            self.device(0, "Mic", 1, 0, 16_000.0),
            self.device(1, "Speakers", 0, 2, 48_000.0),
            self.device(2, "Phone", 0, 1, 8_000.0),
        ]

    @staticmethod
    def device(number, name, n_in, n_out, rate):
        about = {"index": number, "name": name, "default_samplerate": rate}
        return {**about, "max_input_channels": n_in, "max_output_channels": n_out}

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return self.devices
        if device is None:
            device = self.default.device[kind == "output"]
            if device < 0:
                raise PortAudioError("Error querying device -1")
        fits = [about for about in self.devices if device in (about["index"], about["name"])]
        if not fits:
            raise ValueError(f"No {kind} device matching {device!r}")
        return fits[0]

    def check_input_settings(self, *, device, channels, dtype, samplerate):
        if samplerate not in self.takes:
            raise PortAudioError("Invalid sample rate", -9997)

    def check_output_settings(self, *, samplerate, **options):
        if samplerate not in (self.takes if self.speaks is None else self.speaks):
            raise PortAudioError("Invalid sample rate", -9997)

    def Stream(self, **options):  # noqa: N802 - its name there
        return Card(self, **options)

    def InputStream(self, **options):  # noqa: N802
        return Microphone(self, **options)

    def OutputStream(self, **options):  # noqa: N802
        return Loudspeaker(self, **options)


def wait_for(truth) -> None:
    """Wait until a condition holds, at most two minutes, since machines may be busy."""
    deadline = time.monotonic() + 120
    while not truth() and time.monotonic() < deadline:
        time.sleep(0.001)
