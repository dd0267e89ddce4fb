"""Scalars, audio and pictures of a run are logged to TensorBoard."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.loop import accelerator
from engine.tracking import mel_picture
from engine.user_error import UserError


def events(out: Path) -> EventAccumulator:
    found = EventAccumulator(str(out / "log"), size_guidance={"scalars": 0, "images": 0, "audio": 0})
    found.Reload()
    return found


def test_scalars_audio_and_pictures_are_logged_and_resumed(toy, tmp_path):
    loop = replace(toy.BASE.loop, out=tmp_path, steps=6)
    toy.train(replace(toy.BASE, loop=loop))
    toy.train(replace(toy.BASE, loop=replace(loop, steps=10)))
    log = events(tmp_path)
    wanted = {"loss/maker/adversarial", "grad/critic", "lr/maker", "skipped/maker", "time/data_share"}
    assert wanted < set(log.Tags()["scalars"])
    assert [e.step for e in log.Scalars("loss/maker/adversarial")] == [3, 6, 9, 10]
    assert [(e.step, e.value) for e in log.Scalars("eval/score")] == [(5, 5.0), (6, 6.0), (10, 10.0)]
    sound = log.Audio("audio/noise")[-1]
    assert (sound.sample_rate, sound.length_frames) == (8000, 800)
    picture = log.Images("mel/noise")[-1]
    assert (picture.width, picture.height) == (60, 24)


def test_mel_picture_is_brighter_for_louder_bands_and_low_at_the_bottom():
    mel = torch.zeros(4, 6)
    mel[0] = 1.0  # the lowest band
    picture = mel_picture(mel, scale=2)
    assert picture.shape == (3, 8, 12)
    assert (picture[:, -1].min(), picture[:, 0].max()) == (191, 4)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_missing_tracker_is_refused(toy):
    with pytest.raises(UserError, match="wandb is not installed: pip install wandb"):
        accelerator(replace(toy.BASE.loop, trackers="wandb"))
