"""The WaveNet study: training data, measures of silence and sampling, and the command."""

from dataclasses import replace

import pytest
import torch

from data.audio.writing import save
from data.frontends import LogMel, named_mel
from experiments.wavenet import RUNS, SAMPLERS, half_silent, in_silence, main, sampling_scores, study_config
from vocoders.tasks.wavenet import WaveNetTaskConfig
from vocoders.wavenet.mel_wavenet import MelWaveNet

MEL = named_mel("speech16k")


def buzz(samples=16_000):
    """A voiced half second, then an unvoiced one."""
    at = torch.arange(samples) / 16_000
    tone = sum(torch.sin(2 * torch.pi * 150 * k * at) / k for k in range(1, 20))
    return torch.where(at < 0.5, 0.2 * tone, 0.02 * torch.randn(samples))[None, None]


def test_half_silent_zeroes_a_seeded_half_of_each_crop():
    wave = torch.rand(8, 1, 101) + 0.1
    paused = half_silent(wave, 3)
    assert ((paused == 0).sum(-1) == 50).all()
    assert torch.equal(paused[paused != 0], wave[paused != 0])
    assert torch.equal(half_silent(wave, 3), paused)
    assert not torch.equal(half_silent(wave, 4), paused)


def test_runs_differ_only_in_noise():
    with_noise, without = (study_config("speech", noise) for noise in RUNS.values())
    network = without.task.network
    same = replace(network, wavenet=replace(network.wavenet, lsb_noise=True))
    assert replace(without, task=replace(without.task, network=same)) == with_noise


def copier(wave):
    """A stand-in for a network: returns this wave for any mel."""
    return lambda mel, seed, sampler: wave


def test_sampling_scores_separate_voiced_and_unvoiced_frames():
    wave, log_mel = buzz(), LogMel(MEL)
    same = sampling_scores(copier(wave), log_mel, [wave], SAMPLERS["random"])
    assert all(value == 0 for pair in same.values() for value in pair)
    louder = sampling_scores(copier(10 * wave), log_mel, [wave], SAMPLERS["argmax"])
    assert louder["level"] == pytest.approx((20, 20), abs=3)  # upper bands lie at the floor
    half = torch.where(torch.arange(16_000) < 8_000, 1.0, 0.1)  # only the unvoiced half is changed
    quieter = sampling_scores(copier(wave * half), log_mel, [wave], SAMPLERS["argmax"])
    assert quieter["log_mel_l1"][0] < 0.2 < 1.5 < quieter["log_mel_l1"][1]


def test_in_silence_reports_level_scale_and_divergence():
    config = study_config("speech", True)
    assert isinstance(config.task, WaveNetTaskConfig)
    network = MelWaveNet(config.task.network, MEL).eval()
    last = network.wavenet.last_conv_layers[3]
    with torch.no_grad():
        last.parametrizations.weight.original0.zero_()
        found = {}
        for scale in (0.1, 1e-5):
            last.bias.copy_(
                torch.tensor([0.0, scale]).clamp_min(1e-9).log().where(torch.tensor([False, True]), 0)
            )
            found[scale] = in_silence(network, LogMel(MEL), [buzz(4_800)])
    assert (found[0.1]["diverged"], found[1e-5]["diverged"]) == (1, 0)
    assert found[0.1]["level"] == pytest.approx(-20, abs=0.5)
    assert found[1e-5]["scale"] == found[1e-5]["scale_heard"] == pytest.approx(1e-5 * 2**15, rel=1e-3)


def test_command_trains_both_runs_and_prints_both_tables(tmp_path, capsys):
    for number in range(2):
        save(tmp_path / f"{number}.wav", buzz(), 16_000)
    command = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--steps", "2", "--recordings", "1"]
    main([*command, "--split", "train"])
    text = capsys.readouterr().out
    assert all(f"| {name} " in text for name in (*RUNS, *SAMPLERS))
    assert text.count("\n\n") >= 2
