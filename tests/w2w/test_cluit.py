"""The CLUIT task: which loss reaches whom, what is switched off, when the critic moves, that it learns."""

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from data.batches import Batch
from engine.optim import OptimConfig
from w2w.cluit import task as module
from w2w.cluit.augment import level_and_sign, other_speeds, same_stretch
from w2w.cluit.config import CLUITConfig, Weights
from w2w.cluit.task import CLUIT
from w2w.networks.discriminator import Critic, CriticConfig

CRITIC = CriticConfig(n_scales=2, n_channels=4, max_channels=8, n_strided=2, projection_dim=8, n_speakers=2)
NAMES = [f.name for f in fields(Weights)]
NONE = Weights(**dict.fromkeys(NAMES, 0.0))
CONVERTER = ("content", "style", "decoder")


class Listening(nn.Module):
    """A stand-in for the content loss, with a parameter that must not learn."""

    def __init__(self):
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.tensor(2.0)), 0

    def forward(self, converted, source):
        self.calls += 1
        return (self.scale * converted - source).square().mean()


@pytest.fixture
def build(tiny):
    """Build a tiny task with some weights alone, in which everything begins at once."""

    def task(head="harmonic", critic=CRITIC, frontend="mel", **changes):
        at_once = {"convert_from": 0, "adversary_from": 0, "critic_every": 1, "critic_samples": 1600}
        config = CLUITConfig(**{"bank_size": 8, "critic_batch": 0, "speeds": (1.0,), **at_once, **changes})
        optim = OptimConfig(lr=1e-3)
        return CLUIT(config, tiny(head, frontend), critic, optim, optim, Listening())

    return task


@pytest.fixture
def batch(buzz):
    """Three voices' clips; the third speaker is not known."""
    wave, other = buzz(2400, (110.0, 160.0, 240.0)), buzz(2720, (115.0, 155.0, 250.0))
    return Batch(wave, other, torch.tensor([0, 1, -1]), torch.arange(3))


def changes(task, batch, steps=(0,)):
    """Return the names of networks' parts whose parameters moved, and the scalars of the last step."""
    parts = {name: getattr(task.converter, name) for name in CONVERTER}
    parts |= {"projector": task.projector, "critic": task.critic, "listener": task.content_loss}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    scalars = {}
    for step in steps:
        scalars = task.update(batch, step)
    moved = {
        name
        for name, part in parts.items()
        if any(not torch.equal(p, q) for p, q in zip(part.parameters(), before[name]))
    }
    return moved, scalars


REACHES = {
    "reconstruction": {"content", "style", "decoder"},
    "adversarial": {"content", "style", "decoder", "critic"},
    "feature_matching": {"content", "style", "decoder"},
    "contrast_critic": {"critic"},
    "contrast_converter": {"content", "style", "decoder"},
    "contrast_style": {"style", "projector"},
    "contrast_voice": {"content", "style", "decoder"},
    "cycle_code": {"content", "style", "decoder"},
    "cycle_wave": {"content", "style", "decoder"},
    "norm": {"content", "style", "decoder"},
    "content": {"content", "style", "decoder"},
    "label_critic": set(),  # nothing listens to this critic
    "label_converter": {"content", "style", "decoder"},
    "r1": set(),
}
HEARD = {
    "adversarial": {"converter/adversarial", "critic/adversarial"},
    "contrast_critic": {"critic/contrast"},
    "contrast_converter": {"converter/contrast"},
    "label_critic": set(),
    "label_converter": {"converter/label"},
    "r1": set(),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_alone_reaches_what_it_may_and_nothing_else(build, batch, name):
    task = build(weights=replace(NONE, **{name: 1.0}))
    task.bank.push(torch.randn(4, 8), torch.full((4,), 7))  # others, without whom a contrast says nothing
    task.voices.push(torch.randn(4, 128), torch.full((4,), 7))
    judges = [p.clone() for p in task.converter_ema.module.parameters()]
    task.converter_ema.update = lambda step: None
    moved, scalars = changes(task, batch)
    assert moved == REACHES[name]
    assert set(scalars) == {f"loss/{term}" for term in HEARD.get(name, {f"converter/{name}"})}
    assert all(torch.equal(p, q) for p, q in zip(task.converter_ema.module.parameters(), judges))
    assert all(p.grad is None for p in task.converter.parameters())  # nothing lingers between players


@pytest.mark.parametrize("name", ["label_critic", "r1"])
def test_losses_of_a_critic_that_is_heard_reach_it_alone(build, batch, name):
    task = build(weights=replace(NONE, label_converter=1e-30, **{name: 1.0}))
    task.players["converter"].descend = lambda loss: None
    moved, scalars = changes(task, batch)
    assert moved == {"critic"}
    assert f"loss/critic/{name.removesuffix('_critic')}" in scalars


@pytest.mark.parametrize("head", ["harmonic", "istft", "transposed"])
def test_by_default_every_parameter_learns(build, batch, head):
    task, seen = build(head, critic=replace(CRITIC, n_speakers=0)), {}
    for name, player in task.players.items():
        descend = player.descend

        def spy(loss, name=name, player=player, descend=descend):
            seen[name] = torch.autograd.grad(loss, player.parameters, retain_graph=True, allow_unused=True)
            return descend(loss)

        player.descend = spy
    task.update(batch, 0)
    for name, gradients in seen.items():
        for parameter, gradient in zip(task.players[name].parameters, gradients):
            if parameter.numel():
                assert gradient is not None, (name, parameter.shape)
                assert torch.isfinite(gradient).all()
                # Inside the margins the hinge pushes the critic's last bias up as much as down.
                assert gradient.any() or name == "critic", (name, parameter.shape)
    assert set(seen) == {"converter", "critic"}


def test_what_has_no_weight_is_not_computed(build, batch, monkeypatch):
    task = build(weights=replace(NONE, norm=1.0))

    def refuse(*args, **kwargs):
        raise AssertionError("computed in vain")

    for part in (
        task.critic,
        task.critic_ema.module,
        task.distance,
        task.projector_ema.module,
        task.projector,
    ):
        monkeypatch.setattr(part, "forward", refuse)
    task.update(batch, 0)
    assert isinstance(task.content_loss, Listening)
    assert task.content_loss.calls == 0
    silent = build(weights=NONE)
    assert silent.update(batch, 0) == {}


def test_contrast_of_the_critic_trains_it_without_adversary(build, batch, monkeypatch):
    task = build(weights=replace(NONE, contrast_critic=1.0, contrast_converter=1.0))
    task.bank.push(torch.randn(4, 8), torch.full((4,), 7))
    moved, scalars = changes(task, batch)
    assert moved == {"content", "style", "decoder", "critic"}
    assert set(scalars) == {"loss/critic/contrast", "loss/converter/contrast"}


def test_when_things_begin(build, batch):
    task = build(convert_from=1, adversary_from=2, critic_every=2)
    moved, scalars = changes(task, batch)
    assert set(scalars) == {"loss/converter/reconstruction", "loss/converter/contrast_style"}
    moved, scalars = changes(task, batch, [1])
    assert "critic" not in moved
    assert "loss/converter/cycle_code" in scalars
    assert not any("critic" in name or "adversarial" in name for name in scalars)
    updates = []
    for step in range(2, 7):
        scalars = task.update(batch, step)
        assert "loss/converter/adversarial" in scalars
        assert ("loss/critic/adversarial" in scalars) == (step % 2 == 0)
        updates.append(task.players["critic"].updates)
    assert updates == [1, 1, 2, 2, 3]
    assert task.players["converter"].updates == 7


def test_r1_comes_every_nth_update_of_the_critic(build, batch):
    task = build(weights=replace(NONE, adversarial=1.0, r1=10.0), critic_every=2, r1_every=3)
    came = [step for step in range(14) if "loss/critic/r1" in task.update(batch, step)]
    assert came == [0, 6, 12]


@pytest.mark.parametrize("keys", ["bank", "moco"])
def test_keys_come_from_the_critic_or_its_average(build, batch, keys):
    weights = replace(NONE, contrast_critic=1.0)
    task = build(weights=weights, keys=keys, gain_db=0.0, critic_samples=2400)
    for p in task.critic_ema.module.parameters():
        p.data.normal_()
    source = task.critic if keys == "bank" else task.critic_ema.module
    torch.manual_seed(3)
    wave, *_ = task.perturb(batch)
    with torch.no_grad():
        expected = source(wave.roll(1, 0)).projection
    torch.manual_seed(3)
    task.update(batch, 0)
    assert_close(task.bank.keys, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("speakers", [[0, 1, 2], [-1, -1, -1]])
@pytest.mark.parametrize("masked", [True, False])
def test_no_recording_is_its_own_negative(build, batch, speakers, masked):
    """To a judge that hears all alike, the loss is the log of how many there are to choose from."""
    task = build(weights=replace(NONE, contrast_style=1.0, contrast_voice=1.0), mask_same_speaker=masked)
    for p in (task.projector.weight, task.projector_ema.module.weight):
        p.data.zero_()
    batch = batch._replace(speaker=torch.tensor(speakers))
    for step in range(2):  # the second finds the first's keys of the same recordings in the bank
        scalars = task.update(batch, step)
        for p in (task.projector.weight, task.projector_ema.module.weight):
            p.data.zero_()
        in_bank = 2 * step
        assert_close(
            scalars["loss/converter/contrast_style"].item(), math.log(1 + 2 + in_bank), rtol=0, atol=1e-3
        )
        assert_close(
            scalars["loss/converter/contrast_voice"].item(), math.log(1 + 2 + 2 + in_bank), rtol=0, atol=1e-3
        )


def test_same_speaker_is_masked_where_asked(build, batch):
    batch = batch._replace(speaker=torch.tensor([4, 4, 4]))
    for masked, alike in ((True, 0.0), (False, math.log(3))):
        task = build(weights=replace(NONE, contrast_style=1.0), mask_same_speaker=masked)
        task.projector.weight.data.zero_()
        task.projector_ema.module.weight.data.zero_()
        assert_close(task.update(batch, 0)["loss/converter/contrast_style"].item(), alike, rtol=0, atol=1e-4)


def test_unlabelled_speech_trains_all_but_the_label_head(build, batch):
    task = build(weights=replace(NONE, label_critic=1.0, label_converter=1.0))
    moved, scalars = changes(task, batch._replace(speaker=torch.full((3,), -1)))
    assert scalars == {"loss/critic/label": 0.0, "loss/converter/label": 0.0}
    assert moved == set()


def test_another_speed_is_another_voice(build, buzz):
    waves, speed = other_speeds((buzz(4000, (100.0,) * 40), buzz(3000, (100.0,) * 40)), (0.8, 1.0, 1.25))
    assert [wave.shape for wave in waves] == [(40, 1, 4000), (40, 1, 3000)]
    assert set(speed.tolist()) == {0, 1, 2}
    from w2w.networks.pitch import PitchTracker

    f0 = PitchTracker(16_000, 160)(waves[0][..., :3200]).log_f0[:, 0, -1].exp()
    assert_close(f0.float(), 100 * torch.tensor([0.8, 1.0, 1.25])[speed], rtol=0.05, atol=0)
    task = build(speeds=(0.8, 1.0, 1.25))
    assert task.critic.config.n_speakers == 3 * CRITIC.n_speakers
    speech = buzz(800, (100.0,) * 40)
    batch = Batch(speech, speech, torch.arange(40) % 3 - 1, torch.arange(40))
    _, _, label, identity = task.perturb(batch)
    known = batch.speaker >= 0
    assert_close(label[known] // 3, batch.speaker[known])
    assert (label[~known] == -1).all()
    assert_close(identity[known], label[known])
    assert (identity[~known] < -1).all()
    assert len(identity[~known].unique()) == (~known).sum()


def test_level_and_sign_change_by_no_more_than_asked():
    changed = level_and_sign(torch.ones(500, 1, 2), 6.0)[:, 0]
    gains_db = 20 * changed.abs().log10()
    assert_close(changed[:, 0], changed[:, 1])
    assert gains_db.abs().max() <= 6.01
    assert gains_db.min() < -5
    assert gains_db.max() > 5
    assert 0.3 < (changed > 0).float().mean() < 0.7


def test_the_critic_hears_one_place_of_all():
    ramp = torch.arange(100.0)[None, None].expand(3, -1, -1)
    long, short, tail = same_stretch((ramp, ramp, ramp[..., :20]), 30, 2)
    assert long.shape == short.shape == (2, 1, 30)
    assert_close(long, short)
    assert tail.shape[:2] == (2, 1)
    assert [len(w) for w in same_stretch((ramp, ramp), 400, 0)] == [3, 3]


def test_the_critic_judges_scales_projects_and_names():
    critic = Critic(CRITIC)
    judgement = critic(torch.randn(2, 1, 1024))
    assert [s.shape for s in judgement.scores] == [(2, 1, 64), (2, 1, 32)]
    assert len(judgement.features[0]) == CRITIC.n_strided + 2
    assert_close(judgement.projection.norm(dim=-1), torch.ones(2))
    assert judgement.speakers.shape == (2, 2)
    assert Critic(replace(CRITIC, n_speakers=0))(torch.randn(1, 1, 1024)).speakers.shape == (1, 0)


@pytest.mark.parametrize("head", ["harmonic", "istft", "transposed"])
def test_bfloat16_computes(build, batch, head):
    task = build(head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for step in range(2):
            scalars = task.update(batch, step)
    assert all(torch.isfinite(value) for value in scalars.values())
    assert task.players["converter"].skipped == task.players["critic"].skipped == 0


def test_one_batch_is_learned_by_heart(build, batch):
    task = build(weights=replace(NONE, reconstruction=1.0), warp=0.0, code_noise=0.0, gain_db=0.0)
    for player in task.players.values():
        player.config = replace(player.config, lr=5e-3)
    losses = [task.update(batch, step)["loss/converter/reconstruction"].item() for step in range(60)]
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_what_is_watched_can_be_computed(build, batch):
    task = build()
    task.update(batch, 0)
    with torch.no_grad():
        shown, scores = task.samples(1), task.evaluate(1)
    assert {name.split("/")[0] for name in shown.audio} == {"source", "reference", "converted", "rebuilt"}
    assert shown.audio["converted/0"][0].shape[-1] == 2400
    assert all(math.isfinite(value) for value in scores.values())


def test_the_algorithm_uses_the_losses_it_names(build, batch, monkeypatch):
    monkeypatch.setattr(module, "least_squares_critic", lambda real, fake: real[0].mean() * 0 + 5.0)
    task = build(gan="least_squares", weights=replace(NONE, adversarial=1.0))
    assert task.update(batch, 0)["loss/critic/adversarial"] == 5.0
