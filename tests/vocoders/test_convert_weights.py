"""``python -m vocoders.convert_weights``: published files become exports; errors write nothing."""

import json

import pytest
import torch
from torch.testing import assert_close

from engine.checkpoint import load_weights
from vocoders import load_vocoder
from vocoders.convert_weights import main
from vocoders.discriminators import (
    MelGANCriticConfig,
    MultiPeriodConfig,
    MultiScaleConfig,
    build_discriminator,
)
from vocoders.melgan import MelGAN, MelGANConfig
from vocoders.published.layout import from_published, to_published


def error_message(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in argv])
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_published_generator_is_converted_to_an_export(published, tmp_path, capsys):
    theirs = published("hifigan_v3_generator")
    torch.save({"generator": theirs["state_dict"]}, tmp_path / "g_1")
    (tmp_path / "config_v3.json").write_text(json.dumps(theirs["config"]))
    out = tmp_path / "v3"
    main([str(tmp_path / "g_1"), "--config", str(tmp_path / "config_v3.json"), "--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert "exported to" in capsys.readouterr().out
    assert (out / "model.safetensors").stat().st_size < (tmp_path / "g_1").stat().st_size
    vocoder = load_vocoder(str(out))
    assert_close(vocoder.network(theirs["input"]), theirs["output"], rtol=0, atol=1e-5)


def test_discriminators_are_converted_to_a_checkpoint(published, tmp_path):
    theirs = published("hifigan_v3_generator")
    critics = {kind: published(f"hifigan_{kind}_tiny")["state_dict"] for kind in ("mpd", "msd")}
    torch.save({"generator": theirs["state_dict"]}, tmp_path / "g_1")
    torch.save({**critics, "steps": 1, "epoch": 1}, tmp_path / "do_1")
    main(
        [str(tmp_path / w) for w in ("g_1",)]
        + ["--discriminators", str(tmp_path / "do_1"), "--out", str(tmp_path / "v3")]
    )
    begin = tmp_path / "v3/checkpoints/step_00000000"
    state = load_weights(begin / "critics.safetensors")
    ours = torch.nn.ModuleDict(
        {
            "periods": build_discriminator(MultiPeriodConfig(channels=(4, 8, 16, 32, 32))),
            "scales": build_discriminator(MultiScaleConfig(channels=(16, 16, 32, 32, 64, 64, 64))),
        }
    )
    ours.load_state_dict(state)
    expected = from_published(theirs["state_dict"])
    assert load_weights(begin / "network.safetensors").keys() == expected.keys()


def test_melgan_files_are_converted(tmp_path):
    config = MelGANConfig(channels=2)
    torch.save(to_published(MelGAN(config).state_dict()), tmp_path / "netG.pt")
    critic = build_discriminator(MelGANCriticConfig(channels=4, max_channels=16))
    torch.save(to_published(critic.state_dict()), tmp_path / "netD.pt")
    main(f"{tmp_path / 'netG.pt'} --discriminators {tmp_path / 'netD.pt'} --out {tmp_path / 'out'}".split())
    assert load_vocoder("melgan", tmp_path / "out").config.network == config
    state = load_weights(tmp_path / "out/checkpoints/step_00000000/critics.safetensors")
    torch.nn.ModuleDict({"windows": critic}).load_state_dict(state)


def test_export_converts_to_itself(tmp_path):
    torch.save(to_published(MelGAN(MelGANConfig(channels=2)).state_dict()), tmp_path / "netG.pt")
    main([str(tmp_path / "netG.pt"), "--vocoder", "melgan", "--out", str(tmp_path / "one")])
    main([str(tmp_path / "one"), "--out", str(tmp_path / "two")])
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_user_errors_are_reported_and_write_nothing(tmp_path, capsys):
    file, out = tmp_path / "netG.pt", tmp_path / "out"
    torch.save(to_published(MelGAN(MelGANConfig(channels=2)).state_dict()), file)
    critic = tmp_path / "netD.pt"
    torch.save(
        to_published(build_discriminator(MelGANCriticConfig(channels=4, max_channels=16)).state_dict()),
        critic,
    )
    assert "no weights file" in error_message(capsys, tmp_path / "none.pt", "--out", out)
    assert "melgan weights, not hifigan" in error_message(capsys, file, "--vocoder", "hifigan", "--out", out)
    assert "invalid choice" in error_message(capsys, file, "--vocoder", "hifigun", "--out", out)
    assert "give the generator's file" in error_message(capsys, critic, "--out", out)
    assert "where discriminators" in error_message(capsys, file, "--discriminators", file, "--out", out)
    assert "is also the input" in error_message(capsys, tmp_path, "--out", tmp_path)
    assert "is a file" in error_message(capsys, file, "--out", critic)
    assert "no published configuration" in error_message(
        capsys, file, "--config", _json(tmp_path), "--out", out
    )
    assert "melgun" in error_message(capsys, tmp_path / "netG.pt", "--mel", "melgun", "--out", out)
    assert not out.exists()


def _json(folder):
    path = folder / "config.json"
    path.write_text("{}")
    return path
