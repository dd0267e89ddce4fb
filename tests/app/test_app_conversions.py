"""What the page and the HTTP interface share: limits, the job queue, results as files, temporary folders."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.__main__ import LOCK, PREFIX, delete_old_files, delete_stale_folders, private_folder
from app.conversions import Conversions, JobQueue
from app.limits import BusyError, Limits, TooMuchError
from data.audio import info, save
from engine.user_error import UserError
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork


@pytest.fixture
def conversions(tiny, tmp_path):
    with Conversions(Converter(ConverterNetwork(tiny())), Limits(max_seconds=2.0), folder=tmp_path) as ours:
        yield ours


@pytest.fixture
def speech(buzz, tmp_path):
    path = tmp_path / "private" / "me.wav"
    save(path, buzz(16_000, f0=(130.0,)), 16_000)
    return path


def test_blend_equals_the_converters_blend(conversions, speech, buzz, tmp_path):
    save(other := tmp_path / "her.wav", buzz(12_000, f0=(220.0,)), 16_000)
    voices = [conversions.voice([path]) for path in (speech, other)]
    torch.testing.assert_close(conversions.voice([speech, other]), (voices[0] + voices[1]) / 2)
    blended = conversions.voice([speech, other], [3.0, 1.0])
    torch.testing.assert_close(blended, 0.75 * voices[0] + 0.25 * voices[1])


@pytest.mark.parametrize("rate", [None, 0, 44_100])
def test_result_is_as_long_as_its_source(conversions, speech, rate):
    result = info(conversions.convert(speech, conversions.voice([speech]), rate=rate))
    assert result.sample_rate == (rate or 16_000)
    assert result.samples == result.sample_rate


def test_watermark_can_be_disabled(tiny, tmp_path, speech):
    converter = Converter(ConverterNetwork(tiny()))
    waves = []
    for marked in (True, False):
        with Conversions(converter, marked=marked, folder=tmp_path) as ours:
            waves.append(soundfile.read(ours.convert(speech, ours.voice([speech])))[0])
    assert np.abs(waves[0] - waves[1]).max() > 1 / 32_768


def test_errors_name_files_without_folders(conversions, tmp_path):
    (wrong := tmp_path / "private.wav").write_bytes(b"words, not sounds")
    with pytest.raises(UserError, match=r"^private\.wav is not audio") as told:
        conversions.voice([wrong])
    assert str(tmp_path) not in str(told.value)


def test_stopped_conversion_leaves_no_file(conversions, speech, tmp_path):
    def stop(seconds):
        raise InterruptedError

    before = set(tmp_path.rglob("*"))
    with pytest.raises(InterruptedError):
        conversions.convert(speech, conversions.voice([speech]), done=stop)
    assert set(tmp_path.rglob("*")) == before


@settings(deadline=None)
@given(seconds=st.floats(1.0, 4.0), kind=st.sampled_from(["wav", "flac", "ogg"]))
def test_recording_is_decoded_only_up_to_the_limit(tmp_path_factory, seconds, kind):
    path = tmp_path_factory.mktemp("long") / f"sound.{kind}"
    wave = np.random.default_rng(0).normal(0, 0.1, round(8_000 * seconds))
    soundfile.write(path, wave, 8_000)
    if len(wave) > 2 * 8_000:
        with pytest.raises(TooMuchError, match=r"longer than the 2 s"):
            Limits(max_seconds=2.0).measure(path)
    else:
        assert Limits(max_seconds=2.0).measure(path).samples == len(wave)


def test_file_size_is_limited(speech):
    with pytest.raises(TooMuchError, match=r"more than the 0\.02 MB"):
        Limits(max_mb=0.02).measure(speech)


@pytest.mark.parametrize("wrong", [{"max_mb": 0.0}, {"max_seconds": float("nan")}, {"workers": 0}])
def test_limits_that_allow_nothing_are_refused(wrong):
    with pytest.raises(UserError, match="--"):
        Limits(**wrong)


def test_job_queue_is_fifo_and_bounded():
    queue, go, done = JobQueue(workers=1, capacity=3), threading.Event(), []
    futures = [queue.submit(go.wait), *(queue.submit(lambda n=n: done.append(n)) for n in range(3))]
    assert queue.waiting == 3
    with pytest.raises(BusyError, match="3 others"):
        queue.submit(go.wait)
    futures[2].cancel()
    last = queue.submit(lambda: done.append(3))  # in the place of who left
    go.set()
    last.result()
    queue.close()
    assert done == [0, 2, 3]


def test_nested_job_runs_at_once():
    queue = JobQueue(workers=1, capacity=0)
    assert queue.run(lambda: queue.run(lambda: torch.get_num_threads())) == 1
    queue.close()


def test_folders_of_dead_servers_are_deleted_those_of_running_ones_kept(tmp_path):
    with private_folder(tmp_path) as living:
        (dead := tmp_path / f"{PREFIX}dead").mkdir()
        (dead / LOCK).touch()
        (dead / "secret.wav").touch()
        (other := tmp_path / "somebody-elses").mkdir()
        (link := tmp_path / f"{PREFIX}link").symlink_to(other)
        (living / "request").mkdir()
        assert living.stat().st_mode & 0o077 == 0, "nobody else may look inside"
        delete_stale_folders(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([living, other, link])
    assert not living.exists()


def test_old_files_are_deleted_and_new_ones_kept(tmp_path):
    (old := tmp_path / "page" / "tmp1").parent.mkdir()
    (new := tmp_path / "page" / "tmp2").touch()
    old.touch()
    os.utime(old, (1.0, 1.0))
    delete_old_files(tmp_path, 3_600.0)
    assert new.exists()
    assert not old.exists()


def test_folder_of_a_killed_server_is_deleted_by_the_next(tmp_path):
    ready, told = os.pipe()
    if not (child := os.fork()):
        try:
            with private_folder(tmp_path) as folder:
                os.write(told, os.fsencode(folder.name))
                time.sleep(60)
        finally:
            os._exit(1)
    left = os.fsdecode(os.read(ready, 99))
    delete_stale_folders(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [left], "while it lives it is left alone"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    delete_stale_folders(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "70000"], "--port 70000 must be between"),
        (["--max-mb", "-1"], "--max-mb -1.0 must be above 0"),
        (["--host", "256.1.1.1"], "cannot serve at --host 256.1.1.1"),
        (["--root-path", "x"], "must begin with a slash"),
        (["--quue", "3"], "did you mean --queue"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options, sentence, capsys):
    from app.__main__ import main

    with pytest.raises(SystemExit) as end:
        main(options)
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_occupied_port_is_reported(capsys):
    from app.__main__ import bind, main

    with bind("127.0.0.1", 0) as door, pytest.raises(SystemExit):
        main(["--port", str(door.getsockname()[1])])
    assert "choose another port" in capsys.readouterr().err
