"""Mel converters as systems of an evaluation: their names, their vocoders, and refused arguments."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.audio import save
from data.frontends import NAMED
from engine.checkpoint import export
from engine.user_error import UserError
from eval import run
from eval.outputs import load_two_stage, readable
from vocoders.hifigan import V2_16K, HiFiGAN
from vocoders.vocoder import VocoderConfig
from w2w.baselines.cluit_mel.config import CluitMelConfig
from w2w.baselines.cluit_mel.network import CluitMelNetwork
from w2w.baselines.mel_converter import MelConverterConfig

ROAD = CluitMelConfig(crop_frames=32, n_channels=4, max_channels=8, n_bottleneck=1, style_dim=4)
HIFIGAN = replace(V2_16K, channels=16)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A mel converter with a vocoder of its own beside it, and another vocoder."""
    monkeypatch.chdir(tmp_path)
    config = VocoderConfig(mel=NAMED["speech16k"], network=HIFIGAN)
    for folder in ("runs/road/export/vocoder", "runs/tuned/export"):
        export(folder, config, HiFiGAN(HIFIGAN).fold())
    road = MelConverterConfig(road=ROAD, vocoder="vocoder")
    export("runs/road/export", road, CluitMelNetwork(ROAD))
    return tmp_path


def test_system_names_come_from_folders_and_repetitions_are_numbered(here):
    export_of = "runs/road/export"
    named = [export_of, f"{export_of}+griffin_lim", f"{export_of}+runs/tuned/export", export_of]
    found = load_two_stage(named, taken={"converter", "road"})
    assert list(found) == ["road_2", "road+griffin_lim", "road+tuned", "road_3"]
    own, lim, other, again = (made.network.vocoder for made in found.values())
    assert "GriffinLim" in type(lim.network).__name__
    mel = torch.randn(1, 80, 8) - 5
    assert torch.equal(own(mel), again(mel))
    assert not torch.equal(own(mel), other(mel))


def test_folder_name_may_contain_a_plus(here):
    Path("runs/road").rename("runs/road+more")
    assert list(load_two_stage(["runs/road+more/export"], ())) == ["road+more"]
    assert readable("runs/road/export/") == "road"


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("runs/tuned/export", "holds no mel converter: use --converter for others"),
        ("runs/road/export+nothing", "vocoder 'nothing' is unknown"),
        ("runs/nowhere", "there is no folder runs/nowhere"),
    ],
)
def test_other_folders_and_unknown_vocoders_are_refused(here, where, sentence):
    with pytest.raises(UserError, match=sentence):
        load_two_stage([where], ())


def rows() -> list[dict[str, str]]:
    with Path("report/rows.csv").open() as file:
        return list(csv.DictReader(file))


def test_mel_converters_are_scored_with_and_without_a_converter(here, monkeypatch, capsys):
    pytest.importorskip("pyworld", reason="pyworld is not installed")
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    lines = ["source,target,output,text,system"]
    for name, f0 in (("a", 120.0), ("b", 180.0)):
        time = torch.arange(8_000) / 16_000
        wave = sum(torch.sin(2 * torch.pi * f0 * k * time) / k for k in range(1, 12))
        save(f"{name}.wav", 0.2 * wave[None, None], 16_000)
    lines.append("a.wav,b.wav,,,x")
    Path("pairs.csv").write_text("\n".join(lines) + "\n")
    flags = "eval/run.py --pairs pairs.csv --metrics pitch --jobs 1 --cache cache --examples 1 --no-baselines"
    monkeypatch.setattr(sys, "argv", [*flags.split(), "--two-stage", "runs/road/export"])
    run.main()
    assert {row["system"] for row in rows()} == {"road"}

    class Same:
        sample_rate = 16_000

        def embed(self, wave):
            return torch.zeros(1, 1)

        def convert(self, wave, voice):
            return wave

    monkeypatch.setattr(run, "load_converter", lambda folder: Same())
    more = ["--two-stage", "runs/road/export", "runs/road/export+griffin_lim", "--converter", "x"]
    monkeypatch.setattr(sys, "argv", [*flags.split(), *more, "--overwrite"])
    run.main()
    assert [row["system"] for row in rows()] == ["converter", "road", "road+griffin_lim"]
    for row in rows():
        assert (Path("report") / row["output"]).is_file()
