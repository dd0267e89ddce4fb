"""The watermark study's changes do what their names say, and false alarms are counted."""

import pytest
import torch

from data.audio import save
from experiments.watermark import __main__ as study
from experiments.watermark.changes import changes, coded, has_codecs, unmarked
from w2w import Converter
from w2w.networks.config import ConverterConfig
from w2w.networks.network import ConverterNetwork
from w2w.watermark import Marker


@pytest.fixture
def talk():
    """Two seconds of a frequency sweep in noise."""
    time = torch.arange(32_000) / 16_000
    return (0.2 * torch.sin(2_000 * time + 1_500 * time**2) + 0.02 * torch.randn(32_000))[None, None]


def test_unmarked_inverts_the_watermark(talk):
    assert (unmarked(Marker(16_000).mark(talk)) - talk).abs().max() < 1e-4


@pytest.mark.skipif(not has_codecs(), reason="PyAV is not installed")
@pytest.mark.parametrize(("codec", "kilobits"), [("mp3", 64), ("opus", 32), ("aac", 64)])
def test_codecs_return_the_same_signal_with_a_delay(talk, codec, kilobits):
    back = coded(talk, codec=codec, kilobits=kilobits)[0, 0]
    assert abs(len(back) - talk.shape[-1]) < 4_000
    length = 1 << 17
    crossed = torch.fft.irfft(torch.fft.rfft(back, length) * torch.fft.rfft(talk[0, 0], length).conj())
    assert crossed.max() > 0.5 * talk.square().sum()


def test_every_change_yields_a_valid_wave(talk):
    converter = Converter(ConverterNetwork(ConverterConfig()))
    others = 0.1 * torch.randn(1, 1, 40_000)
    for name, change in changes(converter, converter.embed(talk), others).items():
        changed = change(talk)
        assert changed.shape[:2] == (1, 1), name
        assert changed.isfinite().all(), name
        assert changed.shape[-1] > 20_000, name
        assert name == "nothing" or not torch.equal(changed, talk), name


def test_middle_has_the_requested_duration(talk):
    assert study.middle(talk, 0.5).shape == (1, 1, 8_000)
    assert study.middle(talk, 9.0).shape == talk.shape


def test_false_alarms_are_counted_by_kind(talk, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "KEYS", 3)
    monkeypatch.setattr(study, "converted", lambda converter, rows: iter([Marker(16_000).mark(talk)]))
    save(tmp_path / "sounds/a.wav", talk, 16_000)
    study.false_alarms(Converter(ConverterNetwork(ConverterConfig())), [], str(tmp_path / "sounds"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["conversions"][:5] == ["1"] * 5  # this one is marked: an alarm
    assert cells["other sounds"][0] == "1"
    assert cells["other sounds"][4] == "0"
    assert "recordings of speech" not in cells
    assert cells["4.265"][2] == "0"
