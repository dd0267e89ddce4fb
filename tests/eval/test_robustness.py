"""The robustness command: one table row per condition, output levels in silence, unknown conditions."""

import csv
import json
from pathlib import Path

import pytest
import torch

from data.audio import save
from data.manifest import Row, write_manifest
from engine.user_error import UserError
from eval import robustness
from eval.outputs import Voices
from eval.pairs import Pair
from eval.robustness import RobustnessConfig, in_silence

RATE = 16_000


class Hissing:
    """A converter that adds noise of -40 dBFS to its input."""

    sample_rate = RATE

    def embed(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.abs().mean().reshape(1, 1)

    def convert(self, wave: torch.Tensor, voice: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return wave + 0.01 * torch.randn(wave.shape, generator=generator)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows, time = [], torch.arange(RATE) / RATE
    for s in range(2):
        for u in range(3):
            path = tmp_path / "corpus" / f"{s}{u}.wav"
            wave = sum(torch.sin(2 * torch.pi * (100 + 60 * s + u) * k * time) / k for k in range(1, 12))
            save(path, 0.2 * wave[None, None], RATE)
            rows.append(Row(path=path, speaker=f"s{s}", split="validation", text="hum"))
    write_manifest(tmp_path / "corpus" / "metadata.csv", rows)
    return tmp_path / "corpus"


def test_output_level_in_silence_is_measured(corpus: Path) -> None:
    pair = Pair(source=corpus / "00.wav", target=corpus / "10.wav")
    found = in_silence(Voices(Hissing()), [pair, pair])
    assert found["voices"] == 1
    assert found["mean_dbfs"] == pytest.approx(-40, abs=0.1)
    assert -40 < found["loudest_dbfs"] < -39


def test_table_has_a_row_per_condition(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("pyworld", "resemblyzer", "speechmos", "pocketsphinx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setattr(robustness, "load_converter", lambda folder: Hissing())
    monkeypatch.setattr(robustness, "METRICS", ("similarity", "pitch"))
    monkeypatch.setattr(robustness, "score_pairs", lambda pairs, **k: fast(pairs, **k))
    out = tmp_path / "out"
    words = ["--data", corpus, "--n-pairs", 2, "--out", out, "--cache", tmp_path / "cache", "--jobs", 1]
    conditions = ["as-recorded", "quiet-30", "noisy", "mandarin", "reference-2s"]
    robustness.main([*map(str, words), "--conditions", *conditions])
    rows = list(csv.DictReader((out / "rows.csv").open()))
    assert [row["system"] for row in rows] == [
        c for c in ("as-recorded", "quiet-30", "noisy") for _ in range(2)
    ]
    printed = capsys.readouterr()
    assert "no recordings for the condition mandarin" in printed.err
    assert "10 s of digital silence, in 2 voices: mean level -40" in printed.out
    assert json.loads((out / "summary.json").read_text())["in_silence"]["voices"] == 2


def fast(pairs, **options):
    from eval.scoring import score_pairs

    return score_pairs(pairs, ("similarity", "pitch"), **options)


def test_unknown_condition_is_refused() -> None:
    with pytest.raises(UserError, match="no condition 'loud'; choose from as-recorded, quiet-30"):
        RobustnessConfig(data=Path("x"), conditions=("loud",))
