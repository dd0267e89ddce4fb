"""Exports: spreading of voices, averaging of two runs, refused mistakes."""

import pytest
import torch
from torch.testing import assert_close

from data.audio import save
from engine.user_error import UserError
from w2w.converter import Converter
from w2w.export import export_run, main, spread_voices
from w2w.networks.network import ConverterNetwork


def test_spreading_moves_voices_away_from_the_mean_by_the_factor(tiny, buzz, tmp_path):
    clips = buzz(16_000, f0=(110.0, 170.0, 230.0))
    for number, clip in enumerate(clips):
        save(tmp_path / f"speaker_{number}" / "clip.flac", clip[None], 16_000)
    network = ConverterNetwork(tiny())
    converter = Converter(network)
    before = torch.cat([converter.embed(clip) for clip in clips.split(1)])
    spread_voices(network, 1.5, str(tmp_path))
    after = torch.cat([converter.embed(clip) for clip in clips.split(1)])
    mean = before[:, :-1].mean(0)
    # Clips were stored in 16 bits, so the mean is only nearly the same.
    assert_close(after[:, :-1], mean + 1.5 * (before[:, :-1] - mean), rtol=0, atol=2e-3)
    assert_close(after[:, -1], before[:, -1])  # the pitch is left alone
    assert converter.convert(clips[:1], after[:1]).shape == clips[:1].shape


def test_two_runs_are_averaged_by_their_shares(tmp_path, tiny):
    from dataclasses import replace

    from engine.checkpoint import draft_folder, publish, save_checkpoint
    from w2w.train_config import TINY

    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network, run = ConverterNetwork(TINY.converter), tmp_path / str(seed)
        draft = draft_folder(run, 1)
        save_checkpoint(draft, {"converter_ema": network}, {}, replace(TINY), {"step": 1})
        publish(draft, keep=1)
        networks.append(network)
    main(f"{tmp_path / '0'} --average {tmp_path / '1'} --share 0.25 --out {tmp_path / 'mean'}".split())
    mean = Converter.from_pretrained(tmp_path / "mean").network
    for made, first, second in zip(mean.parameters(), *(network.parameters() for network in networks)):
        assert_close(made, 0.75 * first + 0.25 * second, check_stride=False)


def test_mistakes_at_export_are_told_in_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="holds no checkpoint"):
        export_run(tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), "--spread", "1.3"])
    assert end.value.code == 2
    assert "--spread needs --data" in capsys.readouterr().err
