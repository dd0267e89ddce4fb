"""What is exported speaks as the run did; spreading moves voices away from the mean, and nothing else."""

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
    with torch.no_grad():
        before = network.style(clips)
        spread_voices(network, 1.5, str(tmp_path))
        after = network.style(clips)
    mean = before[:, :-1].mean(0)
    # Clips were stored in 16 bits, so the mean is only nearly the same.
    assert_close(after[:, :-1], mean + 1.5 * (before[:, :-1] - mean), rtol=0, atol=2e-3)
    assert_close(after[:, -1], before[:, -1])  # the pitch is left alone
    assert Converter(network).convert(clips[:1], after[:1]).shape == clips[:1].shape


def test_mistakes_at_export_are_told_in_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="holds no checkpoint"):
        export_run(tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), "--spread", "1.3"])
    assert end.value.code == 2
    assert "--spread needs --data" in capsys.readouterr().err
