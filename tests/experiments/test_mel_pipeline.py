"""The variants train by their own presets for equal time; the tables show what was measured."""

import json
import math

import pytest
import torch

from data.batches import Batches
from engine.optim import OptimConfig
from engine.user_error import UserError
from experiments import trainers
from experiments.mel_pipeline import __main__ as study
from experiments.mel_pipeline.__main__ import PRESETS, TUNED, gains, preset, table, train, training
from experiments.mel_pipeline.systems import SYSTEMS, speeds
from experiments.scores import differences
from experiments.study import Study
from experiments.trainers import decaying, fitted
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork


@pytest.fixture
def runs(tmp_path) -> Study:
    return Study(out=tmp_path, options={"data": "speech"}, minutes=1.0)


def test_a_warm_up_is_a_tenth_of_the_run_at_most_and_the_decay_the_rest() -> None:
    short = fitted(OptimConfig(warmup_steps=100, schedule="cosine", hold_steps=7), 50)
    assert (short.warmup_steps, short.hold_steps, short.decay_steps) == (5, 0, 45)
    constant = decaying(OptimConfig(lr=1.0), 50)
    assert (constant.rate(0), constant.rate(50)) == pytest.approx((1.0, trainers.FINAL_RATE))


class Unread(Batches):
    """Batches of a corpus that is not there."""

    def __init__(self) -> None:
        self.crops = None


@pytest.mark.parametrize("name", PRESETS)
def test_every_variant_fits_its_trainers_preset(name, runs, monkeypatch) -> None:
    """Runs lie in the variants' folders, on one thread, and every decay ends with the run."""
    for reader in ("batches", "batches_together", "labelled_batches"):
        monkeypatch.setattr(trainers, reader, lambda *given, **options: Unread())
    monkeypatch.setattr(trainers.cluit_mel_trainer, "completed", lambda config, crops: config)
    monkeypatch.setattr(trainers.stargan_trainer, "completed", lambda config: config)
    monkeypatch.setattr("vocoders.train.crops", lambda *given: Unread())
    trainers._speech_and_pairs.cache_clear()
    ready = training(name, runs, preset(name, dict(PRESETS)), runs.folder(name), 500)
    loop = ready.config.loop
    assert (loop.out, loop.steps, loop.threads, loop.cpu) == (runs.out / name, 500, 1, True)
    assert ready.config.data.path == "speech"
    assert sum(phase.share for phase in ready.phases) == pytest.approx(1.0)
    players = ready.config.task if name == TUNED else ready.config
    decays = [of for of in vars(players).values() if isinstance(of, OptimConfig)]
    assert any(of.schedule != "constant" for of in decays)
    assert all(of.warmup_steps + of.decay_steps == 500 for of in decays if of.schedule != "constant")
    trainers._speech_and_pairs.cache_clear()


def test_the_tuned_vocoder_needs_the_converters_mels(runs) -> None:
    with pytest.raises(UserError, match="needs cluit_mel"):
        train(TUNED, runs, dict(PRESETS))


def test_an_unknown_preset_is_told() -> None:
    with pytest.raises(UserError, match="no such preset; choose from small"):
        preset("w2w", PRESETS | {"w2w": "smal"})


def test_a_system_is_there_when_all_it_needs_is_trained(runs) -> None:
    assert not SYSTEMS[TUNED].is_available(runs)
    for name in ("cluit_mel", TUNED):
        runs.folder(name).mkdir()
        (runs.folder(name) / "cost.json").write_text("{}")
    assert SYSTEMS[TUNED].is_available(runs)
    files = [file.relative_to(runs.out).as_posix() for file in SYSTEMS[TUNED].files(runs)]
    assert files == ["cluit_mel/export/model.safetensors", f"{TUNED}/export/model.safetensors"]


def row(name: str, **figures) -> dict:
    scores = {key: {"mean": value, "low": value, "high": value, "n": 2} for key, value in figures.items()}
    return {"name": name, "label": name.upper(), "scores": scores}


RESULTS = {
    "rows": [
        row("w2w", to_target=0.7, nearer_to_target=0.75)
        | {
            "parameters": {"converter": 3_000_000, "vocoder": 0},
            "rtf": {"whole": 0.015},
            "latency_ms": 18.0,
            "training": [{"processor_seconds": 1800.4, "steps": 900}],
        },
        row("cluit_mel", to_target=0.6)
        | {
            "notes": ["a note"],
            "parameters": {"converter": 4_000_000, "vocoder": 900_000},
            "rtf": {"whole": 0.05, "converter": 0.01, "vocoder": 0.04},
            "latency_ms": None,
            "training": [
                {"processor_seconds": 1799.0, "steps": 800},
                {"processor_seconds": 360.0, "steps": 300},
            ],
        },
        row("copy_source", to_target=0.5) | {"notes": ["a note", "another"]},
    ],
    "rtf_shares": {"cluit_mel": 0.3},
    "differences": {
        "cluit_mel": {"cer": {"mean": 0.02, "low": -0.01, "high": 0.05, "n": 2}},
        "copy_source": {"to_target": {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 2}},
    },
}


def cells(text: str) -> list[list[str]]:
    """A Markdown table's cells, heads and rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_the_table_is_made_of_what_is_stored() -> None:
    text = table(json.loads(json.dumps(RESULTS))["rows"])
    ours, theirs, copied = cells(text)
    assert ours[:4] == ["W2W", "0.700", "–", "75%"]
    assert ours[-6:] == ["3.00", "0.0150", "–", "–", "18", "1800 (900 steps)"]
    assert theirs[0] == "CLUIT_MEL [1]"
    costs = ["4.00 + 0.90", "0.0500", "0.0100", "0.0400", "whole file"]
    assert theirs[-6:] == [*costs, "1799 (800 steps) + 360 (300 steps)"]
    assert copied[0] == "COPY_SOURCE [1] [2]"
    assert text.splitlines()[-2:] == ["[1] a note", "[2] another"]


def test_gains_are_shown_with_their_intervals() -> None:
    assert cells(gains(RESULTS)) == [
        ["CLUIT_MEL", "–", "0.020 [-0.010, 0.050]", "–", "0.30"],
        ["COPY_SOURCE", "0.200 [0.100, 0.300]", "–", "–", "–"],
    ]


def test_differences_are_pair_by_pair_where_both_have_a_value() -> None:
    ours = [{"system": "w2w", "cer": value} for value in (0.5, 0.7, math.nan)]
    theirs = [{"system": "cluit_mel", "cer": value} for value in (0.4, 0.4, 0.1)]
    fewer = [{"system": "copy_source", "cer": 0.1}]
    found = differences([*ours, *theirs, *fewer], "w2w")
    assert list(found) == ["cluit_mel"]
    assert list(found["cluit_mel"]) == ["cer"]
    assert found["cluit_mel"]["cer"]["mean"] == pytest.approx(0.2)
    assert found["cluit_mel"]["cer"]["n"] == 2


def test_wave_to_wave_has_one_stage_and_a_latency(tiny) -> None:
    converter = Converter(ConverterNetwork(tiny()))
    timed = speeds({"w2w": converter}, 0.1 * torch.randn(1, 1, 16_000), 1)["w2w"]
    assert set(timed["rtf"]) == {"whole"}
    assert timed["latency_ms"] == pytest.approx(18.0)
    assert timed["parameters"]["converter"] > 0 == timed["parameters"]["vocoder"]


def test_two_stages_are_timed_separately_and_need_the_whole_file() -> None:
    from data.frontends import NAMED
    from vocoders import load_vocoder
    from w2w.baselines.cluit_mel.network import CluitMelNetwork
    from w2w.baselines.cluit_mel.presets import PRESETS as CLUIT_MEL
    from w2w.baselines.two_stage import TwoStage

    network = CluitMelNetwork(CLUIT_MEL["tiny"].network)
    converter = Converter(TwoStage(network, load_vocoder("griffin_lim", mel=NAMED["speech16k"])))
    timed = speeds({"cluit_mel": converter}, 0.1 * torch.randn(1, 1, 16_000), 1)["cluit_mel"]
    assert timed["latency_ms"] is None
    assert set(timed["rtf"]) == {"whole", "converter", "vocoder"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--only", "w2v"], "'w2v'"),
        (["--n-pairs", "0"], "--n-pairs 0 must be at least 1"),
        (["--minutes", "-1"], "above 0"),
        (["--presets", "w2w"], "NAME=PRESET"),
    ],
)
def test_mistakes_are_told_in_one_sentence(words, complaint, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        study.main(["--data", "speech", *words])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
