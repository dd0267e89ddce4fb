"""Copy synthesis with stand-in vocoders: Griffin-Lim made louder, and one that returns NaN."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vocoders
from data.audio import save
from data.frontends import SPEECH_16K, MelConfig, named_mel
from engine.user_error import UserError
from eval import copy_synthesis
from eval.copy_synthesis import COLUMNS, table
from eval.scoring import interval, summarise
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig

RATE = 16_000


class Config:
    def __init__(self, mel: MelConfig) -> None:
        self.mel = mel


class Fake(nn.Module):
    """Griffin-Lim, a little louder; or NaN."""

    def __init__(self, name: str, mel: MelConfig = SPEECH_16K) -> None:
        super().__init__()
        self.config, self.name = Config(mel), name
        self.inner = GriffinLim(GriffinLimConfig(iterations=2), mel)

    def forward(self, mel: Tensor) -> Tensor:
        return self.inner(mel) * (float("nan") if "nan" in self.name else 1.1)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Fake:
        return Fake(name, named_mel("hifigan" if "22k" in name else "speech16k"))

    monkeypatch.setattr(vocoders, "load_vocoder", load, raising=False)
    for judge in ("rate_quality", "rate_words"):
        monkeypatch.setattr(copy_synthesis, judge, lambda rows, *more: [])
    monkeypatch.setattr(copy_synthesis, "GriffinLimConfig", lambda: GriffinLimConfig(iterations=2))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    time = torch.arange(RATE // 2) / RATE
    for speaker, f0 in (("anna", 200.0), ("bert", 110.0)):
        for number in range(2):
            partials = [torch.sin(2 * torch.pi * k * (f0 + 10 * number) * time) / k for k in range(1, 20)]
            save(tmp_path / "corpus" / speaker / f"{number}.wav", 0.1 * torch.stack(partials).sum(0), RATE)
    return tmp_path / "corpus"


def run(corpus: Path, out: Path, *words: str) -> list[dict[str, str]]:
    copy_synthesis.main.__wrapped__(["--data", str(corpus), "--split", "train", "--out", str(out), *words])
    with (out / "rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_by_adds_a_row_per_value_of_a_column(corpus: Path, tmp_path: Path) -> None:
    lines = [f"{s}/{n}.wav,{s},{'en' if s == 'anna' else 'zh'}" for s in ("anna", "bert") for n in range(2)]
    (corpus / "metadata.csv").write_text("\n".join(["path,speaker,language", *lines]) + "\n")
    rows = run(corpus, tmp_path / "out", "--vocoder", "runs/loud/export", "--by", "language")
    systems = json.loads((tmp_path / "out/summary.json").read_text())["systems"]
    own = [float(row["log_mel_l1"]) for row in rows if (row["system"], row["speaker"]) == ("loud", "bert")]
    assert systems["loud, zh"]["log_mel_l1"]["mean"] == pytest.approx(sum(own) / 2, abs=1e-5)
    assert {"loud, en", "loud, zh", "Griffin-Lim, en"} <= set(systems)
    with pytest.raises(UserError, match="--by accent"):
        run(corpus, tmp_path / "again", "--by", "accent")


def test_every_system_copies_every_recording(corpus: Path, tmp_path: Path) -> None:
    rows = run(corpus, tmp_path / "out", "--vocoder", "runs/loud/export")
    systems = ["loud", "Griffin-Lim", "WORLD", "original"]
    assert [row["system"] for row in rows] == [system for system in systems for _ in range(4)]
    assert {row["speaker"] for row in rows} == {"anna", "bert"}
    for row in rows:
        assert (tmp_path / "out" / row["output"]).is_file()
        assert (row["log_mel_l1"] == "") == (row["system"] == "original")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["utterances"] == 4
    assert summary["vocoders"] == {"loud": "runs/loud/export"}
    scored = summary["systems"]["loud"]["vuv_f1"]
    assert scored["low"] <= scored["mean"] <= scored["high"]
    assert "| loud" in (tmp_path / "out/table.md").read_text()


def test_griffin_lim_runs_once_per_mel_definition(corpus: Path, tmp_path: Path) -> None:
    words = ["--vocoder", "a", "b", "--vocoder", "c_22k", "--n-utterances", "1"]
    rows = run(corpus, tmp_path / "out", *words)
    names = list(dict.fromkeys(row["system"] for row in rows))
    griffin = ["Griffin-Lim on the mel of a, b", "Griffin-Lim on the mel of c_22k"]
    assert names == ["a", "b", "c_22k", *griffin, "WORLD", "original"]


def test_few_utterances_are_spread_over_speakers(corpus: Path, tmp_path: Path) -> None:
    rows = run(corpus, tmp_path / "out", "--n-utterances", "2")
    assert {row["speaker"] for row in rows if row["system"] == "original"} == {"anna", "bert"}


def test_vocoder_returning_nan_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nan turned the mel of .*wav into NaN"):
        run(corpus, tmp_path / "out", "--vocoder", "nan")


def test_unknown_split_and_option_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no recordings in split 'exam'"):
        run(corpus, tmp_path / "out", "--split", "exam")
    with pytest.raises(UserError, match="did you mean --vocoder"):
        run(corpus, tmp_path / "out", "--vocodr", "x")


def test_labels_are_folder_names_unless_these_repeat() -> None:
    assert copy_synthesis.label(["runs/a/export", "runs/b"]) == ["a", "b"]
    assert copy_synthesis.label(["x/a/export", "y/a"]) == ["x/a/export", "y/a"]


def test_interval_resamples_speakers_not_recordings() -> None:
    values = np.repeat([0.0, 1.0], 50)
    found = interval(values, np.repeat(["a", "b"], 50))
    assert (found["mean"], found["low"], found["high"], found["n"]) == (0.5, 0.0, 1.0, 100)
    narrow = interval(values)
    assert 0.35 < narrow["low"] < 0.5 < narrow["high"] < 0.65


def test_missing_score_is_a_dash() -> None:
    rows = [
        {"system": "a", "speaker": "x", "log_mel_l1": 0.5, "pesq": float("nan")},
        {"system": "b", "speaker": "x", "pesq": 2.0},
    ]
    text = table(summarise(rows, list(COLUMNS), drawn="speaker"))
    assert "–" in text
    assert "nan" not in text
