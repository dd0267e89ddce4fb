"""The live path on a simulated sound card: audio, counters, failures."""

import threading

import numpy as np
import pytest
import torch
from played_card import Sound, wait_for
from torch.testing import assert_close

from data.audio import resample
from engine.user_error import UserError
from w2w import Converter
from w2w.live.duplex import Duplex, at_rates, device_end, listed, named
from w2w.live.session import Session

RATE = 16_000


@pytest.fixture
def sound() -> Sound:
    return Sound()


@pytest.fixture
def duplex(sound, model, buzz):
    converter = Converter.from_pretrained(model)
    voice = converter.embed(buzz(8_000, f0=(200.0,)))
    sound.source = buzz(RATE, f0=(150.0,))[0, 0].numpy()
    ends = at_rates(sound, device_end(sound, None, "input"), device_end(sound, None, "output"), None)
    duplex = Duplex(Session(converter, [voice]), sound, ends, buffer_ms=10.0)
    duplex.chunks_ready, write = 0, duplex.jitter_buffer.write

    def counted(samples) -> None:
        write(samples)
        duplex.chunks_ready += 1

    duplex.jitter_buffer.write = counted
    return duplex


def exchange(duplex, card, count) -> None:
    """Let the card play blocks, each after the previous one has been converted."""
    for _ in range(count):
        card.exchange()
        wait_for(lambda: duplex.chunks_ready >= len(card.played))


def test_sound_card_plays_the_conversion_with_the_reported_latency(duplex, sound):
    with duplex:
        card = sound.cards[0]
        exchange(duplex, card, 40)
        duplex.check()
        latency_ms = duplex.latency_ms
    played = torch.from_numpy(np.concatenate(card.played))
    assert_close(played[:, 0], played[:, 1], rtol=0, atol=0)
    session = duplex.session
    source = torch.from_numpy(sound.source[np.arange(40 * 320) % len(sound.source)])[None, None]
    converted = Converter(session.stream.network).convert(source, session.voices[0])[0, 0]
    late = int((played[:, 0] != 0).nonzero()[0]) - int((converted != 0).nonzero()[0])
    count = 40 * 320 - late
    assert_close(played[late:, 0], converted[:count], rtol=0, atol=1e-5)
    # The microphone's and the loudspeaker's own 30 ms come on top.
    assert latency_ms == pytest.approx(30 + 1000 * late / RATE, abs=1e-3)
    assert late / RATE * 1000 <= session.latency_ms + 20 + 10
    assert duplex.underruns == duplex.overruns == 0
    assert not duplex.worker.is_alive()


def test_underruns_and_overruns_are_counted(duplex, sound):
    duplex.worker = threading.Thread(target=lambda: None)  # a conversion that stands still
    with duplex:
        card = sound.cards[0]
        card.exchange(input_overflow=True)
        card.exchange(output_underflow=True)
        assert (duplex.underruns, duplex.overruns) == (1, 1)
        for _ in range(60):  # longer than the queue holds
            card.exchange()
        assert duplex.overruns > 5
        assert not np.concatenate(card.played).any()
    sound.between = 0.0


def test_latency_is_estimated_without_driver_times(duplex, sound):
    sound.between = 0.0
    with duplex:
        sound.cards[0].exchange()
        assert duplex.latency_ms == pytest.approx(30.0 + 20.0)  # the devices' figure, and the block


def test_unplugged_device_is_reported(duplex, sound, monkeypatch):
    with duplex:
        card = sound.cards[0]
        exchange(duplex, card, 2)
        duplex.check()
        monkeypatch.setattr("w2w.live.duplex.SILENT_S", 0.0)
        with pytest.raises(UserError, match="the audio from Mic or to Speakers stopped"):
            duplex.check()
        monkeypatch.undo()
        card.active = False
        sound.gone = True
        with pytest.raises(UserError, match="unplugged"):
            duplex.check()
    assert not duplex.worker.is_alive()


def test_errors_of_other_threads_are_raised(duplex, sound, monkeypatch):
    def fails(_):
        raise UserError("no more")

    monkeypatch.setattr(duplex.session, "push", fails)
    with duplex:
        sound.cards[0].exchange()
        duplex.worker.join()
        with pytest.raises(UserError, match="no more"):
            duplex.check()
        duplex.failure = ZeroDivisionError("ours")
        with pytest.raises(RuntimeError, match="failed"):
            duplex.check()


def test_failing_callback_outputs_silence(duplex, sound, monkeypatch):
    monkeypatch.setattr(duplex.jitter_buffer, "read", lambda out: 1 / 0)
    with duplex:
        card = sound.cards[0]
        card.exchange()
        assert not card.active
        assert not card.played[0].any()
        assert isinstance(duplex.failure, ZeroDivisionError)


def test_occupied_sound_card_is_reported(duplex, sound):
    sound.busy = True
    with pytest.raises(UserError, match=r"another program may use them; --list-devices"), duplex:
        pass
    assert not duplex.worker.is_alive()


def test_devices_are_listed_and_found(sound):
    lines = listed(sound).splitlines()
    assert len(lines) == 4
    assert [line[:4] for line in lines[1:]] == [">  0", " < 1", "   2"]
    assert device_end(sound, named("1"), "output").channels == 2
    assert device_end(sound, named("Phone"), "output").channels == 1
    assert (named("12"), named("USB"), named(None)) == (12, "USB", None)


@pytest.mark.parametrize(
    ("device", "way", "words"),
    [
        (7, "input", "--input-device 7: No input device matching 7; --list-devices"),
        ("Mic", "output", "--output-device Mic: Mic has no output channels"),
    ],
)
def test_missing_devices_are_reported(sound, device, way, words):
    with pytest.raises(UserError, match=words):
        device_end(sound, device, way)


def test_missing_default_device_is_reported(sound):
    sound.default.device = (-1, -1)
    with pytest.raises(UserError, match="no default input device: choose one by --input-device"):
        device_end(sound, None, "input")


def rates(sound, asked=None) -> tuple[int, int]:
    mic, speakers = at_rates(sound, device_end(sound, 0, "input"), device_end(sound, 1, "output"), asked)
    return mic.rate, speakers.rate


def test_common_sample_rate_is_chosen(sound):
    assert rates(sound) == (16_000, 16_000)
    assert rates(sound, 48_000) == (48_000, 48_000)
    sound.takes = {48_000}
    assert rates(sound) == (48_000, 48_000)
    with pytest.raises(UserError, match=r"input device 0 \(Mic\) refuses 16000 Hz.*omit --rate"):
        rates(sound, 16_000)
    sound.takes = set()
    with pytest.raises(UserError, match="choose others by --input-device"):
        rates(sound)


def test_devices_without_a_common_rate_get_one_each(sound):
    sound.takes, sound.speaks = {44_100}, {48_000}
    assert rates(sound) == (44_100, 48_000)
    with pytest.raises(UserError, match=r"output device 1 \(Speakers\) refuses 44100 Hz.*omit --rate"):
        rates(sound, 44_100)


def test_devices_of_two_rates_are_opened_as_two_streams(sound, model, buzz):
    sound.takes, sound.speaks = {RATE}, {48_000}
    converter = Converter.from_pretrained(model)
    session = Session(converter, [converter.embed(buzz(8_000, f0=(200.0,)))], rate=RATE)
    sound.source = buzz(RATE, f0=(150.0,))[0, 0].numpy()
    ends = at_rates(sound, device_end(sound, 0, "input"), device_end(sound, 1, "output"), None)
    duplex = Duplex(session, sound, ends, buffer_ms=10.0)
    with duplex:
        mic, speakers = sound.cards
        assert (mic.block, speakers.block) == (320, 960)
        for _ in range(40):
            before = duplex.jitter_buffer.ring.written
            mic.exchange()
            wait_for(lambda before=before: duplex.jitter_buffer.ring.written > before)
            speakers.exchange()
        duplex.check()
        latency_ms = duplex.latency_ms
    played = torch.from_numpy(np.concatenate(speakers.played))[:, 0]
    source = torch.from_numpy(sound.source[np.arange(40 * 320) % len(sound.source)])[None, None]
    converted = Converter(session.stream.network).convert(source, session.voices[0])
    wanted = resample(converted, RATE, 48_000)[0, 0]
    lag = (latency_ms - 30.0) * 48.0  # the devices' own 30 ms, and samples from then on
    assert lag == pytest.approx(round(lag), abs=0.01)
    lag = round(lag)
    middle = slice(9_600, 28_800)
    # Within a sample of the microphone's, and but for the short filter's transition band.
    off = min(_off(played, wanted[middle], middle.start + lag + by) for by in range(-3, 4))
    assert off < 0.15
    assert duplex.underruns == duplex.overruns == 0


def _off(played, wanted, start) -> float:
    return float((played[start : start + len(wanted)] - wanted).norm() / wanted.norm())


def test_default_device_without_channels_is_reported(sound):
    sound.devices[0] = sound.device(0, "Mic", 0, 0, 16_000.0)
    with pytest.raises(
        UserError, match="the default input device: Mic has no input channels; choose another"
    ):
        device_end(sound, None, "input")
