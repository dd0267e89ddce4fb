"""Training the recogniser: it can learn a batch, its batches are addressed, its command runs."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
import torch.nn.functional as F

from data.manifest import Row, write_manifest
from engine.user_error import UserError
from pretrain.ctc import CTC, PRESETS, CTCConfig, ctc_loss, main
from pretrain.phone_batches import Address, PhoneSpeech, TranscribedConfig
from pretrain.phones import PHONES
from pretrain.recogniser import RecogniserConfig, RecogniserOutput, load_recogniser
from pretrain.spectral_augment import AugmentConfig, change_speed, mask, warp_frequency

ROOT = Path(__file__).resolve().parents[2]
PLAIN = AugmentConfig(warp=0.0, speed=0.0, noise_share=0.0, equaliser=0.0, time_masks=0, band_masks=0)
SOUNDS = {"s": 5_000.0, "i": 2_500.0, "ɑ": 900.0, "m": 300.0}


def spoken(phones: str) -> torch.Tensor:
    """Each phone a tone of its own between pauses."""
    time = torch.arange(1_600) / 16_000
    parts = [
        torch.cat([0.3 * torch.sin(6.2832 * SOUNDS[p] * time), torch.zeros(800)]) for p in phones.split()
    ]
    return torch.cat(parts) + 0.001 * torch.randn(2_400 * len(parts))


@pytest.fixture
def manifest(tmp_path):
    """A corpus of tones for phones, with a validation split."""
    words = ["s i m", "ɑ m", "m ɑ s i", "i s", "s ɑ m i s", "m i m"]
    rows = []
    for i, phones in enumerate(words):
        soundfile.write(tmp_path / f"{i}.wav", spoken(phones).numpy(), 16_000)
        split = "validation" if i > 3 else "train"
        rows.append(Row(path=tmp_path / f"{i}.wav", split=split, extra={"phonemes": phones}))
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def tiny(manifest: Path, **changes) -> CTCConfig:
    model = RecogniserConfig(width=24, n_blocks=2, kernel=5, dropout=0.0)
    data = TranscribedConfig(paths=(str(manifest),), batch_seconds=2.0)
    optim = replace(PRESETS["tiny"].optim, lr=1e-2, warmup_steps=0, schedule="constant", weight_decay=0.0)
    return replace(PRESETS["tiny"], model=model, data=data, optim=optim, **changes)


def test_one_batch_can_be_learned(manifest):
    config = tiny(manifest, augment=PLAIN, agree_from=10_000)
    task, speech = CTC(config), PhoneSpeech(config.data, PHONES, progress=False)
    batch = speech.collate(speech.order)
    for step in range(80):
        scalars = task.update(batch, step)
    assert scalars["loss/recogniser/ctc"] < 0.1
    task.recogniser.eval()
    heard = [task.recogniser.transcribe(speech.collate([i]).wave)[0] for i in speech.order]
    assert heard == [speech.rows[i].extra["phonemes"] for i in speech.order]


def test_a_second_view_joins_and_every_term_is_finite(manifest):
    config = tiny(manifest, agree_from=1)
    task, speech = CTC(config), PhoneSpeech(config.data, PHONES, progress=False)
    alone, together = (task.update(speech[Address(0, 0, 0)], step) for step in range(2))
    assert alone["loss/recogniser/agreement"] == alone["loss/recogniser/features"] == 0
    assert together["loss/recogniser/agreement"] > 0
    assert together["loss/recogniser/features"] > 0
    assert all(value.isfinite() for value in together.values())


def test_equal_views_agree(manifest):
    config = tiny(manifest, augment=PLAIN, agree_from=0)
    task, speech = CTC(config), PhoneSpeech(config.data, PHONES, progress=False)
    scalars = task.update(speech[Address(0, 0, 0)], 0)
    assert abs(scalars["loss/recogniser/agreement"]) < 1e-5
    assert abs(scalars["loss/recogniser/features"]) < 1e-5


def test_batches_follow_from_their_address(manifest):
    config = TranscribedConfig(paths=(str(manifest),), batch_seconds=1.0)
    speech = PhoneSpeech(config, PHONES, seed=3, progress=False)
    straight, late = speech.batches()(0), speech.batches(workers=1)(2)
    for _ in range(2):
        next(iter(straight))
    for _ in range(2):
        for ours, theirs in zip(next(iter(straight)), next(iter(late))):
            assert torch.equal(ours, theirs)


def test_loss_is_torchs_on_full_lengths():
    log_probs = torch.randn(2, 12, 5).log_softmax(-1)
    tokens, n_tokens = torch.tensor([[1, 2, 3], [4, 4, 0]]), torch.tensor([3, 2])
    heard = RecogniserOutput([], log_probs)
    ours = ctc_loss(heard, torch.ones(2, 12, dtype=torch.bool), tokens, n_tokens)
    theirs = (
        F.ctc_loss(log_probs.transpose(0, 1), tokens, torch.tensor([12, 12]), n_tokens, reduction="sum") / 5
    )
    torch.testing.assert_close(ours, theirs)


def test_no_change_of_voice_or_tempo_is_the_identity():
    mel, lengths = torch.randn(2, 80, 30), torch.tensor([30, 20])
    config = RecogniserConfig().mel
    torch.testing.assert_close(warp_frequency(mel, config, 0.0), mel, atol=1e-4, rtol=1e-4)
    same, new = change_speed(mel, lengths, 0.0)
    torch.testing.assert_close(same[0], mel[0])
    assert torch.equal(new, lengths)
    assert torch.equal(mask(mel, PLAIN), mel)


def test_speed_moves_lengths_within_the_limit():
    lengths = torch.full((50,), 100)
    mel, new = change_speed(torch.randn(50, 4, 100), lengths, 0.25)
    assert mel.shape[-1] == new.max()
    assert 79 <= new.min() < 100 < new.max() <= 125


def test_speech_without_words_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", spoken("s").numpy(), 16_000)
    write_manifest(tmp_path / "manifest.csv", [Row(path=tmp_path / "a.wav")])
    with pytest.raises(UserError, match="no row of split 'train'"):
        PhoneSpeech(TranscribedConfig(paths=(str(tmp_path),)), PHONES, progress=False)
    with pytest.raises(UserError, match=r"--data\.paths"):
        PhoneSpeech(TranscribedConfig(), PHONES, progress=False)


def run(*words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_documented_commands_run(manifest, tmp_path):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        ROOT / "pretrain/ctc.py",
        "--preset",
        "tiny",
    ]
    done = run(*launch, "--data.paths", manifest, "--loop.out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recogniser = load_recogniser(tmp_path / "run/export")
    assert isinstance(recogniser.transcribe(spoken("s i")[None, None])[0], str)
    score = [sys.executable, "-m", "pretrain.ctc_score", "--recogniser", tmp_path / "run/export"]
    scored = run(*score, "--data.paths", manifest, cwd=tmp_path)
    assert "phone error rate" in scored.stdout, scored.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("--preset tiny", 2),
        ("--preset huge", 2),
        ("--optim.rate 3", 2),
        ("--data.paths nowhere", 2),
    ],
)
def test_help_and_mistakes_are_told_shortly(words, code, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ctc.py", *words.split(), *(["--loop.cpu"] if code else [])])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    told = capsys.readouterr().err
    assert told.startswith("error: ") == bool(code)
    assert told.count("\n") <= 1
    assert not list(tmp_path.iterdir())
