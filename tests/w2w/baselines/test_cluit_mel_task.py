"""The training task of CLUIT on mels: gradients of each loss, keys, missing labels, overfitting."""

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from data.batches import Batch
from data.frontends import LogMel
from engine.optim import OptimConfig
from w2w.baselines.cluit_mel.augment import AugmentConfig
from w2w.baselines.cluit_mel.config import CluitMelTaskConfig, Weights
from w2w.baselines.cluit_mel.losses import norm_loss
from w2w.baselines.cluit_mel.network import CluitMelConfig
from w2w.baselines.cluit_mel.task import CluitMel

NAMES = [f.name for f in fields(Weights)]
NONE = Weights(**dict.fromkeys(NAMES, 0.0))
NETWORK = CluitMelConfig(
    crop_frames=32, n_channels=8, max_channels=16, n_bottleneck=1, style_dim=8, projection_dim=8, n_speakers=3
)


class Listening(nn.Module):
    """A stand-in for the content loss, with a parameter that must not learn."""

    def __init__(self):
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.tensor(2.0)), 0

    def forward(self, converted, source):
        self.calls += 1
        return (self.scale * converted - source).square().mean()


def build(network=NETWORK, optim=OptimConfig(lr=1e-3, betas=(0.0, 0.99)), **changes) -> CluitMel:  # noqa: B008
    """A tiny task with the published algorithm but for what is changed."""
    config = CluitMelTaskConfig(**{"n_negatives": 8, "bank_slots": 12, **changes})
    return CluitMel(config, network, optim, optim, Listening())


@pytest.fixture
def batch(buzz) -> Batch:
    """Clips of three voices; the third speaker is unknown."""
    wave, other = buzz(5120, (110.0, 160.0, 240.0)), buzz(5120, (115.0, 155.0, 250.0))
    return Batch(wave, other, torch.tensor([0, 1, -1]), torch.tensor([5, 6, 7]))


def others(task: CluitMel, batch: Batch) -> None:
    """Store keys of other voices, which contrastive losses need."""
    task.bank.remember(torch.randn(3, 8), torch.tensor([-90, -91, -92]), torch.tensor([1, 2, 3]))


def moved(task: CluitMel, batch: Batch, steps=(0,)) -> tuple[set[str], dict]:
    """Names of the parts whose parameters changed, and the scalars of the last step."""
    parts = {"generator": task.network.generator, "style": task.network.style_encoder, "critic": task.critic}
    parts["listener"] = task.content
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    scalars = {}
    for step in steps:
        scalars = task.update(batch, step)
    changed = {
        name
        for name, part in parts.items()
        if any(not torch.equal(p, q) for p, q in zip(part.parameters(), before[name]))
    }
    return changed, scalars


GENERATOR = {"generator", "style"}
REACHES = {
    "adversarial": GENERATOR | {"critic"},
    "contrast_critic": set(),  # nobody listens to this critic
    "contrast_generator": GENERATOR,
    "label_critic": set(),
    "r1": set(),
}
HEARD = {
    "adversarial": {"generator/adversarial", "critic/adversarial"},
    "contrast_generator": {"generator/contrast"},
    "label_generator": {"generator/label"},
    "contrast_critic": set(),
    "label_critic": set(),
    "r1": set(),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_updates_only_its_networks(batch, name):
    task = build(weights=replace(NONE, **{name: 1.0}))
    others(task, batch)
    changed, scalars = moved(task, batch)
    assert changed == REACHES.get(name, GENERATOR)
    assert set(scalars) == {f"loss/{term}" for term in HEARD.get(name, {f"generator/{name}"})}
    assert all(p.grad is None for module in task.modules.values() for p in module.parameters())


@pytest.mark.parametrize("name", ["contrast_critic", "label_critic", "r1"])
def test_critic_losses_update_only_the_critic(batch, name):
    task = build(weights=replace(NONE, label_generator=1e-30, **{name: 1.0}))
    task.players["generator"].step = lambda loss: None
    others(task, batch)
    changed, scalars = moved(task, batch)
    assert changed == {"critic"}
    assert f"loss/critic/{name.removesuffix('_critic')}" in scalars


def test_every_parameter_receives_a_gradient_by_default(batch):
    weights = Weights(norm=1.0, label_critic=1.0, label_generator=1.0)
    task, seen = build(weights=weights), {}
    others(task, batch)
    for name, player in task.players.items():

        def spy(loss, name=name, player=player):
            seen[name] = torch.autograd.grad(loss, player.parameters, retain_graph=True, allow_unused=True)

        player.step = spy
    task.update(batch, 1)
    assert set(seen) == {"generator", "critic"}
    for gradients in seen.values():
        assert all(g is not None and torch.isfinite(g).all() and g.any() for g in gradients)


def test_losses_of_weight_zero_are_not_computed(batch, monkeypatch):
    task = build(weights=replace(NONE, norm=1.0))

    def refuse(*args, **kwargs):
        raise AssertionError("computed in vain")

    for part in (task.critic, task.critic_ema.module, task.content):
        monkeypatch.setattr(part, "forward", refuse)
    assert set(task.update(batch, 0)) == {"loss/generator/norm"}
    assert build(weights=NONE).update(batch, 0) == {}


def test_gradient_penalty_is_lazy_and_scaled_by_its_interval(batch):
    task = build(weights=replace(NONE, adversarial=1.0, r1=10.0), r1_every=3)
    came = [step for step in range(7) if "loss/critic/r1" in task.update(batch, step)]
    assert came == [0, 3, 6]
    heard = []
    task.players["critic"].step = lambda loss: heard.append(loss.item())
    for step in (3, 4):
        scalars = task.update(batch, step)
        r1 = scalars.get("loss/critic/r1", torch.zeros(()))
        assert_close(heard[-1], (scalars["loss/critic/adversarial"] + 0.5 * 10 * 3 * r1).item())
    assert heard[0] > heard[1]


def test_reference_is_the_previous_clip_of_the_batch(batch):
    task = build(weights=replace(NONE, norm=1.0))
    mel = LogMel(NETWORK.mel)(batch.wave)
    converted = task.network(mel, task.network.style_of_mel(mel).roll(1, 0))
    scalars = task.update(batch, 0)
    assert_close(scalars["loss/generator/norm"], norm_loss(converted, mel).detach())


@pytest.mark.parametrize("negatives", ["bank", "queue"])
def test_keys_come_from_the_averaged_critic_and_are_stored_after_the_step(batch, negatives):
    unchanged = AugmentConfig(tempo=0.0, shift=False, gain_db=0.0, mask_frames=0, mask_bands=0)
    task = build(weights=replace(NONE, contrast_generator=1.0), augment=unchanged, negatives=negatives)
    for p in task.critic_ema.module.parameters():
        p.data.mul_(0.5)  # so that the average is not the critic
    with torch.no_grad():
        expected = task.critic_ema.module(LogMel(NETWORK.mel)(batch.wave)).projection
        wrong = task.critic(LogMel(NETWORK.mel)(batch.wave)).projection
    first = task.update(batch, 0)
    drawn = task.bank.draw()
    assert_close(first["loss/generator/contrast"].item(), 0.0)  # nothing was remembered yet
    assert_close(drawn.keys, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn.keys, wrong, atol=1e-3)
    assert drawn.identity.tolist() == [-7, -8, -9]
    assert task.update(batch, 1)["loss/generator/contrast"] > 0


def test_positive_is_an_augmentation_of_the_clip(batch):
    task = build(weights=replace(NONE, contrast_generator=1.0))
    torch.manual_seed(1)
    key = task.voices(batch, task.frontend(batch.wave)).key
    with torch.no_grad():
        itself, other = (
            task.critic_ema.module(task.frontend(w)).projection for w in (batch.wave, batch.other)
        )
    assert (key - itself).abs().max() > 1e-4
    assert F.cosine_similarity(key, itself).mean() > F.cosine_similarity(key, other).mean() - 0.5


@pytest.mark.parametrize(("masked", "own"), [(True, [0, 1, -9]), (False, [-7, -8, -9])])
def test_identity_is_the_label_if_masking_is_on(batch, masked, own):
    task = build(mask_same_speaker=masked)
    assert task.voices(batch, task.frontend(batch.wave)).identity.tolist() == own


def test_contrast_of_a_constant_critic_is_the_log_of_the_number_of_candidates(batch):
    task = build(weights=replace(NONE, contrast_generator=1.0), mask_same_speaker=True)
    for critic in (task.critic, task.critic_ema.module):
        critic.projector.weight.data.zero_()
        critic.projector.bias.data.fill_(1.0)
    keys = torch.ones(4, 8)
    task.bank.remember(keys, torch.tensor([0, 0, 1, -50]), torch.tensor([1, 2, 3, 4]))
    # References: the third, the first and the second clip; of the first's speaker two keys are masked.
    left = [4, 2, 3]
    expected = sum(math.log(1 + n) for n in left) / 3
    assert_close(task.update(batch, 0)["loss/generator/contrast"].item(), expected, rtol=1e-4, atol=0)


def test_unlabelled_speech_trains_all_but_the_label_head(batch):
    task = build(weights=replace(NONE, label_critic=1.0, label_generator=1.0))
    changed, scalars = moved(task, batch._replace(speaker=torch.full((3,), -1)))
    assert scalars == {"loss/critic/label": 0.0, "loss/generator/label": 0.0}
    assert changed == set()


def test_label_losses_without_a_label_head_are_skipped(batch):
    weights = Weights(label_critic=1.0, label_generator=1.0)
    scalars = build(replace(NETWORK, n_speakers=0), weights=weights).update(batch, 0)
    assert not any("label" in name for name in scalars)


def test_label_losses_by_hand(batch):
    task = build(weights=replace(NONE, label_critic=1.0, label_generator=1.0))
    mel = task.frontend(batch.wave)
    with torch.no_grad():
        logits = task.critic(mel).speakers.log_softmax(-1)
        fake = task.network(mel, task.network.style_of_mel(mel).roll(1, 0))
    task.players["critic"].step = lambda loss: None
    scalars = task.update(batch, 0)
    assert_close(scalars["loss/critic/label"], -(logits[0, 0] + logits[1, 1]) / 2)
    with torch.no_grad():
        named = task.critic(fake).speakers.log_softmax(-1)
    # The first clip's reference is the third, whose speaker is not known.
    assert_close(scalars["loss/generator/label"], -(named[1, 0] + named[2, 1]) / 2)


def test_averaged_networks_follow_the_trained_ones(batch):
    task = build()
    task.update(batch, 0)
    for name in ("network", "critic"):
        ours, average = task.modules[name], task.modules[f"{name}_ema"]
        assert not any(p.requires_grad for p in average.parameters())
        gaps = [(p - q).abs().max() for p, q in zip(ours.parameters(), average.parameters())]
        assert 0 < max(gaps) < 1e-2


def test_one_batch_can_be_overfitted(batch):
    task = build(weights=replace(NONE, cycle=3.0), optim=OptimConfig(lr=5e-3, betas=(0.0, 0.99)))
    losses = [task.update(batch, step)["loss/generator/cycle"].item() for step in range(25)]
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


def test_critic_can_overfit_one_batch(batch):
    task = build(weights=replace(NONE, adversarial=1.0, r1=10.0, contrast_critic=0.1), mask_same_speaker=True)
    task.players["generator"].step = lambda loss: None
    losses = [task.update(batch, step)["loss/critic/adversarial"].item() for step in range(15)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("network", [NETWORK, replace(NETWORK, causal=True, norm="frozen")])
def test_bfloat16_computes(batch, network):
    task = build(
        network, weights=Weights(norm=1.0, label_critic=1.0, label_generator=1.0, reconstruction=1.0)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for step in range(2):
            scalars = task.update(batch, step)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in scalars.values())
    assert all(player.skipped == 0 for player in task.players.values())


def test_samples_and_metrics_can_be_computed(batch):
    task = build()
    task.update(batch, 0)
    with torch.no_grad():
        shown, scores = task.samples(1), task.evaluate(1)
    kinds = {name.split("/")[0] for name in shown.mels}
    assert kinds == {"source", "reference", "converted"}
    assert shown.mels["converted/0"].shape == (80, 32)
    assert shown.audio["converted/0"][0].shape[-1] == 5120
    assert all(math.isfinite(value) for value in scores.values())


def test_metrics_expose_a_network_that_copies(batch, monkeypatch):
    task = build()
    task.update(batch, 0)
    monkeypatch.setattr(type(task.averaged), "forward", lambda self, mel, voice: mel)
    with torch.no_grad():
        scores = task.evaluate(1)
    assert scores["changed"] == scores["changed_by_style"] == scores["nearer_to_reference"] == 0.0
    assert scores["spectrum_to_reference"] == pytest.approx(scores["spectra_apart"])
