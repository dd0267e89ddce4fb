"""Variants differ only in what their name says; the command trains, resumes and prints one table."""

import math
from pathlib import Path

import pytest
import torch

from data.audio.writing import save
from data.batches import Address
from data.manifest import Row, write_manifest
from engine.config import differences, load_config
from eval.scoring import summarise
from experiments.ablation import (
    FULL,
    SPEECH_ENCODERS,
    VARIANTS,
    full_config,
    main,
    parse,
    table,
    variant,
)
from experiments.scores import differences as score_differences
from experiments.study import Cost
from experiments.trainers import wave_to_wave
from w2w.train_config import TrainConfig

CONTRAST = ("contrast_style", "contrast_voice", "contrast_discriminator", "contrast_converter")
LACKS = {
    "no_pairs": {"data.batch"},
    "no_student": set(),
    "no_content_loss": {"cluit.weights.content"},
    "no_contrast": {f"cluit.weights.{name}" for name in CONTRAST},
    "no_adversary": {
        *("cluit.weights.adversarial", "cluit.weights.feature_matching"),
        *("cluit.weights.contrast_discriminator", "cluit.weights.contrast_converter"),
    },
    "no_back_translation": {"cluit.back_translate_share"},
}
"""Options in which a variant differs from the full one, apart from paths of data and encoders."""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Harmonic tones as human speech with a validation split, and as time-aligned pairs."""
    folder, rng = tmp_path_factory.mktemp("corpora"), torch.Generator().manual_seed(0)

    def hum(name: str, f0: float) -> Path:
        time = torch.arange(16_000) / 16_000
        harmonics = torch.arange(1, 10)[:, None]
        wave = (torch.sin(2 * math.pi * f0 * harmonics * time) / harmonics).sum(0)
        noise = 0.003 * torch.randn(1, 1, 16_000, generator=rng)
        save(folder / name, 0.1 * wave + noise, 16_000)
        return folder / name

    people, groups = [], []
    for number in range(4):
        split = "train" if number < 2 else "validation"
        for take in range(3):
            path = hum(f"person{number}_{take}.wav", 100.0 + 40 * number + 3 * take)
            people.append(Row(path=path, speaker=f"person{number}", split=split, text="hum"))
    for group in range(2):
        for voice in range(2):
            path = hum(f"group{group}_{voice}.wav", 120.0 + 30 * voice)
            groups.append(
                Row(path=path, speaker=f"voice{voice}", split="train", extra={"parallel": str(group)})
            )
    write_manifest(folder / "speech.csv", people)
    write_manifest(folder / "pairs.csv", groups)
    return folder


def arguments(corpora: Path, *more: object) -> list[str]:
    data = ["--data", corpora / "speech.csv", "--pairs", corpora / "pairs.csv", "--preset", "tiny"]
    return list(map(str, [*data, *more]))


@pytest.fixture
def full(corpora: Path) -> TrainConfig:
    return full_config(parse(arguments(corpora)))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != FULL])
def test_variant_differs_only_in_the_part_it_names(name, full, tmp_path) -> None:
    # The configs as trained: network sizes do not depend on the initial weights.
    ours, theirs = (wave_to_wave(variant(n, full), tmp_path, 10).config for n in (name, FULL))
    assert {field for field, *_ in differences(ours, theirs)} == LACKS[name]


def test_variants_without_pairs_or_student_read_neither(full) -> None:
    assert full.pairs.path
    assert not variant("no_pairs", full).pairs.path
    assert variant("no_pairs", full).data.batch == full.data.batch + full.pairs.batch
    assert full.pretrained.student != "" == variant("no_student", full).pretrained.student


def test_disabled_parts_have_no_losses(full, tmp_path) -> None:
    def losses(name: str) -> set[str]:
        training = wave_to_wave(variant(name, full), tmp_path, 10)
        task = training.build()
        scalars = task.update(training.batches.crops[Address(0, 6)], 6)
        return {loss.removeprefix("loss/") for loss in scalars}

    everything = losses(FULL)
    assert {"converter/content", "converter/contrast_voice", "converter/adversarial"} <= everything
    assert everything - losses("no_content_loss") == {"converter/content"}
    contrasts = {name for name in everything if "contrast" in name}
    assert everything - losses("no_contrast") == contrasts
    assert not any(name.startswith("discriminator/") for name in losses("no_adversary"))


def test_schedules_follow_the_length_of_the_run(full, tmp_path) -> None:
    training = wave_to_wave(full, tmp_path, 200)
    config, phases = training.config, training.phases
    begins = config.cluit.convert_from, config.cluit.back_translate_from, config.cluit.adversary_from
    assert begins == (10, 40, 100)
    assert [phase.step for phase in phases] == [0, *begins]
    assert sum(phase.share for phase in phases) == pytest.approx(1.0)
    assert phases[-1].period == config.cluit.discriminator_every
    optim = config.optim_converter
    assert optim.warmup_steps + optim.decay_steps == 200
    assert optim.rate(200) == pytest.approx(optim.final * optim.lr)
    assert (config.loop.threads, config.loop.cpu, config.loop.steps) == (1, True, 200)


def test_speech_encoder_replaces_the_student(full) -> None:
    for name in SPEECH_ENCODERS:
        config = variant(name, full, "runs/speech")
        assert (config.pretrained.content, config.pretrained.student) == ("runs/speech", "")
        assert name == f"speech_{config.pretrained.use}"


def test_command_trains_scores_and_resumes(corpora, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("resemblyzer", reason="Resemblyzer is not installed")
    scored = ["--fast", "--n-pairs", 1, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    main(arguments(corpora, *scored, "--steps", 4, "--variants", "full"))
    first = (tmp_path / "out/table.md").read_text()
    monkeypatch.setattr("experiments.study.fit", lambda *given, **options: pytest.fail("trained again"))
    main(arguments(corpora, *scored, "--steps", 4, "--variants", "full"))
    assert (tmp_path / "out/table.md").read_text() == first
    rows = [line.split("|")[1].strip() for line in first.splitlines() if line.startswith("|")]
    assert rows[2:] == ["full", "source itself", "target, another utterance"]
    run = load_config(TrainConfig, tmp_path / "out/full/config.json")
    assert run.loop.out == tmp_path / "out/full"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(arguments(corpora, *scored, "--steps", 5, "--variants", "full"))
    assert "was started with --steps 4, not 5" in capsys.readouterr().err


def test_only_significant_differences_are_bold() -> None:
    def rows(system: str, cers: list[float], likeness: list[float]) -> list[dict[str, str | float]]:
        return [{"system": system, "cer": a, "to_target": b} for a, b in zip(cers, likeness)]

    scored = rows(FULL, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]) + rows("no_pairs", [0.3, 0.4, 0.6], [0.6, 0.5, 0.7])
    summary = summarise(scored)
    cost = Cost(steps=7, processor_seconds=120.0, wall_seconds=240.0)
    costs = {FULL: cost, "no_pairs": cost}
    _, _, ours, theirs = table(summary, score_differences(scored, FULL), costs).splitlines()
    assert "**" not in ours
    cells = [cell.strip() for cell in theirs.split("|")]
    assert cells[2].startswith("**0.433 [")
    assert cells[3].startswith("0.600 [")
    assert cells[-3:-1] == ["7", "2"]


def test_comparison_without_trained_variants_is_refused(corpora, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments(corpora, "--fast", "--out", tmp_path / "out", "--variants"))
    assert "no trained variant" in capsys.readouterr().err
