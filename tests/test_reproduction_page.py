"""The page of claims names commands, tests and presets that are there, and gives every claim a verdict."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERDICTS = ("reproduced", "partly", "refuted", "out of reach here")


def rows() -> list[list[str]]:
    lines = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")
    ]
    return [row for row in cells if row[0] != "claim" and not row[0].startswith("---")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_a_claim_has_a_command_that_is_there_an_outcome_and_a_verdict(row):
    claim, command, outcome, verdict = row
    assert claim
    assert outcome
    assert verdict.startswith(VERDICTS)
    assert re.search(r"`|the same|three commands", command)
    for module in re.findall(r"python -m ([\w.]+)", command):
        assert find_spec(module), module
    for path in re.findall(r"(?:tests|pretrain|vocoders|w2w)/[\w/]+(?:\.py)?", command):
        assert (ROOT / path).exists(), path


def test_presets_that_are_named_are_trainers():
    from pretrain.data2vec import PRESETS as SPEECH
    from pretrain.wav2clip import PRESETS as SOUNDS
    from vocoders.tasks.presets import PRESETS as VOCODERS
    from vocoders.train_spoken import PRESETS as SPOKEN
    from w2w.baselines.cluit_mel.presets import PRESETS as MELS
    from w2w.baselines.stargan.presets import PRESETS as STARGAN

    known = {*SPEECH, *SOUNDS, *VOCODERS, *SPOKEN, *MELS, *STARGAN}
    named = [name for row in rows() for name in re.findall(r"--preset (\w[\w.-]*)", row[1])]
    assert len(named) > 5
    assert set(named) <= known
