"""Distillation: the student learns and is causal; the teacher does not change."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_encoders import MOONSHINE
from transformers import AutoModel

from data.batches import Address, SpeechCrops
from data.manifest import Row, write_manifest
from data.pairs import PairCrops
from data.rows import split_rows
from engine.user_error import UserError
from pretrain.causal.distillation import Distillation, DistillationBatch, DistillationData
from pretrain.causal.encoder import load_student
from pretrain.distil import PRESETS, DistilConfig, held_out, main
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech
from pretrain.teachers import Teacher, load_teacher, teacher_of
from pretrain.units import Phonemes, Units

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    return teacher_of(AutoModel.from_config(MOONSHINE).encoder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sentences in two aligned voices: noise in syllables, of a different colour per voice."""
    torch.manual_seed(0)
    folder, rows = tmp_path_factory.mktemp("corpus"), []
    for sentence in range(3):
        syllables = (0.2 * torch.rand(8).repeat_interleave(2_000)) * torch.randn(16_000)
        for voice in range(2):
            wave = syllables if voice else syllables.diff(prepend=torch.zeros(1))
            path = folder / f"{sentence}{voice}.wav"
            soundfile.write(path, wave.numpy(), 16_000)
            split = "validation" if sentence == 2 else "train"
            known = {"parallel": str(sentence), "phonemes": "sim" if voice else "ɑm"}
            rows.append(Row(path=path, speaker=f"voice {voice}", split=split, extra=known))
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


def tiny(corpus: Path, **changes: object) -> DistilConfig:
    config = PRESETS["tiny"]
    optim = replace(config.optim, lr=1e-2, warmup_steps=0, schedule="constant", weight_decay=0.0)
    config = replace(
        config,
        data=replace(config.data, path=str(corpus)),
        pairs=replace(config.pairs, path=str(corpus)),
        transcribed=LabelledConfig(paths=(str(corpus),), batch_seconds=2.0),
        optim=optim,
    )
    return replace(config, **changes)  # pyright: ignore[reportArgumentType]


def first_batch(config: DistilConfig) -> DistillationBatch:
    pairs = PairCrops(config.pairs, progress=False) if config.pairs.path else None
    transcribed = LabelledSpeech(config.transcribed, Units(Phonemes()), progress=False)
    return DistillationData(SpeechCrops(config.data, progress=False), pairs, transcribed)[Address(0, 0)]


def test_one_batch_can_be_learned(corpus: Path, teacher: Teacher) -> None:
    config = tiny(corpus, warp=0.0, noise_share=0.0)
    config = replace(config, model=replace(config.model, n_channels=32, dim=16))
    task, batch = Distillation(config, teacher), DistillationBatch(first_batch(config).human)
    losses = [float(task.update(batch, step)["loss/student/cosine"]) for step in range(80)]
    assert losses[-1] < 0.3 * losses[0]


def test_teacher_is_not_changed(corpus: Path, teacher: Teacher) -> None:
    before = copy.deepcopy(teacher.state_dict())
    task = Distillation(tiny(corpus), teacher, phones=True)
    batch = first_batch(task.config)  # pyright: ignore[reportArgumentType]
    for step in range(3):
        scalars = task.update(batch, step)
    assert set(scalars) >= {f"loss/student/{name}" for name in ("cosine", "l1", "phones", "cosine_pairs")}
    assert all(value.isfinite() for value in scalars.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    owned = {id(p) for p in task.players["student"].parameters}
    assert not owned & {id(p) for p in teacher.parameters()}


def test_every_student_parameter_is_trained(corpus: Path, teacher: Teacher) -> None:
    task = Distillation(tiny(corpus), teacher, phones=True)
    before = [p.detach().clone() for p in task.players["student"].parameters]
    task.update(first_batch(task.config), 0)  # pyright: ignore[reportArgumentType]
    assert all(not torch.equal(a, b) for a, b in zip(before, task.players["student"].parameters))


def test_prediction_depends_on_at_most_the_look_ahead_and_one_frame(corpus: Path, teacher: Teacher) -> None:
    task, wave = Distillation(tiny(corpus), teacher), torch.randn(1, 1, 8_000).requires_grad_()
    student, k = task.student, 7
    places = student.places(teacher, 20)
    student.predict(student(wave), places)[..., k].square().sum().backward()
    assert wave.grad is not None
    last = int(wave.grad[0, 0].nonzero()[-1])
    centre = teacher.offset + k * teacher.hop
    # The prediction is interpolated between two frames; the later one depends on its own hop as well.
    assert centre + student.look_ahead <= last < centre + student.look_ahead + 2 * student.encoder.hop


def test_student_input_is_the_source_and_target_the_target_of_a_pair(corpus: Path, teacher: Teacher) -> None:
    config = tiny(corpus, warp=0.0, noise_share=0.0)
    task, batch = Distillation(config, teacher), first_batch(config)
    assert batch.pairs is not None
    silent = batch.human.wave * 0
    human = batch.human._replace(wave=silent, other=silent)
    same = batch.pairs._replace(source=batch.pairs.target)
    both = [copy.deepcopy(task).update(DistillationBatch(human, pairs), 0) for pairs in (batch.pairs, same)]
    apart = [scalars["loss/student/cosine_pairs"] for scalars in both]
    assert not torch.equal(*apart)  # the student's input is the source
    swapped = batch.pairs._replace(target=batch.pairs.source, source=batch.pairs.target)
    assert not torch.equal(
        task.update(DistillationBatch(human, swapped), 0)["loss/student/cosine_pairs"], apart[0]
    )


def test_manifests_separated_by_commas_are_joined(corpus: Path, tmp_path: Path) -> None:
    wave = 0.1 * torch.randn(9_000)
    for name in ("a,b", "c"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "0.wav", wave.numpy(), 16_000)
        known = Row(path=tmp_path / name / "0.wav", speaker="voice 0", split="train")
        write_manifest(tmp_path / name / "manifest.csv", [known])
    rows = split_rows(f"{corpus}, {tmp_path / 'c' / 'manifest.csv'}", "train")
    assert [len(rows), len({row.speaker for row in rows})] == [5, 2]
    assert len(split_rows(f"{corpus},{tmp_path / 'c'}", "validation")) == 2  # one of them has such a split
    assert len(split_rows(str(tmp_path / "a,b"), "train")) == 1  # a comma may be part of a name


def test_validation_split_is_evaluated(corpus: Path, teacher: Teacher) -> None:
    config = tiny(corpus)
    task = Distillation(config, teacher, held_out(config))
    assert -1 <= task.evaluate(0)["cosine"] <= 1
    assert set(task.samples(0).mels) == {"teacher", "student"}
    with pytest.raises(UserError, match="no manifest"):
        held_out(replace(config, validation="nowhere"))


def test_command_exports_and_resumes_exactly(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AutoModel.from_config(MOONSHINE).save_pretrained(tmp_path / "teacher")
    words = ["--preset", "tiny", "--teacher.path", tmp_path / "teacher", "--data.path", corpus]
    words += ["--pairs.path", corpus, "--transcribed.paths", corpus]
    monkeypatch.chdir(tmp_path)
    for out, steps in (("straight", 2), ("parted", 1), ("parted", 2)):
        run = ("distil.py", *words, "--loop.out", out, "--loop.steps", steps, "--loop.cpu")
        monkeypatch.setattr(sys, "argv", [*map(str, run)])
        main()
    states = [load_file(tmp_path / run / "export/model.safetensors") for run in ("straight", "parted")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert '"kind": "causal_student"' in (tmp_path / "straight/export/config.json").read_text()
    student = load_student(tmp_path / "straight")
    assert student(torch.zeros(1, 1, 1_600)).shape == (1, 8, 10)
    assert student.config.teacher_dim == load_teacher(tmp_path / "teacher").dim


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("", "--teacher.path"),
        ("--teacher.path nowhere", "nowhere"),
        ("--warp 0.9", "warp=0.9"),
        ("--pairs.path x --pairs.crop-samples 100", "must be equal"),
        ("--preset huge", "huge"),
    ],
)
def test_invalid_options_give_one_sentence(
    options: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["distil.py", *options.split(), "--loop.cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert complaint in error
    assert error.count("\n") <= 1
    assert not list(tmp_path.iterdir())
