"""A live session equals the file conversion whatever is switched; its queues and recordings."""

import threading
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from played_card import wait_for
from torch.testing import assert_close

from data.audio import info, load
from engine.user_error import UserError
from w2w import Converter
from w2w.live.jitter_buffer import DEPTH_STEP_S, WATCHED_S, JitterBuffer, Ring
from w2w.live.recorder import Recorder, unused
from w2w.live.session import FADE_MS, FLOOR_DB, RAMP_MS, Load, Meter, Session
from w2w.networks.network import ConverterNetwork
from w2w.watermark import Marker

RATE = 16_000


@pytest.fixture(scope="module")
def converter(tiny) -> Converter:
    torch.manual_seed(3)
    return Converter(ConverterNetwork(tiny()))


@pytest.fixture(scope="module")
def voices(converter, buzz):
    torch.manual_seed(0)
    return [converter.embed(buzz(8_000, f0=(f0,))) for f0 in (110.0, 220.0)]


def pushed(session, wave, size=None):
    size = size or session.chunk_samples
    return torch.cat([*(session.push(chunk) for chunk in wave.split(size, dim=-1)), session.flush()], dim=-1)


@pytest.mark.parametrize(("chunk_ms", "rate"), [(20.0, None), (13.0, None), (7.3, 48_000), (10.0, 44_100)])
def test_session_equals_the_conversion_of_the_whole(converter, voices, buzz, chunk_ms, rate):
    wave = buzz(9_001, f0=(150.0,), rate=rate or RATE)
    session = Session(converter, voices, chunk_ms=chunk_ms, rate=rate, semitones=2.0)
    whole = converter.convert(wave, voices[0], semitones=2.0, sample_rate=rate)
    assert_close(pushed(session, wave), whole, rtol=0, atol=1e-5)


def test_session_watermarks_converted_audio_but_not_bypass(converter, voices, buzz):
    wave, marker = buzz(8_000, f0=(150.0,)), Marker(RATE)
    marked = pushed(Session(converter, voices, marker=Marker(RATE)), wave)
    whole = converter.convert(wave, voices[0])
    assert_close(marked, marker.mark(whole), rtol=0, atol=1e-5)
    assert (marked - whole).abs().max() > 1e-5
    assert_close(pushed(Session(converter, voices, marker=marker, bypass=True), wave), wave, rtol=0, atol=0)


def test_bypass_cross_fades_with_equal_latency(converter, voices, buzz):
    wave = buzz(9_600, f0=(150.0,))
    whole = converter.convert(wave, voices[0])
    session, parts = Session(converter, voices, chunk_ms=10.0), []
    switched = []
    for number, chunk in enumerate(wave.split(160, dim=-1)):
        if number in (20, 40):
            switched.append(sum(part.shape[-1] for part in parts))
            session.switch_bypass()
        parts.append(session.push(chunk))
    heard = torch.cat([*parts, session.flush()], dim=-1)
    fade, (there, back) = round(FADE_MS * RATE / 1000), switched
    assert_close(heard[..., :there], whole[..., :there], rtol=0, atol=1e-5)
    assert_close(heard[..., there + fade : back], wave[..., there + fade : back], rtol=0, atol=1e-6)
    assert_close(heard[..., back + fade :], whole[..., back + fade :], rtol=0, atol=1e-5)
    slope = torch.linspace(0, 1, fade + 1)[1:]
    during = slice(there, there + fade)
    expected = slope * wave[..., during] + (1 - slope) * whole[..., during]
    assert_close(heard[..., during], expected, rtol=0, atol=1e-4)


def test_voice_and_pitch_glide_as_the_stream_does(converter, voices, buzz):
    wave = buzz(9_600, f0=(150.0,))
    session, stream = Session(converter, voices), converter.stream(voices[0], 320)
    ours, theirs = [], []
    for number, chunk in enumerate(wave.split(320, dim=-1)):
        if number == 10:
            assert session.choose_voice(1)
            stream.change(voice=voices[1], over_ms=RAMP_MS)
        if number == 20:
            assert session.move_pitch(-3.0)
            stream.change(semitones=-3.0, over_ms=RAMP_MS)
        ours.append(session.push(chunk))
        theirs.append(stream.push(chunk))
    ours, theirs = torch.cat(ours, dim=-1), torch.cat(theirs, dim=-1)
    assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (ours - converter.convert(wave, voices[0])[..., : ours.shape[-1]]).abs().max() > 1e-4
    assert (session.voice_number, session.semitones) == (1, -3.0)


def test_invalid_changes_are_ignored(converter, voices):
    session = Session(converter, voices)
    assert not session.choose_voice(2)
    assert not session.move_pitch(100.0)
    assert (session.voice_number, session.semitones) == (0, 0.0)
    assert session.changes.empty()
    with pytest.raises(UserError, match="at least one voice"):
        Session(converter, [])


def test_invalid_samples_become_silence_and_are_counted(converter, voices, buzz):
    wave = buzz(6_400, f0=(150.0,))
    broken, mended = wave.clone(), wave.clone()
    broken[..., 1_000:1_004] = torch.tensor([float("nan"), float("inf"), -float("inf"), -1e30])
    mended[..., 1_000:1_004] = 0.0
    session = Session(converter, voices)
    assert_close(pushed(session, broken), converter.convert(mended, voices[0]), rtol=0, atol=1e-5)
    assert session.n_invalid == 4


def test_warm_up_does_not_change_the_session(converter, voices, buzz):
    wave = buzz(6_400, f0=(150.0,))
    session = Session(converter, voices, marker=Marker(RATE))
    session.warm_up()
    assert_close(pushed(session, wave), pushed(Session(converter, voices, marker=Marker(RATE)), wave))


def test_session_memory_is_bounded(converter, voices, buzz):
    session, chunk = Session(converter, voices, chunk_ms=13.0, marker=Marker(RATE)), buzz(208, f0=(150.0,))

    def held() -> int:
        tensors = [session.source, session.marks, session.stream.state.waiting]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    sizes = []
    for _ in range(120):
        session.push(chunk)
        sizes.append(held())
    assert max(sizes[60:]) <= max(sizes[:60])


def test_meter_and_load_values():
    meter = Meter()
    assert meter.pop_peak_db() == FLOOR_DB
    meter.measure(torch.tensor([[[0.1, -0.5]]]))
    meter.measure(torch.zeros(1, 1, 0))
    assert meter.pop_peak_db() == pytest.approx(-6.02, abs=0.01)
    assert meter.pop_peak_db() == FLOOR_DB
    load = Load(0.02)
    assert (load.mean, load.total) == (0.0, 0.0)
    for seconds in (0.002, 0.004, 0.03):
        load.add(seconds)
    assert load.total == pytest.approx(0.6)
    assert load.worst == pytest.approx(1.5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["write", "read", "peek", "drop"]), st.integers(0, 9)), max_size=40)
)
def test_ring_is_a_bounded_queue(steps):
    ring, model, fresh = Ring(7), deque(), iter(range(1, 10_000))
    for what, count in steps:
        if what == "write":
            samples = np.array([next(fresh) for _ in range(count)], np.float32)
            taken = ring.write(samples)
            assert taken == min(count, 7 - len(model))
            model.extend(samples[:taken])
        elif what == "drop":
            assert ring.drop(count) == min(count, len(model))
            for _ in range(min(count, len(model))):
                model.popleft()
        else:
            out = np.zeros(count, np.float32)
            there = ring.read(out) if what == "read" else ring.peek(out)
            assert there == min(count, len(model))
            assert list(out[:there]) == list(model)[:there]
            for _ in range(there if what == "read" else 0):
                model.popleft()
        assert ring.level == len(model)


def test_depth_above_the_limit_does_not_shrink_after_an_underrun():
    buffer = JitterBuffer(1_000, 150)
    buffer.write(np.ones(160, np.float32))
    buffer.read(np.ones(10, np.float32))
    buffer.read(np.ones(160, np.float32))
    assert (buffer.underruns, buffer.depth) == (1, 150)


def test_playback_starts_at_its_depth_and_restarts_after_an_underrun():
    buffer, out = JitterBuffer(1_000, 5), np.ones(10, np.float32)
    buffer.write(np.arange(14, dtype=np.float32))
    buffer.read(out)
    assert not out.any()
    buffer.write(np.array([14.0], np.float32))
    buffer.read(out)
    assert list(out) == list(range(10))
    buffer.read(out)
    assert list(out) == [10, 11, 12, 13, 14, 0, 0, 0, 0, 0]
    assert buffer.underruns == 1
    assert buffer.depth == 5 + DEPTH_STEP_S * 1_000
    buffer.write(np.arange(19, dtype=np.float32))
    buffer.read(out)
    assert not out.any()
    buffer.write(np.arange(19, 20, dtype=np.float32))
    buffer.read(out)
    assert list(out) == list(range(10))


def test_persistent_surplus_is_skipped_with_a_cross_fade():
    rate = 8_000
    buffer, out = JitterBuffer(rate, 20), np.zeros(80, np.float32)
    time_s = np.arange(4 * rate) / rate
    sound = np.sin(2 * np.pi * 40 * time_s).astype(np.float32)
    buffer.write(sound[:1_000])
    heard, place = [], 1_000
    while place + 80 <= len(sound):
        buffer.read(out)
        heard.append(out.copy())
        buffer.write(sound[place : place + 80])
        place += 80
    assert buffer.skips == 1
    assert buffer.ring.level <= 20 + 2 * 80
    assert buffer.underruns == buffer.overruns == 0
    steady = np.abs(np.diff(sound)).max()
    assert np.abs(np.diff(np.concatenate(heard))).max() < 3 * steady
    assert len(heard) * 80 > WATCHED_S * rate


def test_full_queue_counts_overruns():
    buffer = JitterBuffer(1_000, 5)
    buffer.write(np.zeros(1_500, np.float32))
    assert buffer.overruns == 1
    assert buffer.ring.level == 1_000


def test_each_take_gets_its_own_file(tmp_path, buzz):
    wave = buzz(4_000, f0=(150.0,))
    recorder = Recorder(RATE, tmp_path / "take.wav")
    recorder.write(wave)
    for _ in range(2):
        recorder.start()
        for piece in wave.split(320, dim=-1):
            recorder.write(piece)
        recorder.stop()
        recorder.stop()
    assert recorder.finished == [tmp_path / "take.wav", tmp_path / "take-2.wav"]
    for path in recorder.finished:
        assert_close(load(path), wave, rtol=0, atol=2**-15)
    assert sorted(tmp_path.iterdir()) == sorted(recorder.finished)
    assert recorder.trouble is None


def test_full_disk_ends_the_recording_but_not_the_conversion(tmp_path, buzz, monkeypatch):
    wave = buzz(3_200, f0=(150.0,))
    recorder = Recorder(RATE, tmp_path / "take.wav")
    recorder.start()
    recorder.write(wave)
    wait_for(lambda: recorder.written == 3_200)

    def full(*_):
        raise UserError("no space left")

    monkeypatch.setattr("data.audio.writing.Writer.write", full)
    recorder.write(wave)
    wait_for(lambda: not recorder.running)
    recorder.write(wave)
    recorder.stop()
    assert recorder.trouble == "the recording ended after 0.2 s: no space left"
    assert info(tmp_path / "take.wav").samples == 3_200


def test_stalled_disk_does_not_block_the_audio(tmp_path, buzz, monkeypatch):
    monkeypatch.setattr("w2w.live.recorder.WAITING_S", 0.1)
    spins = threading.Event()
    monkeypatch.setattr("data.audio.writing.Writer.write", lambda *_: spins.wait(60))
    recorder, wave = Recorder(RATE, tmp_path / "take.wav"), buzz(800, f0=(150.0,))
    recorder.start()
    for _ in range(6):
        recorder.write(wave)
    assert recorder.written == 0
    spins.set()
    recorder.stop()
    assert recorder.lost == 6 * 800 - recorder.taken > 0
    assert "too slow" in (recorder.trouble or "")


def test_recordings_do_not_overwrite_files(tmp_path, monkeypatch):
    assert unused(tmp_path / "a.wav") == tmp_path / "a.wav"
    for name in ("a.wav", "a-2.wav"):
        (tmp_path / name).touch()
    assert unused(tmp_path / "a.wav") == tmp_path / "a-3.wav"
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(RATE)
    recorder.start()
    recorder.stop()
    assert [path.name[:5] for path in recorder.finished] == ["live-"]
    with pytest.raises(FileExistsError):
        Recorder(RATE, Path("a.wav/b.wav")).start()
