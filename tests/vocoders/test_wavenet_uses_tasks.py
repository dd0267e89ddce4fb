"""WaveNet's training tasks: losses of every signal, learning, streaming, and the speak command."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.audio import load
from data.batches import Address
from data.frontends import LogMel, named_mel
from engine.optim import OptimConfig
from engine.user_error import UserError
from vocoders import speak, train_spoken
from vocoders.tasks.presets import TASKS
from vocoders.tasks.wavenet import WaveBatch, WaveNetTask, WaveNetTaskConfig
from vocoders.train_spoken import PRESETS, SpokenTrainConfig, build
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw
from vocoders.wavenet.mel_wavenet import MelWaveNet, MelWaveNetConfig, voiced
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig
from vocoders.wavenet.phoneme_recogniser import PhonemeRecogniser, PhonemeRecogniserConfig
from vocoders.wavenet.sampling import Sampler
from vocoders.wavenet.spoken import SpokenCrops

MEL = named_mel("speech16k")
ADAM = OptimConfig(lr=1e-2)
SMALL = WaveNetConfig(
    layers=4,
    stacks=1,
    residual=8,
    gate=16,
    skip=8,
    kernel=2,
    output=MixtureOfLogistics(n=2),
    local=LocalConfig(upsampling="repetition", scales=(160,), pad=0),
)
SIGNALS = ["wave", "excitnet", "lp_wavenet"]


def buzz(n_samples: int = 3_200) -> torch.Tensor:
    time = torch.arange(n_samples) / 16_000
    tone = sum(torch.sin(2 * math.pi * 150 * k * time) / k for k in range(1, 20))
    return (0.05 * tone + 0.003 * torch.randn(n_samples))[None, None]


def descent(task, batch, steps: int = 10) -> tuple[float, float]:
    losses = [float(next(iter(task.update(batch, step).values())).detach()) for step in range(steps)]
    return losses[0], losses[-1]


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("output", [MixtureOfLogistics(n=2), Gaussian(), Gaussian(n=2)])
def test_every_signal_and_output_can_be_trained(signal, output):
    network = MelWaveNetConfig(wavenet=replace(SMALL, output=output), signal=signal)
    task = WaveNetTask(WaveNetTaskConfig(network=network, optim=ADAM), MEL)
    first, last = descent(task, WaveBatch(buzz()))
    assert last < first - 0.05


@pytest.mark.parametrize("signal", SIGNALS)
def test_margins_are_input_but_not_in_the_loss(signal):
    network = MelWaveNet(MelWaveNetConfig(wavenet=SMALL, signal=signal), MEL).eval()
    wave, other = buzz(), buzz()
    other[..., :-480] = wave[..., :-480]
    mel = LogMel(MEL)(wave)
    assert_close(network.loss(wave, mel, 480), network.loss(other, mel, 480))
    assert network.loss(wave, mel) != network.loss(other, mel)
    other[..., :480] = 0.1
    assert network.loss(wave, mel, 480) != network.loss(other, mel, 480)


def test_likelihood_of_noise_equals_its_entropy():
    """The likelihood is of the wave for every signal: that of white noise is its Gaussian's entropy."""
    wave = 0.05 * torch.randn(1, 1, 16_000)
    mel = LogMel(MEL)(wave)
    entropy = math.log(0.05 * math.sqrt(2 * math.pi * math.e))
    for signal in ("excitnet", "lp_wavenet"):
        network = MelWaveNet(
            MelWaveNetConfig(wavenet=replace(SMALL, output=Gaussian()), signal=signal), MEL
        ).eval()
        last = network.wavenet.last_conv_layers[3]
        assert isinstance(last, torch.nn.Conv1d)
        with torch.no_grad():  # one Gaussian of unit level for every input
            last.weight = torch.zeros_like(last.weight) + 1e-9
            assert last.bias is not None
            last.bias.copy_(torch.tensor([0.0, -math.log(32) if signal == "excitnet" else 0.0]))
        assert float(network.loss(wave, mel)) == pytest.approx(entropy, abs=0.1)


def test_speaker_conditioning_is_learned():
    config = WaveNetTaskConfig(
        network=replace(SMALL, local=None, output=MuLaw(), global_=GlobalConfig(n_speakers=2)), optim=ADAM
    )
    task = WaveNetTask(config, MEL)
    crops = SpokenCrops(replace(PRESETS["tiny"].data, batch=4), progress=False)
    first, last = descent(task, crops[Address(0, 0)])
    assert last < first - 0.1
    batch = crops[Address(0, 0)]
    task.network.eval()
    turned = batch._replace(speaker=1 - batch.speaker)
    assert task.loss(task.network, batch) != task.loss(task.network, turned)


def test_unconditional_network_can_be_trained():
    config = WaveNetTaskConfig(network=replace(SMALL, local=None, output=MuLaw()), optim=ADAM)
    task = WaveNetTask(config, MEL, [buzz(3_200)])
    first, last = descent(task, WaveBatch(buzz()))
    assert last < first - 0.1
    assert set(task.evaluate(1)) == {"nll"}


def test_phoneme_recogniser_can_be_trained():
    config = PRESETS["tiny_phonemes"]
    crops = SpokenCrops(config.data, progress=False)
    task = build(replace(config, task=replace(config.task, optim=ADAM)), crops)
    first, last = descent(task, crops[Address(0, 0)], 20)
    assert last < first - 0.5
    scores = task.evaluate(1)  # pyright: ignore[reportAttributeAccessIssue]
    assert 0 <= scores["frame_accuracy"] <= 1


def test_recogniser_trunk_is_causal_and_its_frames_are_not():
    network = PhonemeRecogniser(
        PhonemeRecogniserConfig(wavenet=replace(SMALL, local=None, output=Gaussian()), channels=8)
    ).eval()
    x = torch.randn(1, 1, 3_200, requires_grad=True)
    network(x).logits[0, :, 5].sum().backward()
    assert x.grad is not None
    assert x.grad[..., 6 * 160 : 8 * 160].any()
    seen = torch.autograd.grad(network(x).parameters[..., 900].sum(), x)[0]
    assert not seen[..., 901:].any()


@pytest.mark.parametrize("name", [name for name in TASKS if not name.endswith(("24k", "wavenet"))])
def test_presets_build(name):
    config = TASKS[name]
    network = config.network
    built = MelWaveNet(network, MEL) if isinstance(network, MelWaveNetConfig) else WaveNet(network)
    assert sum(p.numel() for p in built.parameters()) > 10_000


@pytest.mark.parametrize("name", list(PRESETS))
def test_spoken_presets_have_a_known_hop(name):
    assert PRESETS[name].data.features.hop in (80, 160)


def test_other_hops_or_bands_are_refused():
    with pytest.raises(UserError, match="make them agree"):
        MelWaveNet(MelWaveNetConfig(wavenet=SMALL), named_mel("hifigan"))
    with pytest.raises(UserError, match="make them agree"):
        SpokenTrainConfig(task=WaveNetTaskConfig(network=SMALL))


def test_mu_law_excitnet_is_refused():
    with pytest.raises(UserError, match="amplitudes"):
        MelWaveNetConfig(wavenet=replace(SMALL, output=MuLaw()), signal="excitnet")


@pytest.mark.parametrize("signal", SIGNALS)
def test_pieces_of_mel_wavenet_equal_the_whole(signal):
    network = MelWaveNet(MelWaveNetConfig(wavenet=SMALL, signal=signal), MEL).eval().fold()
    mel = LogMel(MEL)(buzz(800))
    made = network(mel, backend="torch")
    assert made.shape == (1, 1, 800)
    assert torch.isfinite(made).all()
    assert_close(
        torch.cat(list(network.pieces(mel, backend="torch")), dim=-1),
        made,
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("kind", ["random", "argmax", "voiced_argmax", "mode"])
def test_every_sampler_gives_finite_waves(kind):
    network = MelWaveNet(MelWaveNetConfig(wavenet=SMALL, sampler=Sampler(way=kind)), MEL).eval().fold()
    assert torch.isfinite(network(LogMel(MEL)(buzz(800)), backend="torch")).all()


def test_voiced_frames_are_detected():
    wave = torch.cat([buzz(), 0.003 * torch.randn(1, 1, 3_200)], dim=-1)
    flags = voiced(LogMel(MEL)(wave), MEL)[0]
    assert flags[3:17].all()
    assert not flags[23:37].any()


def test_speak_command_synthesises_a_text(tmp_path, monkeypatch, capsys):
    run, out = tmp_path / "run", tmp_path / "said.wav"
    monkeypatch.setattr(
        "sys.argv", ["train_spoken", "--preset", "tiny", "--loop.out", str(run), "--loop.cpu"]
    )
    train_spoken.main()
    speak.main(["Hi.", "--vocoder", str(run), "--out", str(out)])
    assert load(out, 16_000).shape[-1] > 1_600
    with pytest.raises(SystemExit):
        speak.main(["Hi.", "--vocoder", str(run), "--out", str(out), "--voice", "f05"])
    assert "is unknown to this run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        speak.main(["Hi.", "--vocoder", str(tmp_path), "--out", str(out)])
    assert "holds no checkpoint" in capsys.readouterr().err
