"""Fine-tuning brings a converter nearer to one voice, on held-out recordings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.audio import save
from engine.checkpoint import export
from engine.config import cli
from engine.user_error import UserError
from w2w.cluit.losses import SpectralDistance
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork
from w2w.pretrained import PretrainedConfig, with_encoders
from w2w.train import build, train
from w2w.train_config import PRESETS, TrainConfig

RATE = 16_000


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny, buzz):
    """A converter before and after some steps on one low voice, and held-out recordings of it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("finetune")
    config = tiny()
    before = export(folder / "before", config, ConverterNetwork(config))
    for number, f0 in enumerate((96.0, 100.0, 104.0, 108.0)):
        save(folder / f"mine/{number}.wav", buzz(2 * RATE, (f0,)), RATE)
    preset = PRESETS["finetune"]
    run = replace(
        preset,
        finetune=str(before),
        teacher="",
        loop=replace(preset.loop, out=folder / "run", steps=30, trackers="none", cpu=True),
        data=replace(
            preset.data, path=str(folder / "mine"), batch=4, crop_samples=6_400, reference_samples=8_000
        ),
        optim_converter=replace(preset.optim_converter, lr=2e-3),
    )
    train(run)
    held_out = torch.cat([buzz(RATE, (f0,)) for f0 in (98.0, 106.0)])
    return before, folder / "run/export", held_out


def distance(converter: Converter, waves: torch.Tensor) -> float:
    """Spectral distance between recordings and their reconstruction."""
    made = [converter.convert(wave[None], converter.embed(wave[None])) for wave in waves]
    return float(SpectralDistance(RATE)(torch.cat(made), waves))


def test_fine_tuning_improves_held_out_recordings(tuned):
    before, after, held_out = tuned
    untuned, better = (distance(Converter.from_pretrained(folder), held_out) for folder in (before, after))
    assert better < 0.9 * untuned


def test_export_holds_the_speakers_voice_as_own(tuned):
    before, after, _ = tuned
    converter = Converter.from_pretrained(after)
    assert (after / "voice.safetensors").is_file()
    voice = converter.voice("own")
    recordings = [converter.embed(clip) for clip in mine(after.parents[1] / "mine", converter)]
    torch.testing.assert_close(voice, torch.stack(recordings).mean(0))
    with pytest.raises(UserError, match="no voice 'own'"):
        Converter.from_pretrained(before).voice("own")


def mine(folder: Path, converter: Converter) -> list[torch.Tensor]:
    from data.audio import audio_files, load

    return [load(path, converter.sample_rate) for path in audio_files(folder)]


def test_initial_weights_with_another_f0_look_ahead_are_refused():
    config, near = PRESETS["files"], PretrainedConfig(pitch="released")
    converter = with_encoders(config.converter, near)
    config = replace(config, init="released", teacher="", converter=converter, pretrained=near)
    with pytest.raises(UserError, match=r"16 frames more look-ahead .*released_ahead"):
        build(config)


def test_option_alone_chooses_the_preset(capsys):
    config: TrainConfig = cli(PRESETS, default="finetune", argv=["--data.path", "mine"])
    assert config.finetune == "released"
    assert config.optim_converter.lr < PRESETS["small"].optim_converter.lr
    with pytest.raises(SystemExit):
        cli(PRESETS, argv=["--finetune", "a", "--init", "b"])
    assert "exclude each other" in capsys.readouterr().err
