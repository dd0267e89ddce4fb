"""Training from an exported vocoder (``--init``): initial weights, and errors for unsuitable exports."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.audio import save
from data.frontends import NAMED
from engine.checkpoint import export
from engine.config import save_config
from engine.user_error import UserError
from vocoders import load_vocoder, loading
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.hifigan import HiFiGAN
from vocoders.melgan import MELGAN_16K, MelGAN
from vocoders.tasks.presets import PRESETS
from vocoders.train import build, main
from vocoders.vocoder import VocoderConfig

TINY = PRESETS["tiny"]
MELGAN = replace(MELGAN_16K, channels=2)
SPEECH = NAMED["speech16k"]


def exported(folder, network=TINY.task.network, mel=SPEECH, **more):
    made = HiFiGAN(network) if type(network).__name__ == "HiFiGANConfig" else MelGAN(network)
    return export(folder, VocoderConfig(mel=mel, network=network, **more), made.fold())


@pytest.mark.parametrize("network", [TINY.task.network, MELGAN], ids=["hifigan", "melgan"])
def test_training_starts_from_the_exported_weights(tmp_path, network):
    folder = exported(tmp_path / "export", network)
    task = build(replace(TINY, task=replace(TINY.task, network=network), init=str(folder)), [])
    mel = torch.randn(1, 80, 20) - 5
    with torch.no_grad():
        expected = load_vocoder(str(folder))(mel)
        for name in ("network", "network_ema"):
            assert_close(task.modules[name](mel), expected, rtol=0, atol=1e-5)
    # It is trained under weight norm, which an export has no more.
    assert any(name.endswith("weight.original0") for name, _ in task.modules["network"].named_parameters())


def test_init_released_loads_the_packaged_vocoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "RELEASED", exported(tmp_path / "package"))
    task = build(replace(TINY, init="released"), [])
    mel = torch.randn(1, 80, 20) - 5
    with torch.no_grad():
        assert_close(task.modules["network"](mel), load_vocoder("released")(mel), rtol=0, atol=1e-5)


def test_hifigan_small_starts_from_released_hifigan():
    if not (loading.RELEASED.parent / "released_hifigan" / "config.json").is_file():
        pytest.skip("no vocoder is released with this copy")
    build(replace(PRESETS["hifigan_small"], init="released_hifigan"), [])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: exported(folder, replace(TINY.task.network, channels=32)), "channels 32, not 16"),
        (
            lambda folder: exported(folder, MELGAN),
            "is a MelGANConfig with kind MelGANConfig, not HiFiGAN",
        ),
        (lambda folder: exported(folder, mel=NAMED["speech16k_causal"]), "padding is same instead of causal"),
        (lambda folder: exported(folder, gain=2.0), "gain=2.0"),
        (
            lambda folder: save_config(
                VocoderConfig(mel=SPEECH, network=GriffinLimConfig()), folder / "config.json"
            ),
            "no weights to start training from",
        ),
        (lambda folder: folder.mkdir(), "neither a checkpoint of a run nor an exported vocoder"),
    ],
    ids=["size", "network", "mel", "gain", "griffin_lim", "nothing"],
)
def test_unsuitable_init_is_refused(tmp_path, make, sentence):
    make(tmp_path / "export")
    with pytest.raises(UserError, match=sentence):
        build(replace(TINY, init=str(tmp_path / "export")), [])


def test_command_trains_from_an_export_with_new_discriminators(tmp_path, hum, monkeypatch, capsys):
    for number, f0 in enumerate((110.0, 150.0)):
        save(tmp_path / "speech" / f"{number}.wav", hum(9_000, (f0,)), 16_000)
    folder = exported(tmp_path / "export")
    line = (
        f"train --preset tiny --init {folder} --data.path {tmp_path / 'speech'} "
        f"--loop.out {tmp_path / 'run'} --loop.steps 3 --loop.cpu --loop.sample-every 0 --loop.trackers none"
    )
    monkeypatch.setattr("sys.argv", [*line.split(), "--task.network.channels", "32"])
    with pytest.raises(SystemExit):
        main()
    refused = capsys.readouterr()
    assert not refused.out
    assert "channels 16, not 32" in refused.err
    monkeypatch.setattr("sys.argv", line.split())
    main()
    assert "begin afresh" in capsys.readouterr().out
    main()  # continued, or rather found finished: nothing begins any more
    assert "begin afresh" not in capsys.readouterr().out
    assert load_vocoder(str(tmp_path / "run")).mel == SPEECH
