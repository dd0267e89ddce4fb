"""Statistics of the text-to-voice study: ranks, nearest voices, and the choice of recordings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.manifest import Row
from experiments.text_to_voice import nearest, one_each, rank_correlation


def test_rank_correlation_depends_only_on_order():
    level = np.array([-2.0, -1.0, 1.0, 2.0])
    assert rank_correlation(level, np.exp(level)) == pytest.approx(1.0)
    assert rank_correlation(level, -(level**3)) == pytest.approx(-1.0)
    assert rank_correlation(level, np.ones(4)) == 0.0
    # One pair out of order among four: 1 - 6·2 / (4·15).
    assert rank_correlation(level, np.array([1.0, 0.0, 2.0, 3.0])) == pytest.approx(0.8)


def test_nearest_ignores_pitch():
    voices = torch.randn(20, 9)
    moved = torch.cat([voices[:, :-1], voices[:, -1:] + 5.0], dim=-1)
    assert nearest(moved, voices) == pytest.approx(1.0, abs=1e-5)
    assert nearest(torch.randn(200, 9), voices) < 0.95


def test_one_each_takes_the_first_long_recording_of_each_speaker():
    lengths = [("a", 1.0), ("a", 3.0), ("b", 4.0), ("b", 5.0)]
    rows = [Row(path=Path(f"{n}.wav"), speaker=s, duration=d) for n, (s, d) in enumerate(lengths)]
    assert [row.path.name for row in one_each(rows)] == ["1.wav", "2.wav"]
