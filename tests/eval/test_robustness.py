"""Hard conditions: each changes only what it names, deterministically; and the command that scores them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.audio import load, save
from data.manifest import Row, write_manifest
from engine.user_error import UserError
from eval import robustness
from eval.outputs import Voices
from eval.pairs import Pair
from eval.pitch import harvest
from eval.robustness import (
    CHANGES,
    RobustnessConfig,
    in_chinese,
    in_silence,
    noisy,
    pairs_under,
    quiet,
    whispered,
)

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


def voice(seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    spoken = (time > 0.2) & (time < seconds - 0.2)
    return 0.3 * spoken * sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 20))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    for name, seconds in (("source", 1.0), ("target", 1.0), ("a", 3.0), ("b", 3.0)):
        save(tmp_path / f"{name}.wav", torch.tensor(voice(seconds))[None, None].float(), RATE)
    files = [tmp_path / f"{name}.wav" for name in ("source", "target", "a", "b")]
    return Pair(source=files[0], target=files[1], references=(files[2], files[3]), text="hello")


@pytest.mark.parametrize("peak", [-30.0, -50.0])
def test_quiet_source_has_the_given_peak(peak: float) -> None:
    assert 20 * np.log10(np.abs(quiet(peak)(voice(), 0)).max()) == pytest.approx(peak, abs=0.01)


def test_noise_is_10_db_below_the_speech_and_deterministic() -> None:
    clean = voice()
    changed = noisy(clean, 3)
    spoken = slice(RATE // 4, -RATE // 4)
    snr = np.square(clean[spoken]).mean() / np.square(changed - clean).mean()
    assert 10 * np.log10(snr) == pytest.approx(10, abs=1)
    np.testing.assert_array_equal(changed, noisy(clean, 3))
    assert not np.array_equal(changed, noisy(clean, 4))


def test_whisper_keeps_the_length_and_has_no_pitch() -> None:
    pytest.importorskip("pyworld", reason="pyworld is not installed")
    clean = voice()
    changed = whispered(clean, 0)
    assert len(changed) == len(clean)
    assert (harvest(changed) > 0).mean() < 0.5 * (harvest(clean) > 0).mean()


@pytest.mark.parametrize("condition", CHANGES)
def test_changed_sources_are_new_files_with_the_same_text(condition: str, pair: Pair, tmp_path: Path) -> None:
    pytest.importorskip("pyworld", reason="pyworld is not installed")
    (changed,) = pairs_under(condition, [pair], tmp_path, tmp_path / "out")
    assert changed.source != pair.source
    assert load(changed.source, RATE).shape == load(pair.source, RATE).shape
    assert (changed.text, changed.target, changed.system) == (pair.text, pair.target, condition)


def test_references_are_cropped_and_short_ones_omitted(pair: Pair, tmp_path: Path) -> None:
    (changed,) = pairs_under("reference-5s", [pair], tmp_path, tmp_path / "out")
    (cut,) = changed.voice_clips
    assert load(cut, RATE).shape[-1] == 5 * RATE
    assert pairs_under("reference-10s", [pair], tmp_path, tmp_path / "out") == []


def test_mandarin_sources_are_not_from_the_train_split(pair: Pair, tmp_path: Path) -> None:
    rows = [("train", "说话"), ("test", "那很不明智。"), ("test", "hello 说话"), ("test", "")]
    files = [Row(path=tmp_path / f"{i}.wav", speaker="s", split=s, text=t) for i, (s, t) in enumerate(rows)]
    write_manifest(tmp_path / "metadata.csv", files)
    found = pairs_under("mandarin", [pair, pair], tmp_path, tmp_path / "out")
    assert [p.source.name for p in found] == ["1.wav", "1.wav"]
    assert not in_chinese("12, ")


def test_espeak_sources_have_new_texts(pair: Pair, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed")
    (changed,) = pairs_under("espeak", [pair], tmp_path, tmp_path / "out")
    assert changed.text not in ("", pair.text)
    assert load(changed.source, RATE).abs().max() > 0.1
