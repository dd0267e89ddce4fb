"""Scenes are found in each layout with their metadata; incomplete ones are reported and skipped."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_videos import RATE, write_video
from torch.testing import assert_close

from data.audio import save
from data.audiovisual.finding import scenes_from
from data.audiovisual.scenes import Scene, each_picture, read_picture, wave_of
from engine.user_error import UserError

pytest.importorskip("av")


def write_sound(path, seconds=1.0, level=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, torch.linspace(-level, level, round(seconds * RATE))[None, None], RATE)
    return path


def write_picture(path, colour="red", size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def silent(call, *arguments, **options):
    """Call with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call(*arguments, **options)


def test_video_folders_define_labels_and_splits(tmp_path):
    for name in ("train/dog/a.mp4", "train/cat/b.mp4", "val/cat/c.mp4"):
        write_video(tmp_path / name, seconds=1.0)
    scenes = silent(scenes_from, tmp_path)
    assert [(s.name, s.label, s.split) for s in scenes] == [
        ("train/cat/b.mp4", "cat", "train"),
        ("train/dog/a.mp4", "dog", "train"),
        ("val/cat/c.mp4", "cat", "validation"),
    ]
    assert torch.stack(list(each_picture(scenes[0]))).shape == (1, 3, 32, 48)
    assert wave_of(scenes[0], 4_000).shape[-1] == pytest.approx(4_000, abs=600)
    assert [s.name for s in scenes_from(tmp_path, split="validation")] == ["val/cat/c.mp4"]
    with pytest.raises(UserError, match="no scene of the split 'test'"):
        scenes_from(tmp_path, split="test")


def test_videos_without_sound_or_pictures_are_reported(tmp_path):
    write_video(tmp_path / "good.mp4", seconds=1.0)
    write_video(tmp_path / "mute.mp4", seconds=1.0, sound=False)
    write_video(tmp_path / "dark.mkv", seconds=1.0, pictures=False)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:900])
    with pytest.warns(
        UserWarning, match=r"3 of 4 scenes .*cut\.mp4.*dark\.mkv has no picture.*mute\.mp4 has no sound"
    ):
        scenes = scenes_from(tmp_path)
    assert [s.name for s in scenes] == ["good.mp4"]
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(UserError, match="none of the 3 scenes"):
        scenes_from(tmp_path)


def test_vggsound_is_read_from_cut_and_whole_videos(tmp_path):
    write_video(tmp_path / "video" / "-abc_000030.mp4", seconds=1.0)
    write_video(tmp_path / "video" / "def_7.mp4", seconds=1.0)
    write_video(tmp_path / "video" / "whole.mkv", seconds=12.0, frame_rate=5)
    lines = [
        "-abc,30,people marching,test",
        'def,7,"dog, barking",train',
        "whole,1,wind,train",
        "gone,5,rain,train",
    ]
    (tmp_path / "vggsound.csv").write_text("\n".join(lines) + "\n")
    for place in (tmp_path, tmp_path / "vggsound.csv"):
        with pytest.warns(UserWarning, match="1 of 4 videos .*: gone_000005"):
            scenes = scenes_from(place)
        assert [(s.name, s.label, s.split) for s in scenes] == [
            ("-abc_000030", "people marching", "test"),
            ("def_000007", "dog, barking", "train"),
            ("whole_000001", "wind", "train"),
        ]
    assert wave_of(scenes[2], RATE).shape[-1] == 10 * RATE
    assert len(list(each_picture(scenes[2]))) == 10
    (tmp_path / "vggsound.csv").write_text("gone,5,rain,train\n")
    with pytest.raises(UserError, match="none of the 1 videos"):
        scenes_from(tmp_path)
    (tmp_path / "vggsound.csv").write_text("a,5,rain,train\nb,five,rain,train\n")
    with pytest.raises(UserError, match="line 2"):
        scenes_from(tmp_path)


@pytest.mark.parametrize(("sounds", "pictures"), [(".", "."), ("audio", "images")])
def test_files_of_equal_name_are_paired(tmp_path, sounds, pictures):
    for name in ("a", "b"):
        write_sound(tmp_path / sounds / f"{name}.wav")
        write_picture(tmp_path / pictures / f"{name}.png")
    write_sound(tmp_path / sounds / "alone.flac")
    with pytest.warns(UserWarning, match=r"1 of 3 names .*not both.*alone"):
        scenes = scenes_from(tmp_path)
    assert [s.name for s in scenes] == ["a", "b"]
    assert torch.stack(list(each_picture(scenes[1]))).shape == (1, 3, 10, 12)
    assert wave_of(scenes[0], RATE).shape == (1, 1, RATE)


def test_folder_without_pairs_is_refused(tmp_path):
    write_sound(tmp_path / "a.wav")
    write_picture(tmp_path / "b.png")
    with pytest.raises(UserError, match="no picture and sound of equal name"):
        scenes_from(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no scenes"):
        scenes_from(tmp_path / "empty")
    with pytest.raises(UserError, match="there is no folder"):
        scenes_from(tmp_path / "nowhere" / "at" / "all")


def test_scene_manifest_gives_pictures_captions_labels_and_segments(tmp_path):
    write_sound(tmp_path / "a.wav", seconds=3.0)
    write_picture(tmp_path / "p.png", "blue")
    write_picture(tmp_path / "q.png", "lime")
    write_video(tmp_path / "v.mkv", seconds=2.0)
    (tmp_path / "metadata.csv").write_text(
        "path,picture,caption,caption_1,label,split,start,duration,colour\n"
        "a.wav,p.png;q.png,a dog,barking,dog,dev,1.0,0.5,red\n"
        "v.mkv,,a ramp,,,train,,,\n"
    )
    first, second = silent(scenes_from, tmp_path)
    assert (first.caption, first.captions, first.label, first.split) == (
        "a dog",
        ["a dog", "barking"],
        "dog",
        "validation",
    )
    assert first.extra["colour"] == "red"
    assert torch.stack(list(each_picture(first)))[:, 2, 0, 0].tolist() == [255, 0]
    whole = wave_of(first._replace(start_s=0.0, duration_s=None), RATE)
    assert_close(wave_of(first, RATE), whole[..., RATE : RATE + RATE // 2])
    assert second.pictures == second.audio == tmp_path / "v.mkv"
    assert len(list(each_picture(second))) == 2


def test_scene_manifest_without_pictures_is_refused(tmp_path):
    write_sound(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("path,caption\na.wav,a dog\n")
    with pytest.raises(UserError, match="no pictures for its sounds"):
        scenes_from(tmp_path)


def test_missing_files_of_a_scene_manifest_are_reported(tmp_path):
    write_sound(tmp_path / "a.wav")
    write_picture(tmp_path / "p.png")
    (tmp_path / "metadata.csv").write_text("path,picture\na.wav,p.png\na.wav,gone.png\ngone.wav,p.png\n")
    with pytest.warns(
        UserWarning, match=r"2 of 3 scenes .*gone\.png does not exist.*gone\.wav does not exist"
    ):
        assert len(scenes_from(tmp_path)) == 1


@pytest.mark.parametrize("inside", [True, False])
def test_audio_and_image_datasets_are_read_without_decoding(tmp_path, inside, monkeypatch):
    import datasets

    rows = []
    for number, colour in enumerate(("red", "blue")):
        sound = write_sound(tmp_path / "files" / f"{number}.wav", level=0.5 + number / 4)
        picture = write_picture(tmp_path / "files" / f"{number}.png", colour)
        packed = {
            "sound": {"bytes": sound.read_bytes(), "path": None},
            "photo": {"bytes": picture.read_bytes(), "path": None},
        }
        plain = {"sound": {"bytes": None, "path": str(sound)}, "photo": {"bytes": None, "path": str(picture)}}
        rows.append((packed if inside else plain) | {"caption": ["one", f"two {number}"], "label": number})
    features = datasets.Features(
        sound={"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        photo={"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        caption=datasets.List(datasets.Value("string")),
        label=datasets.ClassLabel(names=["dog", "cat"]),
    )
    table = datasets.Dataset.from_list(rows, features=features)
    typed = table.features | {"sound": datasets.Audio(decode=False), "photo": datasets.Image(decode=False)}
    table = table.cast(datasets.Features(typed))
    datasets.DatasetDict(train=table).save_to_disk(str(tmp_path / "disk"))
    monkeypatch.chdir(tmp_path)  # sounds and pictures are written to runs/scenes
    scenes = silent(scenes_from, tmp_path / "disk")
    assert [(s.label, s.split, s.captions) for s in scenes] == [
        ("dog", "train", ["one", "two 0"]),
        ("cat", "train", ["one", "two 1"]),
    ]
    assert torch.stack(list(each_picture(scenes[1])))[0, :, 0, 0].tolist() == [0, 0, 255]
    assert wave_of(scenes[1], RATE).max() == pytest.approx(0.75, abs=1e-3)


def test_pictures_are_read_upright_in_rgb(tmp_path):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[0, :, 1] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == (3, 6, 4)
    assert picture[1, :, -1].tolist() == [200] * 6
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged or not a picture"):
        read_picture(tmp_path / "b.jpg")


def test_scenes_without_sound_or_picture_raise():
    bare = Scene(name="x", audio=None, pictures=())
    with pytest.raises(UserError, match="the scene x has no sound"):
        wave_of(bare, RATE)
    with pytest.raises(UserError, match="the scene x has no picture"):
        next(each_picture(bare))
