"""WaveGlow's training: learning, resuming, scores, and predicted mels."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.batches import Batch
from data.frontends import MelConfig
from engine.loop import LoopConfig, fit
from engine.optim import OptimConfig
from engine.user_error import UserError
from vocoders.tasks.waveglow import WaveGlowTask, WaveGlowTaskConfig
from vocoders.waveglow import WaveGlowConfig

NETWORK = WaveGlowConfig(n_mels=20, n_flows=3, n_early_every=2, n_layers=2, n_channels=8, hop=160, window=320)
MEL = MelConfig(sample_rate=16_000, n_fft=512, win=512, hop=160, n_mels=20, f_max=8_000.0)
CONFIG = WaveGlowTaskConfig(network=NETWORK, optim=OptimConfig(lr=3e-3, betas=(0.9, 0.999)))


def batch(step: int) -> Batch:
    wave = 0.3 * torch.sin(torch.arange(1600) * 0.1 + torch.tensor([[[0.0]], [[1.0]]]) + step)
    return Batch(wave, wave, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long))


def test_training_lowers_the_loss_and_is_scored():
    task = WaveGlowTask(CONFIG, MEL, [0.1 * torch.randn(1, 1, 16_000)])
    losses = [task.update(batch(0), step)["loss/network/likelihood"].item() for step in range(30)]
    assert losses[-1] < losses[0] - 0.5
    with torch.no_grad():
        assert "likelihood" in task.evaluate(30)
        shown = task.samples(30)
    assert set(shown.audio) == {"original/0", "resynthesised/0"}


def test_resume_is_exact(tmp_path):
    def run(name: str, steps: int) -> dict[str, torch.Tensor]:
        task = WaveGlowTask(CONFIG, MEL)
        loop = LoopConfig(
            out=tmp_path / name, steps=steps, sample_every=0, trackers="none", cpu=True, log_every=1
        )
        fit(lambda: task, lambda start: (batch(step) for step in range(start, 100)), loop)
        return task.network.state_dict()

    torch.manual_seed(0)
    straight = run("a", 4)
    torch.manual_seed(0)
    run("b", 2)
    assert_close(run("b", 4), straight, rtol=0, atol=0)


def test_predicted_mels_are_used():
    task = WaveGlowTask(CONFIG, MEL)
    torch.nn.init.normal_(task.network.WN[0].end.weight)

    class WithMel:
        wave, mel = batch(0).wave, torch.zeros(2, 20, 10)

    expected = WaveGlowTask(CONFIG, MEL)
    expected.network.load_state_dict(task.network.state_dict())
    ours = task.update(WithMel, 0)["loss/network/likelihood"]
    assert ours != expected.update(batch(0), 0)["loss/network/likelihood"]


def test_user_errors_are_refused():
    with pytest.raises(UserError, match="change one of them to match"):
        WaveGlowTask(CONFIG, replace(MEL, n_mels=80))
    with pytest.raises(UserError, match="sigma"):
        replace(CONFIG, sigma=0.0)
