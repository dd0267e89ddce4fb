"""The StarGAN task: updates per step, gradients of each loss, overfitting one batch."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from engine.optim import OptimConfig
from w2w.baselines.stargan.labels import LabelGroup, LabelledBatch, LabelsConfig
from w2w.baselines.stargan.task import StarGAN, StarGANTaskConfig, other_clips
from w2w.baselines.stargan.train import PRESETS

LABELS = LabelsConfig(
    first=LabelGroup(column="speaker", size=3),
    second=LabelGroup(column="corpus", size=2),
    third=LabelGroup(column="gender", size=2),
)
SHAPE = replace(PRESETS["tiny"].stargan, labels=LABELS)
OFF = StarGANTaskConfig(
    gradient_penalty=0.0, classes=0.0, reconstruction=0.0, identity=0.0, feature_matching=0.0
)


def build(config=OFF, lr=1e-3, shape=SHAPE):
    optim = OptimConfig(optimizer="rmsprop", lr=lr)
    return StarGAN(config, shape, optim, optim)


def batch(n=10):
    """A different chord for each clip, for three speakers in turn."""
    at = torch.arange(SHAPE.spectrogram.crop_samples) / 16_000
    pitch = 150.0 + 60.0 * torch.arange(n)[:, None, None]
    wave = sum(torch.sin(2 * torch.pi * k * pitch * at) for k in (1, 2, 3)) / 3
    labels = torch.stack([torch.arange(n) % 3, torch.arange(n) % 3 - 1, -torch.ones(n).long()], dim=1)
    return LabelledBatch(wave, labels)


def test_five_discriminator_updates_per_generator_update():
    task = build(StarGANTaskConfig())
    scalars = task.update(batch(), 0)
    assert (task.players["discriminator"].updates, task.players["generator"].updates) == (5, 1)
    assert set(scalars) == {
        *(f"loss/discriminator/{name}" for name in ("adversarial", "gradient_penalty", "classes")),
        *(
            f"loss/generator/{name}"
            for name in ("adversarial", "classes", "reconstruction", "identity", "feature_matching")
        ),
    }


def test_every_update_uses_different_clips(monkeypatch):
    task, heard = build(), []
    losses = task.discriminator_losses

    def listen(spectrogram, label, target):
        heard.append(spectrogram)
        return losses(spectrogram, label, target)

    monkeypatch.setattr(task, "discriminator_losses", listen)
    clips = batch()
    task.update(clips, 0)
    assert_close(torch.cat(heard), task.spectrogram(clips.wave))


def test_target_labels_come_from_other_clips():
    labels = torch.arange(4)[:, None].expand(-1, 2)
    drawn = {tuple(other_clips(labels)[:, 0].tolist()) for _ in range(50)}
    assert drawn == {(3, 0, 1, 2), (2, 3, 0, 1), (1, 2, 3, 0)}
    assert torch.equal(other_clips(torch.tensor([[0, -1], [2, 1]])), torch.tensor([[2, 1], [0, -1]]))


@pytest.mark.parametrize("term", ["classes", "reconstruction", "identity", "feature_matching"])
def test_each_loss_term_updates_the_generator(term):
    """Beside the adversarial term, which cannot be switched off, each weight changes the gradient."""
    clips, gradients = batch(2), []
    for weight in (0.0, 5.0):
        torch.manual_seed(1)
        task = build(replace(OFF, **{term: weight}))
        spectrogram = task.spectrogram(clips.wave)
        loss = task.total(task.generator_losses(spectrogram, clips.labels, clips.labels.roll(1, 0)))
        gradients.append(torch.autograd.grad(loss, task.generator.out.weight)[0])
    assert not torch.equal(*gradients)


@pytest.mark.parametrize("losses", ["experiment", "own"])
def test_loss_variants_use_their_distances(losses):
    """On one batch: squared error or L1, mean over known labels or sum."""
    torch.manual_seed(0)
    task, clips = build(replace(OFF, losses=losses)), batch(2)
    spectrogram, target = task.spectrogram(clips.wave), clips.labels.roll(1, 0)
    generator = task.generator_losses(spectrogram, clips.labels, target)
    discriminator = task.discriminator_losses(spectrogram, clips.labels, target)
    off = task.convert(spectrogram, clips.labels) - spectrogram
    identity = off.square().mean() if losses == "experiment" else off.abs().mean()
    assert_close(generator["identity"], identity)
    logits = task.discriminator(spectrogram).labels
    known = torch.tensor([[True] * 3 + [of > 0] * 2 + [False] * 2 for of in (0, 1)])
    one_hot = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0, 0]])
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")[known]
    assert_close(discriminator["classes"], each.mean() if losses == "experiment" else each.sum() / 2)


def test_discriminator_loss_has_no_gradient_for_the_generator():
    task = build(StarGANTaskConfig())
    clips = batch(2)
    spectrogram = task.spectrogram(clips.wave)
    loss = task.total(task.discriminator_losses(spectrogram, clips.labels, clips.labels.roll(1, 0)))
    loss.backward()
    assert all(p.grad is None for p in task.generator.parameters())
    assert all(p.grad is not None and p.grad.any() for p in task.discriminator.parameters())


def test_generator_update_leaves_the_discriminator_unchanged():
    task = build(StarGANTaskConfig())
    before = [p.clone() for p in task.discriminator.parameters()]
    clips = batch(2)
    loss = task.total(
        task.generator_losses(task.spectrogram(clips.wave), clips.labels, clips.labels.roll(1, 0))
    )
    task.players["generator"].step(loss)
    for now, then in zip(task.discriminator.parameters(), before):
        assert torch.equal(now, then)


def test_unknown_labels_give_no_gradient():
    """The third group is unknown in all clips: its rows of the head get no gradient."""
    task = build(StarGANTaskConfig())
    clips = batch(2)
    loss = task.total(
        task.discriminator_losses(task.spectrogram(clips.wave), clips.labels, clips.labels.roll(1, 0))
    )
    (gradient,) = torch.autograd.grad(loss, task.discriminator.classes.weight)
    assert gradient[:3].any()
    assert not gradient[5:].any()


@pytest.mark.parametrize("losses", ["experiment", "own"])
def test_one_batch_can_be_learned(losses):
    """The generator learns identity and cycle of one batch, the discriminator its labels."""
    config = StarGANTaskConfig(losses=losses, critic_updates=1)
    task, clips = build(config, lr=3e-3), batch(3)
    spectrogram = task.spectrogram(clips.wave)
    first = task.update(clips, 0)
    for step in range(1, 60):
        last = task.update(clips, step)
    for term in ("generator/identity", "generator/reconstruction", "discriminator/classes"):
        assert last[f"loss/{term}"] < 0.5 * first[f"loss/{term}"], term
    heard = task.discriminator(spectrogram).labels[:, :3].argmax(1)
    assert torch.equal(heard, clips.labels[:, 0])


def test_samples_and_metrics_leave_the_task_unchanged():
    task = build(StarGANTaskConfig())
    task.update(batch(), 0)
    before = {k: v.clone() for k, v in task.generator.state_dict().items()}
    with torch.no_grad():
        shown, scores = task.samples(1), task.evaluate(1)
    assert set(shown.mels) == {"source", "converted", "returned", "kept", "target"}
    assert all(spectrogram.shape == (64, 64) for spectrogram in shown.mels.values())
    assert set(scores) == {"moved", "apart", "label", "obeyed"}
    assert 0 <= scores["obeyed"] <= 1
    assert scores["apart"] > 0
    assert task.generator.training
    for name, tensor in task.generator.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_step_in_bfloat16_is_finite():
    task = build(StarGANTaskConfig())
    with torch.autocast("cpu", torch.bfloat16):
        scalars = task.update(batch(), 0)
    assert all(value.isfinite() and value.dtype is torch.float32 for value in scalars.values())
    assert task.players["generator"].skipped == task.players["discriminator"].skipped == 0
