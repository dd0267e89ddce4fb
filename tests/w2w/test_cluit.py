"""The CLUIT task: gradients of each loss, pairs, start steps, overfitting."""

import math
from dataclasses import fields, replace
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from data.augment import AugmentConfig
from data.batches import Batch
from data.pairs import HumanAndPairs, PairBatch
from engine.optim import OptimConfig
from pretrain.teachers import Framing, Teacher
from w2w.cluit.adversary import DiscriminatorConfig
from w2w.cluit.config import CLUITConfig, Weights
from w2w.cluit.rows import leveled
from w2w.cluit.task import CLUIT

SIZES = DiscriminatorConfig(
    n_scales=2, n_channels=4, max_channels=8, n_strided=2, projection_dim=8, n_speakers=2
)
NAMES = [f.name for f in fields(Weights)]
NONE = Weights(**dict.fromkeys(NAMES, 0.0))
CLEAN = AugmentConfig(gain=0.0, sign=0.0)
ALL = {"content", "style", "decoder"}
REACHES = {
    "reconstruction": ALL,
    "content": ALL,
    "distil": {"content", "teacher_head"},
    "adversarial": ALL | {"discriminator"},
    "feature_matching": ALL,
    "contrast_discriminator": {"discriminator"},
    "contrast_converter": ALL,
    "contrast_style": {"style", "projector"},
    "contrast_voice": ALL,
    "code_invariance": {"content"},
    "norm": ALL,
    "pitch_prior": {"pitch_predictor"},
    "label_discriminator": set(),  # no loss uses this discriminator
    "label_converter": ALL,
}


class Powers(nn.Module):
    """A stand-in for a speech encoder: powers of quarters of a frame, scaled by a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, wave):
        frames = wave[:, 0].unfold(-1, 160, 160).unflatten(-1, (4, 40))
        return (self.scale * frames.square().mean(-1) + 1e-4).log()


@pytest.fixture
def build(tiny):
    """Build a tiny task in which all losses start at step 0."""

    def task(sizes=SIZES, **changes):
        at_once = {"convert_from": 0, "convert_share": 0.7, "adversary_from": 0, "discriminator_every": 1}
        small = {"discriminator_samples": 1600, "discriminator_batch": 0, "bank_size": 8, "speeds": (1.0,)}
        clean = {"augment": CLEAN, "reference_augment": CLEAN}
        config, optim = CLUITConfig(**(at_once | small | clean | changes)), OptimConfig(lr=1e-3)
        teacher = Teacher(Powers(), Framing(160, 80, 400), 4)
        return CLUIT(config, tiny(), sizes, optim, optim, teacher=teacher)

    return task


@pytest.fixture
def human(buzz):
    """Clips of three voices; the third speaker is unknown."""
    wave, other = buzz(2400, (110.0, 160.0, 240.0)), buzz(2720, (115.0, 155.0, 250.0))
    return Batch(wave, other, torch.tensor([0, 1, -1]), torch.arange(3))


@pytest.fixture
def batch(human, buzz):
    """The human clips and a time-aligned pair."""
    source, target = buzz(2400, (130.0, 130.0)).split(1)
    pairs = PairBatch(source, 0.5 * target, buzz(2720, (135.0,)), torch.tensor([0]), torch.tensor([5]))
    return HumanAndPairs(human, pairs)


def test_adversarial_losses_ramp_up_linearly(build):
    weights = Weights(adversarial=0.5, content=3.0)
    task = build(weights=weights, adversary_from=10, adversary_warmup=4)
    assert [task.shares(step)["adversarial"] for step in (10, 11, 13, 99)] == [0.125, 0.25, 0.5, 0.5]
    assert task.shares(10)["content"] == 3.0


def changes(task, batch, steps=(0,)):
    """Return the names of parts whose parameters changed, and the scalars of the last step."""
    parts = {name: getattr(task.converter, name) for name in (*ALL, "pitch_predictor")}
    parts |= {name: getattr(task, name) for name in ("projector", "teacher_head", "discriminator")}
    parts["teacher"] = task.teacher
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    scalars = {}
    for step in steps:
        scalars = task.update(batch, step)
    pairs = {name: zip(part.parameters(), before[name]) for name, part in parts.items()}
    return {n for n, both in pairs.items() if any(not torch.equal(p, q) for p, q in both)}, scalars


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_updates_only_its_networks(build, batch, name):
    task = build(weights=replace(NONE, **{name: 1.0}))
    task.bank.push(torch.randn(4, 8), torch.full((4,), 7))  # others, without whom a contrast says nothing
    task.voices.push(torch.randn(4, 128), torch.full((4,), 7))
    moved, scalars = changes(task, batch)
    assert moved == REACHES[name]
    assert {term.split("/")[-1] for term in scalars} == ({name} if REACHES[name] else set())
    assert all(p.grad is None for p in task.converter.parameters())  # nothing lingers between players


def test_pitch_prior_skips_sources_in_another_voice(build, batch):
    translated = {"back_translate_from": 0, "back_translate_share": 1.0, "convert_share": 0.0}
    task = build(weights=replace(NONE, pitch_prior=1.0), **translated)
    assert task.update(batch, 0)["loss/converter/pitch_prior"] == 0.0
    assert task.update(HumanAndPairs(batch.human, None), 1)["loss/converter/pitch_prior"] > 0.0


def test_label_loss_updates_only_the_discriminator(build, batch):
    task = build(weights=replace(NONE, label_converter=1e-30, label_discriminator=1.0))
    task.players["converter"].step = lambda loss: None
    moved, scalars = changes(task, batch)
    assert moved == {"discriminator"}
    assert "loss/discriminator/label_discriminator" in scalars


def test_every_parameter_receives_a_gradient_by_default(build, batch):
    task, seen = build(sizes=replace(SIZES, n_speakers=0)), {}
    for parameter in task.converter.parameters():  # the refiner's gates begin closed
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    for name, player in task.players.items():

        def spy(loss, name=name, player=player, step=player.step):
            seen[name] = torch.autograd.grad(loss, player.parameters, retain_graph=True, allow_unused=True)
            return step(loss)

        player.step = spy
    task.update(batch, 0)
    assert set(seen) == {"converter", "discriminator"}
    for name, gradients in seen.items():
        for parameter, gradient in zip(task.players[name].parameters, gradients):
            if parameter.numel() and parameter.requires_grad:
                assert gradient is not None, (name, parameter.shape)
                assert torch.isfinite(gradient).all()
                # Inside the margins the hinge pushes the last bias up as much as down.
                assert gradient.any() or name == "discriminator", (name, parameter.shape)


def test_pairs_use_the_targets_voice_and_ground_truth(build, batch):
    task = build()
    rows = task.utterances(batch, 0)
    assert rows.human == 3
    assert rows.converted.tolist() == [True, True, False, False]
    assert rows.target.tolist() == [1, 2, 2, 3]
    assert rows.label.tolist() == [0, 1, -1, -1]
    assert rows.identity[3] == 2**40
    power = [wave[3].square().mean() for wave in (rows.source, rows.truth)]
    assert_close(power[0] / power[1], torch.tensor(4.0), rtol=0.1, atol=0)  # one gain for both
    assert torch.equal(rows.source[:3], rows.truth[:3])
    assert_close(rows.source[:3].abs(), leveled(batch.human.wave, -23.0).abs(), rtol=0.1, atol=0)


def test_reconstruction_loss_compares_known_ground_truths_only(build, batch):
    """An output equal to its ground truth has distance 0; converted rows are not compared."""
    task = build()
    rows = task.utterances(batch, 0)
    output = torch.where(rows.converted[:, None, None], torch.zeros_like(rows.truth), rows.truth)
    assert task.reconstruction_losses(rows, output)["reconstruction"] == 0.0
    output[3:] += 0.1 * torch.randn_like(output[3:])
    assert task.reconstruction_losses(rows, output)["reconstruction"] > 0.1


def test_training_works_without_pairs(build, human):
    moved, scalars = changes(build(), HumanAndPairs(human, None))
    assert moved >= ALL | {"discriminator"}
    assert "loss/converter/reconstruction" in scalars


def test_self_reconstruction_has_no_gradient_for_the_code(build, human, batch):
    alone = {"weights": replace(NONE, reconstruction=1.0), "convert_share": 0.0, "back_translate_share": 0.0}
    moved, _ = changes(build(**alone), HumanAndPairs(human, None))
    assert "decoder" in moved
    assert "content" not in moved
    assert "content" in changes(build(**alone), batch)[0]  # a pair's source has another voice than its truth


def test_losses_of_weight_zero_are_not_computed(build, batch, monkeypatch):
    task = build(weights=replace(NONE, norm=1.0))

    assert not task.comparisons
    unused = (task.discriminator, task.discriminator_ema.module, task.projector)
    for part in (*unused, task.projector_ema.module, task.teacher):
        monkeypatch.setattr(part, "forward", Mock(side_effect=AssertionError("computed in vain")))
    task.update(batch, 0)
    assert build(weights=NONE).update(batch, 0) == {}


def test_start_steps_are_respected(build, batch):
    task = build(convert_from=1, adversary_from=2, discriminator_every=2)
    _, scalars = changes(task, batch)
    assert "loss/converter/reconstruction" in scalars
    assert "loss/converter/norm" not in scalars  # nothing was converted
    moved, scalars = changes(task, batch, [1])
    assert "loss/converter/norm" in scalars
    assert "discriminator" not in moved
    assert not any("discriminator" in name or "adversarial" in name for name in scalars)
    updates = []
    for step in range(2, 7):
        scalars = task.update(batch, step)
        assert "loss/converter/adversarial" in scalars
        assert ("loss/discriminator/adversarial" in scalars) == (step % 2 == 0)
        updates.append(task.players["discriminator"].updates)
    assert updates == [1, 1, 2, 2, 3]
    assert task.players["converter"].updates == 7


@pytest.mark.parametrize("keys", ["bank", "moco"])
def test_keys_come_from_the_discriminator_or_its_average(build, batch, keys):
    task = build(weights=replace(NONE, contrast_discriminator=1.0), keys=keys, discriminator_samples=2400)
    for p in task.discriminator_ema.module.parameters():
        p.data.normal_()
    source = task.discriminator if keys == "bank" else task.discriminator_ema.module
    torch.manual_seed(3)
    rows = task.utterances(batch, 0)
    with torch.no_grad():
        expected = source(rows.reference[..., :2400]).projection
    torch.manual_seed(3)
    task.update(batch, 0)
    assert_close(task.bank.keys, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(task.bank.labels, rows.identity)


@pytest.mark.parametrize("speakers", [[0, 1, 2], [-1, -1, -1], [4, 4, 4]])
@pytest.mark.parametrize("masked", [True, False])
def test_keys_of_the_querys_identity_are_no_negatives(build, human, speakers, masked):
    """With constant embeddings, the loss is the log of the number of candidates."""
    task = build(weights=replace(NONE, contrast_style=1.0), mask_same_speaker=masked)
    batch = HumanAndPairs(human._replace(speaker=torch.tensor(speakers)), None)
    others = 0 if masked and speakers[0] == 4 else 2
    for step in range(2):  # the second finds the first's keys of the same recordings in the bank
        for layer in (task.projector, task.projector_ema.module):
            layer.weight.data.zero_()
        scalars = task.update(batch, step)
        expected = math.log(1 + others * (1 + step))
        assert_close(scalars["loss/converter/contrast_style"].item(), expected, rtol=0, atol=1e-3)


def test_unlabelled_speech_trains_all_but_the_label_head(build, human):
    task = build(weights=replace(NONE, label_discriminator=1.0, label_converter=1.0))
    batch = HumanAndPairs(human._replace(speaker=torch.full((3,), -1)), None)
    moved, scalars = changes(task, batch)
    assert scalars == {"loss/discriminator/label_discriminator": 0.0, "loss/converter/label_converter": 0.0}
    assert moved == set()


def test_speaker_at_another_speed_is_another_label_and_identity(build, buzz):
    task = build(speeds=(0.8, 1.0, 1.25))
    assert task.discriminator.config.n_speakers == 3 * SIZES.n_speakers
    speech, speaker = buzz(800, (100.0,) * 40), torch.arange(40) % 3 - 1
    rows = task.utterances(HumanAndPairs(Batch(speech, speech, speaker, torch.arange(40)), None), 0)
    known = speaker >= 0
    assert_close(rows.label[known] // 3, speaker[known])
    assert (rows.label[~known] == -1).all()
    assert_close(rows.identity[known], rows.label[known])
    assert (rows.identity[~known] < -1).all()
    assert len(rows.identity[~known].unique()) == (~known).sum()


def test_bfloat16_computes(build, batch):
    task = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scalars = [*task.update(batch, 0).values(), *task.update(batch, 1).values()]
    assert all(map(torch.isfinite, scalars))
    assert task.players["converter"].skipped == task.players["discriminator"].skipped == 0


def test_one_batch_can_be_overfitted(build, batch):
    quiet = {"warp": 0.0, "code_noise": 0.0, "earlier_level_db": 0.0}
    task = build(weights=replace(NONE, reconstruction=1.0), **quiet)
    task.players["converter"].config = replace(task.players["converter"].config, lr=5e-3)
    losses = [task.update(batch, step)["loss/converter/reconstruction"].item() for step in range(60)]
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_samples_and_metrics_can_be_computed(build, batch):
    task = build()
    task.update(batch, 0)
    with torch.no_grad():
        shown, scores = task.samples(1), task.evaluate(1)
    assert {name.split("/")[0] for name in shown.audio} == {"source", "reference", "converted", "rebuilt"}
    assert shown.audio["converted/0"][0].shape[-1] == 2400
    assert all(math.isfinite(value) for value in scores.values())
