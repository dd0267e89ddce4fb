"""Neural Griffin-Lim: training, matching of mel bands, streaming, and errors."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.batches import Batch
from data.frontends import LogMel, MelConfig
from engine.checkpoint import export
from engine.loop import LoopConfig, fit
from engine.optim import OptimConfig
from engine.user_error import UserError
from vocoders import load_vocoder
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.neural_griffin_lim import NeuralGriffinLim, NeuralGriffinLimConfig
from vocoders.tasks.magnitudes import MagnitudesTask, MagnitudesTaskConfig, spectral_convergence
from vocoders.vocoder import Vocoder, VocoderConfig

MEL = MelConfig(sample_rate=8_000, n_fft=256, win=256, hop=64, n_mels=20, f_max=4_000.0)
NETWORK = NeuralGriffinLimConfig(
    n_mels=20, channels=16, hidden=32, n_blocks=1, phases=GriffinLimConfig(iterations=4, block=64, overlap=16)
)
CONFIG = MagnitudesTaskConfig(network=NETWORK, ema_decay=0.5, optim=OptimConfig(lr=1e-2, gradient_clip=1.0))


def waves(rows: int = 2) -> torch.Tensor:
    """Harmonics that 20 bands do not resolve."""
    time = torch.arange(6_400) / 8_000
    pitch = 110.0 * (1 + torch.arange(rows)[:, None, None])
    return 0.05 * sum(torch.sin(2 * torch.pi * n * pitch * time) for n in range(1, 15))


def batch(step: int = 0) -> Batch:
    unknown = torch.zeros(2, dtype=torch.long)
    return Batch(waves(), waves(), unknown, unknown)


def test_training_improves_on_least_squares_magnitudes():
    task = MagnitudesTask(CONFIG, MEL, [waves(1)])
    first = task.update(batch(), 0)
    for step in range(1, 80):
        last = task.update(batch(), step)
    assert last["loss/network/likelihood"] < first["loss/network/likelihood"] - 0.5
    mel, true = task.log_mel(waves()), task.magnitudes(waves())
    with torch.no_grad():
        learned = spectral_convergence(task.trained.magnitudes(mel), true)
        smeared = spectral_convergence(task.network.griffin_lim.magnitudes(mel), true)
        assert learned < 0.6 * smeared
        assert {"likelihood", "convergence", "log_mel_l1"} <= set(task.evaluate(80))


def test_resume_is_exact(tmp_path):
    def run(name: str, *steps: int) -> dict[str, torch.Tensor]:
        for upto in steps:
            loop = LoopConfig(out=tmp_path / name, steps=upto, sample_every=0, trackers="none", cpu=True)
            task, _ = fit(lambda: MagnitudesTask(CONFIG, MEL), lambda start: iter(batch, None), loop)
        return task.trained.state_dict()

    assert_close(run("b", 2, 4), run("a", 4), rtol=0, atol=0)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("log", ["ln", "log10"])
def test_magnitudes_match_the_mel_bands(power, log):
    definition = replace(MEL, power=power, log=log)
    network, mel = NeuralGriffinLim(NETWORK, definition), LogMel(definition)(waves())
    torch.nn.init.normal_(network.out.bias, std=0.3)
    with torch.no_grad():
        matched, free = network.magnitudes(mel), network.log_magnitudes(mel)[0].exp()
        bands = network.griffin_lim.bands(mel)
        errors = [
            ((made.pow(power) @ network.griffin_lim.filters.T).log() - bands.log()).abs().mean()
            for made in (matched, free)
        ]
    assert errors[0] < 0.7 * errors[1]


def test_pieces_and_exports_give_the_same_wave(tmp_path):
    vocoder = Vocoder(VocoderConfig(mel=MEL, network=NETWORK)).eval()
    mel = LogMel(MEL)(waves(1).repeat(1, 1, 3))
    whole = vocoder(mel)
    assert whole.shape == (1, 1, mel.shape[-1] * MEL.hop)
    cut = torch.cat(list(vocoder.stream(mel.split([1, 7, 100, mel.shape[-1] - 108], dim=-1))), dim=-1)
    assert_close(cut, whole, rtol=0, atol=0)
    export(tmp_path, vocoder.config, vocoder.network)
    assert_close(load_vocoder(str(tmp_path))(mel), whole, rtol=0, atol=0)


def test_user_errors_are_refused():
    with pytest.raises(UserError, match=r"n_blocks=6 see 21 frames .* phases\.overlap=28"):
        NeuralGriffinLimConfig(phases=GriffinLimConfig(overlap=16))
    with pytest.raises(UserError, match=r"80 bands, the mel definition has \d+ and 20"):
        MagnitudesTask(replace(CONFIG, network=replace(NETWORK, n_mels=80)), MEL)
    with pytest.raises(UserError, match="must rise"):
        replace(CONFIG, peaks_db=(-1.0, -24.0))
    with pytest.raises(UserError, match="floor"):
        replace(CONFIG, floor=0.0)
