"""data2vec: targets, teacher, losses, both kinds of masking, collapse, resuming, the command."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import Data2VecAudioModel

from data.batches import Batches
from engine.loop import LoopConfig, fit
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain.data2vec import PRESETS, TINY, main, tri_stage
from pretrain.speech.batches import Clips, SpeechConfig, UnlabelledSpeech
from pretrain.speech.encoder import SpeechEncoder, standardised
from pretrain.speech.loading import load_speech_encoder
from pretrain.speech.pretraining import Pretraining, PretrainingConfig
from pretrain.speech.regression import Regression, RegressionConfig, Teacher, TeacherConfig, masked_regression
from pretrain.speech.student import MaskToken, MaskTokenConfig, MultiMask, MultiMaskConfig

ENCODER = TINY.model
FORMS = {
    "plain": replace(TINY, student=MaskTokenConfig(), contrast=None, spectrum=None),
    "2.0": replace(TINY, contrast=None, spectrum=None),
    "contrastive": replace(TINY, student=MaskTokenConfig(), regression=None, spectrum=None),
    "all": TINY,
}


def clips(seconds: float = 1.0, batch: int = 2) -> Clips:
    return Clips(0.1 * torch.randn(batch, 1, int(16_000 * seconds)))


def test_decay_rises_linearly():
    config = TeacherConfig()
    assert config.decay(0) == 0.999
    assert config.decay(15_000) == pytest.approx(0.99945)
    assert config.decay(30_000) == config.decay(400_000) == pytest.approx(0.9999)


def test_teacher_is_an_average_without_gradient():
    encoder = SpeechEncoder(ENCODER)
    teacher = Teacher(encoder, TeacherConfig(top=1, decay_first=0.5, decay_last=0.9, decay_steps=4))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(1.0)
    teacher.follow(encoder, 2)  # a decay of 0.7
    for name, after in teacher.state_dict().items():
        assert_close(after, before[name] + 0.3)
        assert after.dtype == torch.float32
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.train().training


def test_targets_equal_feed_forward_outputs_of_the_published_model():
    encoder = SpeechEncoder(ENCODER).eval()
    theirs = Data2VecAudioModel(ENCODER.published()).eval()
    theirs.load_state_dict(encoder.trunk.state_dict())
    fed: list[torch.Tensor] = []
    for layer in theirs.encoder.layers:
        layer.feed_forward.register_forward_hook(lambda module, inputs, output: fed.append(output))
    wave = clips().wave
    theirs(standardised(wave)[:, 0])
    expected = torch.stack([F.instance_norm(x.transpose(1, 2)).transpose(1, 2) for x in fed[-2:]]).mean(0)
    teacher = Teacher(encoder, TeacherConfig(top=2))
    target = teacher(encoder.position(encoder.project(encoder.local(wave))))
    assert_close(target, expected, atol=1e-5, rtol=1e-4)
    assert not target.requires_grad


def test_loss_equals_its_formula():
    guess, target = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    by_hand = sum(((guess[i, j] - target[i, j]) ** 2).sum() / 4 for i in range(2) for j in range(3)) / 6
    assert_close(masked_regression(guess, target), by_hand)


@pytest.mark.parametrize("form", ["plain", "2.0"])
def test_masked_frames_do_not_reach_the_states(form):
    config = FORMS[form].student
    encoder = SpeechEncoder(ENCODER).eval()
    if isinstance(config, MultiMaskConfig):
        student = MultiMask(replace(config, masks=1), 32)
    else:
        student = MaskToken(config, 32)
    projected = torch.randn(2, 50, 32, requires_grad=True)
    states, index = student(encoder, projected)
    (gradient,) = torch.autograd.grad(states.square().sum(), projected)
    seen = gradient.abs().sum(-1) > 0
    hidden = torch.zeros(2, 50, dtype=torch.bool).scatter(1, index, True)
    assert not (seen & hidden).any()
    assert (seen | hidden).all()


def test_multi_mask_draws_the_given_number_of_masks():
    student = MultiMask(replace(TINY.student, masks=3), 32)
    states, index = student(SpeechEncoder(ENCODER), torch.randn(2, 50, 32))
    assert states.shape[:2] == index.shape
    assert len(index) == 6
    assert not torch.equal(index[0], index[2])


@pytest.mark.parametrize("form", FORMS)
def test_one_batch_can_be_learned(form):
    config = replace(FORMS[form], optim=OptimConfig(lr=3e-3))
    task, batch = Pretraining(config), clips()
    losses = []
    for step in range(24):
        torch.manual_seed(step % 2)
        losses.append(float(task.update(batch, step)["loss/encoder/total"]))
    assert np.mean(losses[-6:]) < 0.95 * np.mean(losses[:6])


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_trained_parameters_only(form):
    task = Pretraining(FORMS[form])
    loss, _ = task.losses(clips(2.0).wave, 0)
    loss.backward()
    learned = {id(p) for p in task.players["encoder"].parameters}
    for module in task.modules.values():
        for name, p in module.named_parameters():
            got = p.grad is not None and bool(p.grad.any())
            # The softmax cancels key biases.
            assert got == (id(p) in learned) or "k_proj.bias" in name, name


def test_collapse_stops_training():
    regression = Regression(RegressionConfig(guard_from=10), 4, 4)
    fine, dead = torch.tensor(0.5), torch.tensor(0.001)
    regression.guard({"spread/target": dead, "spread/prediction": dead}, 9)
    regression.guard({"spread/target": fine, "spread/prediction": fine}, 10)
    with pytest.raises(UserError, match=r"targets vary by 0\.001 over masked steps"):
        regression.guard({"spread/target": dead, "spread/prediction": fine}, 10)
    with pytest.raises(UserError, match=r"predictions vary by 0\.001"):
        regression.guard({"spread/target": fine, "spread/prediction": dead}, 10)


def test_the_schedule_has_three_stages():
    optim = tri_stage(1.0, 1000)
    assert optim.rate(0) == pytest.approx(1 / 30)
    assert optim.rate(29) == optim.rate(500) == optim.rate(930) == 1.0
    assert optim.rate(965) == pytest.approx(0.1)
    assert optim.rate(1000) == pytest.approx(0.01)


def test_presets_have_the_papers_sizes():
    base = PRESETS["base"]
    assert (base.model.layers, base.model.hidden, base.regression.teacher.top) == (12, 768, 8)
    assert (base.student.mask.share, base.student.mask.span) == (0.65, 10)
    assert base.data.batch_seconds * base.loop.accumulate == pytest.approx(63 * 60, rel=0.01)
    assert PRESETS["base-2.0"].student.masks == 8
    for name in ("small", "tiny"):
        Pretraining(PRESETS[name])


@pytest.fixture
def corpus(tmp_path):
    for i in range(4):
        wave = 0.1 * np.random.default_rng(i).standard_normal(24_000)
        soundfile.write(tmp_path / f"{i}.wav", wave, 16_000)
    (tmp_path / "list.csv").write_text(
        "path,split\n" + "".join(f"{i}.wav,{'validation' if i > 2 else 'train'}\n" for i in range(4))
    )
    return tmp_path / "list.csv"


def test_resume_is_exact(corpus, tmp_path):
    data = SpeechConfig(paths=(str(corpus),), batch_seconds=3.0, longest_seconds=1.5, shortest_seconds=0.5)
    speech = UnlabelledSpeech(data, progress=False)

    def run(name: str, steps: int) -> dict[str, torch.Tensor]:
        loop = LoopConfig(out=tmp_path / name, steps=steps, sample_every=0, trackers="none", cpu=True)
        task, _ = fit(lambda: Pretraining(TINY), Batches(speech, seed=0), loop)
        return {f"{m}.{k}": v for m, x in task.modules.items() for k, v in x.state_dict().items()}

    straight = run("a", 4)
    run("b", 2)
    again = run("b", 4)
    for name, tensor in straight.items():
        assert torch.equal(tensor, again[name]), name


def test_command_trains_and_exports_and_checkpoints_load(corpus, tmp_path, monkeypatch, capsys):
    words = f"--preset tiny --data.paths {corpus} --loop.out {tmp_path / 'run'} --loop.cpu".split()
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    with corpus.open("a") as table:
        table.write("bad.wav,train\n")
    monkeypatch.setattr(sys, "argv", ["data2vec.py", *words, "--loop.trackers", "none"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert "exported to" in printed.out
    assert "bad.wav is not audio" in printed.err
    encoder = load_speech_encoder(tmp_path / "run")
    assert encoder(clips().wave).last.shape == (2, ENCODER.frames(16_000), 32)
    shutil.rmtree(tmp_path / "run/export")  # as in an unfinished run
    unfinished = load_speech_encoder(tmp_path / "run")
    for ours, exported in zip(unfinished.parameters(), encoder.parameters(), strict=True):
        assert_close(ours, exported, atol=1e-3, rtol=1e-3)


def test_missing_data_and_missing_losses_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["data2vec.py", "--preset", "tiny", "--loop.out", str(tmp_path), "--loop.cpu"]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: no speech was given")
    with pytest.raises(UserError, match="there is no loss"):
        PretrainingConfig(regression=None)
