"""Fine-tuning trains and scores on disjoint recordings."""

import pytest
import torch

from data.audio import save
from data.manifest import Row
from experiments.finetuning import COLUMNS, shares, table

RATE = 16_000


@pytest.fixture
def rows(tmp_path) -> list[Row]:
    """Two speakers: one of eight recordings of ten seconds, one of six."""
    made = []
    for speaker, count in (("a", 8), ("b", 6)):
        for number in range(count):
            path = tmp_path / f"{speaker}{number}.wav"
            save(path, 0.1 * torch.randn(1, 1, 10 * RATE), RATE)
            made.append(Row(path=path, speaker=speaker, text="so", split="test"))
    return made


def test_training_and_held_out_recordings_are_disjoint(rows, capsys):
    found = list(shares(rows, [0.5, 1.0], 2, 2))
    assert [(share.name, len(share.train)) for share in found] == [
        ("a 0.5 min", 3), ("a 1 min", 6), ("b 0.5 min", 3),
    ]  # fmt: skip
    for share in found:
        assert not {row.path for row in share.train} & {row.path for row in share.held_out}
        assert {row.speaker for row in (*share.train, *share.held_out)} == {share.speaker}
    assert "b has less than 1 min" in capsys.readouterr().err


def test_table_has_intervals_and_training_cost():
    score = {"mean": 0.5, "low": 0.4, "high": 0.6}
    systems = ("released, 0.5 min", "fine-tuned, 0.5 min")
    summary = {name: dict.fromkeys(COLUMNS, score) for name in systems}
    costs = {(0.5, "a"): 4.0, (0.5, "b"): 6.0}
    first, second = table(summary, costs).splitlines()[-2:]
    assert "0.500 [0.400, 0.600]" in first
    assert second.rstrip(" |").endswith("| 5.0")
