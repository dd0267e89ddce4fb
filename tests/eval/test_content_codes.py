"""Probes of content codes: they find present information only, and are not tested on training data."""

import math
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.audio.writing import save
from data.manifest import Row, rows_from, write_manifest
from engine.checkpoint import export
from engine.user_error import UserError
from eval.content_codes.__main__ import main, speech
from eval.content_codes.codes import SAMPLE_RATE, Code, CodeFrames, audible_frames, encode, open_code
from eval.content_codes.probes import agreement, phone_error, speaker_leakage, utterances
from pretrain.causal.encoder import CausalEncoderConfig, Student, StudentConfig

HERTZ = (700.0, 3_000.0, 6_000.0)
SOUNDS = {"s": 5_000.0, "i": 2_400.0, "m": 400.0}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three speakers, each a tone, with four training and two validation utterances; one without training."""
    rows, time = [], torch.arange(6_400) / SAMPLE_RATE
    for speaker, hertz in enumerate(HERTZ):
        for number in range(6):
            path = tmp_path / f"{speaker}_{number}.wav"
            wave = 0.3 * torch.sin(2 * torch.pi * hertz * time + number) + 0.01 * torch.randn(6_400)
            save(path, wave[None, None], SAMPLE_RATE)
            rows.append(Row(path=path, speaker=f"s{speaker}", split="train" if number < 4 else "validation"))
    rows.append(Row(path=rows[0].path, speaker="stranger", split="validation"))
    write_manifest(tmp_path / "metadata.csv", rows)
    return tmp_path


def bands(wave: Tensor) -> Tensor:
    """Three bands of 10 ms frames."""
    power = torch.fft.rfft(wave[:, 0].unfold(-1, 160, 160)).abs()[..., :-9]
    return power.unflatten(-1, (3, 24)).mean(-1).transpose(1, 2)


SPECTRUM = Code(name="spectrum", encode=bands, hop=160)


def noise() -> Code:
    """A code that is independent of the wave."""
    number = count()

    def random(wave: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(next(number))
        return torch.randn(1, 4, math.ceil(wave.shape[-1] / 160), generator=rng)

    return Code(name="noise", encode=random, hop=160)


def test_speaker_probe_separates_spectra_but_not_noise(corpus: Path) -> None:
    chosen = utterances(corpus)
    assert (len(chosen.speakers), len(chosen.held_out)) == (3, 6)
    assert chosen.chance == pytest.approx(1 / 3)
    leaks = []
    for code in (SPECTRUM, noise()):
        encoded = [[encode(code, row.path) for row in rows] for rows in (chosen.train, chosen.held_out)]
        leaks.append(speaker_leakage(chosen, *encoded))
    assert leaks[0].pooled[0] == leaks[0].single[0] == 1.0
    assert leaks[1].pooled[0] < 1.0
    assert abs(leaks[1].single[0] - 1 / 3) < 0.2


def test_speaker_probe_is_not_tested_on_training_utterances(corpus: Path) -> None:
    chosen = utterances(corpus)
    assert not {row.path for row in chosen.train} & {row.path for row in chosen.held_out}
    assert {row.split for row in chosen.train} == {"train"}
    assert chosen.speakers == ["s0", "s1", "s2"]
    fewer = utterances(corpus, per_speaker=2)
    assert len(fewer.train) == 6
    assert fewer.held_out == chosen.held_out


def test_pauses_are_not_audible() -> None:
    time = torch.arange(8_000) / SAMPLE_RATE
    tone = 0.3 * torch.sin(2 * torch.pi * 500 * time)[None, None]
    audible = audible_frames(torch.cat([tone, torch.zeros(1, 1, 24_000)], dim=-1), SAMPLE_RATE, 200)
    assert audible[3:48].all()
    assert not audible[54:].any()


def test_too_few_speakers_are_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "metadata.csv", [Row(path=tmp_path / "a.wav", speaker="a", split="train")])
    with pytest.raises(UserError, match="two speakers"):
        utterances(tmp_path)


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A corpus with a tone per phone; test speakers of phones are not training speakers."""
    rows, words = [], ["s i m", "m i s", "i m s i", "m s i m", "s m i", "i s m"]
    for number in range(24):
        phones, path = words[number % 6], tmp_path / f"{number}.wav"
        time = torch.arange(1_600) / SAMPLE_RATE
        tones = [0.3 * torch.sin(2 * torch.pi * SOUNDS[p] * time) for p in phones.split()]
        wave = torch.cat([part for tone in tones for part in (tone, torch.zeros(800))])
        save(path, (wave + 0.001 * torch.randn(len(wave)))[None, None], SAMPLE_RATE)
        is_test, voice = number % 4 == 3, number % 2
        split, speaker = ("validation", f"v{voice}") if is_test else ("train", f"t{voice}")
        rows.append(Row(path=path, split=split, speaker=speaker, extra={"phonemes": phones}))
    for name, split in (
        ("t0", "validation"),
        ("v0", "train"),
        ("v0", "train"),
        ("v1", "train"),
        ("v1", "train"),
    ):
        rows.append(Row(path=rows[0].path, speaker=name, split=split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def test_phone_probe_reads_spectra_but_not_noise(spoken: Path) -> None:
    of = speech(spoken, most=100, per_speaker=0)
    voices = {row.path: row.speaker for row in rows_from(spoken)}
    assert not {voices[path] for path in of.train} & {voices[path] for path in of.test}
    errors = []
    for code in (SPECTRUM, noise()):
        train, test = (
            [(encode(code, path), label) for path, label in part.items()] for part in (of.train, of.test)
        )
        errors.append(phone_error(train, test, of.speakers, epochs=40))
    assert errors[0][0] < 0.5 * errors[1][0]
    assert errors[0][1] <= errors[0][0] <= errors[0][2]


def test_agreement_allows_a_linear_map_and_a_delay() -> None:
    torch.manual_seed(0)
    teacher = Code(name="teacher", encode=bands, hop=400, offset=200)
    late = Code(name="late", encode=bands, hop=400, offset=-600)  # delayed by two frames
    hidden = [torch.randn(60, 4) for _ in range(8)]
    all_of = torch.ones(60, dtype=torch.bool)
    mix = torch.randn(4, 6)
    truth = [CodeFrames(frames=(x @ mix).half(), audible=all_of) for x in hidden]
    same = [CodeFrames(frames=torch.cat([x[:2], x[:-2]]).half(), audible=all_of) for x in hidden]
    other = [CodeFrames(frames=torch.randn(60, 4).half(), audible=all_of) for _ in range(8)]
    found, missed = (
        agreement(late, teacher, pairs[:6], pairs[6:], ["a", "b"])
        for pairs in (list(zip(same, truth)), list(zip(other, truth)))
    )
    assert found[0] > 0.9  # the last two frames have no partner
    assert abs(missed[0]) < 0.3


def test_table_has_a_row_per_code(spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = StudentConfig(
        encoder=CausalEncoderConfig(n_channels=8, n_blocks=1, dim=4, n_mels=20), teacher_dim=3
    )
    export(tmp_path / "student", config, Student(config))
    code = open_code(f"student:{tmp_path / 'student'}")
    assert code.encode(torch.zeros(1, 1, 1_600)).shape == (1, 4, 10)
    main(["--data", str(spoken), "--code", code.name, "--most", "4"])
    printed = capsys.readouterr().out
    assert "trained on 4 utterances" in printed
    assert all(f"\n| {name} " in printed for name in ("log-mel", code.name, "chance"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--code nothing:x", "no kind 'nothing'"),
        ("--code student:nowhere", "nowhere"),
        ("--teacher nowhere", "nowhere"),
        ("--per-speaker 1", "--per-speaker 1"),
        ("--most 0", "--most 0"),
    ],
)
def test_invalid_options_give_one_sentence(
    options: str, complaint: str, spoken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--data", str(spoken), *options.split()])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_unreadable_recording_is_left_out_and_named(spoken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = spoken.parent / "0.wav"
    bad.write_bytes(b"no sound")
    with pytest.raises(SystemExit) as end:
        main(["--data", str(spoken), "--most", "100"])
    printed = capsys.readouterr()
    assert end.value.code == 1
    assert "| log-mel " in printed.out
    assert "1 left out" in printed.err
    assert str(bad) in printed.err
