"""Videos: frames and sound of any segment, and errors for unusable files."""

import sys

import pytest
import torch
from tiny_videos import RATE, write_video
from torch.testing import assert_close

from data.audio.resampling import resample
from data.audiovisual.video import VideoError, video_files, video_frames, video_sound, video_streams
from engine.user_error import UserError

pytest.importorskip("av")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "ramp.mkv")


def indices(frames):
    """Return the frames' indices by their grey values."""
    return [round(frame.float().mean().item() / 4) for frame in frames]


@pytest.mark.parametrize(
    ("frame_rate", "stretch", "expected"),
    [
        (1.0, {}, [5, 15, 25, 35]),  # the middles of four seconds
        (2.0, {}, [2, 7, 12, 17, 22, 27, 32, 37]),
        (1.0, {"start_s": 2.0}, [25, 35]),
        (1.0, {"start_s": 1.0, "duration_s": 2.0}, [15, 25]),
        (1.0, {"start_s": 1.0, "duration_s": 0.4}, [12]),  # shorter than a step: its own middle
        (0.01, {}, [39]),
        (None, {"start_s": 3.5}, [35, 36, 37, 38, 39]),
        (None, {}, list(range(40))),
    ],
)
def test_frames_are_from_the_middle_of_each_interval(video, frame_rate, stretch, expected):
    found = indices(video_frames(video, frame_rate, **stretch))
    assert found == pytest.approx(expected, abs=1)  # greys are coded with a loss
    assert len(found) == len(expected)


def test_sound_segment_equals_that_part_of_the_whole(video):
    whole = video_sound(video, RATE)
    assert whole.shape == (1, 1, 4 * RATE)
    assert_close(whole[0, 0], torch.linspace(-0.5, 0.5, 4 * RATE), rtol=0, atol=1e-4)
    part = video_sound(video, RATE, start_s=1.25, duration_s=0.5)
    assert_close(part, whole[..., 10_000:14_000], rtol=0, atol=0)
    assert_close(video_sound(video, 4_000), resample(whole, RATE, 4_000))


def test_channels_are_averaged(tmp_path):
    import av
    import numpy as np

    left, right = np.full(800, 8_000, np.int16), np.full(800, -4_000, np.int16)
    with av.open(str(tmp_path / "stereo.mkv"), "w") as container:
        track = container.add_stream("pcm_s16le", rate=RATE, layout="stereo")
        both = np.stack([left, right], -1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(both, "s16", "stereo")
        frame.sample_rate = RATE
        container.mux([*track.encode(frame), *track.encode()])
    assert_close(video_sound(tmp_path / "stereo.mkv", RATE), torch.full((1, 1, 800), 2_000 / 32_768))


def test_headers_state_the_streams(video, tmp_path):
    assert video_streams(video) == (True, True)
    assert video_streams(write_video(tmp_path / "mute.mp4", sound=False, seconds=1.0)) == (False, True)
    assert video_streams(write_video(tmp_path / "dark.mkv", pictures=False, seconds=1.0)) == (True, False)


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.avi", "d.mov"])
def test_containers_give_the_same_frames_and_sound(tmp_path, name):
    path = write_video(tmp_path / name, seconds=2.0)
    assert indices(video_frames(path)) == pytest.approx([5, 15], abs=1)
    assert video_sound(path, RATE).shape[-1] == pytest.approx(2 * RATE, abs=1_100)  # a frame of AAC


def refused(read, *arguments, **options):
    with pytest.raises(VideoError) as caught:
        list(read(*arguments, **options))
    assert "\n" not in str(caught.value)
    return caught.value


def test_each_problem_of_a_video_is_refused(tmp_path, video):
    mute = write_video(tmp_path / "mute.mp4", sound=False, seconds=1.0)
    assert refused(video_sound, mute, RATE).problem == "no sound"
    dark = write_video(tmp_path / "dark.mkv", pictures=False, seconds=1.0)
    assert refused(video_frames, dark).problem == "no picture"
    assert refused(video_frames, tmp_path / "none.mp4").problem == "missing"
    (tmp_path / "empty.mp4").touch()
    assert refused(video_streams, tmp_path / "empty.mp4").problem == "empty"
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    assert refused(video_streams, tmp_path / "text.mp4").problem == "unreadable"
    assert refused(video_frames, video, start_s=60.0).problem == "empty"
    assert refused(video_sound, video, RATE, start_s=60.0).problem == "empty"
    with pytest.raises(ValueError, match="frame_rate"):
        next(video_frames(video, 0.0))


def test_truncated_videos_are_refused(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", seconds=6.0)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert refused(video_streams, cut).problem == "unreadable"  # its index stood at the end
    faststart = write_video(tmp_path / "fast.mp4", seconds=6.0, options={"movflags": "faststart"})
    cut.write_bytes(faststart.read_bytes()[: faststart.stat().st_size // 2])
    assert refused(video_frames, cut).problem == "truncated"
    assert refused(video_sound, cut, RATE).problem == "truncated"
    assert len(list(video_frames(cut, duration_s=1.0))) == 1  # what is there can be used


def test_missing_pyav_is_named_with_its_install_line(monkeypatch, video):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install av"):
        video_streams(video)


def test_folders_are_searched_by_extension(tmp_path):
    for name in ("b.MP4", "sub/a.webm", ".hidden/c.mp4", "notes.txt", ".d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in video_files(tmp_path)] == ["b.MP4", "a.webm"]
    with pytest.raises(UserError, match="there is no folder"):
        video_files(tmp_path / "nowhere")
