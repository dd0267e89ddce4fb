"""The roads are trained for equal time, go on where they were cut off, and are judged by what was stored."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.loop import LoopConfig, fit
from engine.optim import OptimConfig, Player
from engine.user_error import UserError
from experiments.mel_pipeline import __main__ as study
from experiments.mel_pipeline import trainers, variants
from experiments.mel_pipeline.budget import Phase, Timed, plan_of, planned, probe
from experiments.mel_pipeline.report import goals, goals_table, table
from experiments.mel_pipeline.rows import ROADS
from experiments.mel_pipeline.scores import differences
from experiments.mel_pipeline.speed import in_turns, ratio, speeds
from experiments.mel_pipeline.trainers import Bench, fitted, w2w_config, w2w_phases
from experiments.mel_pipeline.variants import ARMS, PRESETS, Arm, check_budget, finished, train
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork
from w2w.train import PRESETS as W2W_PRESETS


@pytest.fixture
def bench(tmp_path):
    return Bench(data=Path("speech"), out=tmp_path, minutes=1.0, tune_minutes=0.2, presets=PRESETS)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A trainer's config of which only the loop matters."""

    loop: LoopConfig


def quiet(run: Path, steps: int) -> LoopConfig:
    return LoopConfig(out=run, steps=steps, save_every=2, sample_every=0, trackers="none", cpu=True)


class Slow:
    """A task whose odd steps take longer: a player who descends every other step."""

    def __init__(self) -> None:
        self.network = nn.Linear(1, 1)
        self.players = {"network": Player(self.network, OptimConfig(), "network")}
        self.modules: dict[str, nn.Module] = {"network": self.network}
        self.seen: list[int] = []

    def update(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        until = time.process_time() + (0.03 if step % 2 else 0.01)
        self.seen.append(step)
        loss = self.network(batch).square().mean()
        self.players["network"].descend(loss)
        while time.process_time() < until:
            pass
        return {"loss/network": loss.detach()}


def ones(start: int):
    while True:
        yield torch.ones(2, 1)


def test_steps_are_as_many_as_fit_when_each_phase_has_its_price() -> None:
    phases = [Phase(share=0.25, step=0), Phase(share=0.75, step=10, period=2)]
    plan = planned(1.0, "small", phases, [0.1, 0.3])
    assert plan.steps == 240
    assert plan.steps * (0.25 * 0.1 + 0.75 * 0.3) == pytest.approx(60.0)
    assert planned(0.001, "small", phases, [9.0, 9.0]).steps == 1


def test_a_probe_averages_over_a_period_and_takes_its_steps_from_the_phase() -> None:
    task = Slow()
    odd, mixed = probe(
        task, ones, [Phase(share=0.5, step=2), Phase(share=0.5, step=100, period=2)], repeats=1
    )
    assert task.seen == [2, 3, 100, 101, 102, 103]
    assert mixed == pytest.approx(0.02, rel=0.4)
    assert odd == pytest.approx(0.03, rel=0.4)  # the first round pays for what is made once


def test_what_a_run_cost_is_kept_with_it_and_goes_on(tmp_path) -> None:
    """Steps done after the last checkpoint and lost are not counted twice."""
    loop = quiet(tmp_path, 2)
    fit(lambda: Timed(Slow()), ones, loop, full_config=loop)
    again, _ = fit(lambda: Timed(Slow()), ones, replace(loop, steps=4), full_config=loop)
    processor, wall = again.clock.spent.tolist()
    assert again.task.seen == [2, 3]
    assert 0.08 <= processor <= wall + 0.01


def test_schedules_fit_the_run(bench) -> None:
    config = w2w_config(bench, 200)
    assert (config.cluit.convert_from, config.cluit.adversary_from) == (8, 50)
    optim = config.optim_converter
    assert optim.warmup_steps == 20
    assert optim.rate(199) == pytest.approx(optim.final * optim.lr, rel=0.02)
    assert optim.rate(20) == pytest.approx(optim.lr)
    assert (config.loop.threads, config.loop.cpu, config.loop.sample_every) == (1, True, 0)
    assert config.loop.out == bench.out / "w2w" / "run"
    short = fitted(OptimConfig(warmup_steps=100, schedule="cosine", hold_steps=7), 50)
    assert (short.warmup_steps, short.hold_steps, short.decay_steps) == (5, 0, 45)


def test_wave_to_wave_is_probed_where_its_steps_change(bench) -> None:
    phases = w2w_phases(w2w_config(bench, 1_000))
    assert sum(phase.share for phase in phases) == pytest.approx(1.0)
    assert [(phase.step, phase.period) for phase in phases] == [(0, 1), (40, 1), (250, 2)]


def test_every_arm_fits_its_trainers_preset(bench, monkeypatch) -> None:
    """Run folders are the arms' own, and every decay ends with the run."""
    from w2w.baselines.stargan import train as stargan

    monkeypatch.setattr(stargan, "completed", lambda config: config)
    for name, arm in ARMS.items():
        config = arm.config(bench, 500)
        assert config.loop.out == bench.out / name / "run"
        assert config.loop.steps == 500
        players = config.task if name == "cluit_mel_tuned" else config
        falling = [of for of in vars(players).values() if isinstance(of, OptimConfig)]
        assert len(falling) == 2
        assert all(of.warmup_steps + of.decay_steps == 500 for of in falling)


def test_a_finished_arm_is_never_trained_again(bench, monkeypatch) -> None:
    runs: list[int] = []
    arm = Arm(
        preset="slow",
        config=lambda bench, steps: Config(loop=quiet(bench.out / "w2w" / "run", steps)),
        crops=lambda config: ones,
        build=lambda config: Slow(),
        phases=lambda config: [Phase(share=1.0, step=0)],
        export=lambda run, out: runs.append(1),
    )
    monkeypatch.setitem(ARMS, "w2w", arm)
    monkeypatch.setattr(variants, "probe", lambda *given: [20.0])
    assert finished("w2w", bench) is None
    spent = train("w2w", bench)
    assert (spent["steps"], runs) == (3, [1])
    monkeypatch.setattr(variants, "trained", lambda *given: pytest.fail("trained again"))
    assert train("w2w", bench) == spent
    with pytest.raises(UserError, match="begun with --minutes 1"):
        train("w2w", replace(bench, minutes=2.0))
    check_budget(bench)
    with pytest.raises(UserError, match="trained with --minutes 1, not 2"):
        check_budget(replace(bench, minutes=2.0))
    with pytest.raises(UserError, match="needs cluit_mel"):
        train("cluit_mel_tuned", bench)


def test_a_plan_is_made_once(tmp_path) -> None:
    plan = planned(1.0, "small", [Phase(share=1.0, step=0)], [0.5])
    assert plan_of(tmp_path, 1.0, "small", lambda: plan) == plan
    assert plan_of(tmp_path, 1.0, "small", lambda: pytest.fail("made again")) == plan
    with pytest.raises(UserError, match="preset small"):
        plan_of(tmp_path, 1.0, "base", lambda: plan)


def row(name: str, **figures) -> dict:
    scores = {key: {"mean": value, "low": value, "high": value, "n": 2} for key, value in figures.items()}
    return {"name": name, "label": name.upper(), "scores": scores}


STORED = {
    "pairs": 2,
    "minutes": 30.0,
    "seconds": 10,
    "repeats": 5,
    "machine": "a machine",
    "presets": {"w2w": "small"},
    "rows": [
        row("w2w", to_target=0.7, nearer_to_target=0.75)
        | {
            "parameters": {"converter": 3_000_000, "vocoder": 0},
            "rtf": {"whole": 0.015},
            "latency_ms": 18.0,
            "training": {"processor_seconds": 1800.4, "steps": 900},
        },
        row("cluit_mel", to_target=0.6)
        | {
            "notes": ["a note"],
            "parameters": {"converter": 4_000_000, "vocoder": 900_000},
            "rtf": {"whole": 0.05, "converter": 0.01, "vocoder": 0.04},
            "latency_ms": None,
            "training": {
                "processor_seconds": 1799.0,
                "steps": 800,
                "vocoder": {"processor_seconds": 360.0, "steps": 300},
            },
        },
        row("copy_source", to_target=0.5) | {"notes": ["a note", "another"]},
    ],
    "rtf_shares": {"cluit_mel": 0.3},
    "differences": {
        "cluit_mel": {
            "to_target": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 2},
            "cer": {"mean": 0.02, "low": -0.01, "high": 0.05, "n": 2},
        }
    },
}


def test_the_table_is_made_of_what_is_stored() -> None:
    lines = table(json.loads(json.dumps(STORED))).splitlines()
    assert "30 minutes of one thread" in lines[0]
    assert "w2w: preset small" in lines[0]
    assert lines[4].startswith("| W2W | 0.700 | – | 75% |")
    assert lines[4].endswith("| 3.00 | 0.0150 | – | – | 18 | 1800 (900 steps) |")
    assert lines[5].startswith("| CLUIT_MEL [1] |")
    tail = "| 4.00 + 0.90 | 0.0500 | 0.0100 | 0.0400 | whole file | 1799 (800 steps) + 360 (300 steps) |"
    assert lines[5].endswith(tail)
    assert lines[6].startswith("| COPY_SOURCE [1] [2] |")
    assert lines[-2:] == ["[1] a note", "[2] another"]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_goals_are_told_with_yes_and_no() -> None:
    told = goals(STORED)
    assert [goal["met"] for goal in told] == [True, True, False]
    text = goals_table(told)
    assert "| real-time factor over that of CLUIT_MEL | 0.300 | ≤ 0.333 | yes |" in text
    assert "| CER less that of CLUIT_MEL | +0.020 [-0.010, +0.050] | ≤ 0 | NO |" in text
    slower = {**STORED, "rtf_shares": {"cluit_mel": 0.34}, "differences": {}}
    assert [goal["met"] for goal in goals(slower)] == [False]
    assert "No goal" in goals_table(goals({**STORED, "rtf_shares": {}, "differences": {}}))


def test_differences_are_pair_by_pair() -> None:
    ours = [{"system": "w2w", "cer": value} for value in (0.5, 0.7, float("nan"))]
    theirs = [{"system": "cluit_mel", "cer": value} for value in (0.4, 0.4, 0.1)]
    fewer = [{"system": "copy_source", "cer": 0.1}]
    found = differences([*ours, *theirs, *fewer], ["cer", "to_target"])
    assert list(found) == ["cluit_mel"]
    assert found["cluit_mel"]["cer"]["mean"] == pytest.approx(0.2)
    assert found["cluit_mel"]["cer"]["n"] == 2


def test_speed_is_measured_in_turns() -> None:
    turns: list[str] = []
    took = in_turns({name: lambda name=name: turns.append(name) for name in ("a", "b")}, 3)
    assert turns == ["a", "b"] * 4
    assert [len(seconds) for seconds in took.values()] == [3, 3]
    assert ratio([1.0, 9.0, 1.0], [2.0, 18.0, 2.0]) == 0.5

    converter = Converter(ConverterNetwork(W2W_PRESETS["tiny"].converter))
    found = speeds({"w2w": converter}, 0.1 * torch.randn(1, 1, 16_000), 2)["w2w"]
    assert found["rtf"]["whole"] > 0
    assert found["latency_ms"] == pytest.approx(18.0)
    assert found["parameters"]["converter"] > 0 == found["parameters"]["vocoder"]


def test_a_mel_road_is_timed_apart_and_says_that_it_needs_the_whole(monkeypatch) -> None:
    from data.frontends import NAMED
    from vocoders import load_vocoder
    from w2w.baselines.cluit_mel.network import CluitMelNetwork
    from w2w.baselines.cluit_mel.presets import PRESETS as MEL_PRESETS
    from w2w.baselines.two_stage import TwoStage

    network = CluitMelNetwork(MEL_PRESETS["tiny"].network)
    converter = Converter(TwoStage(network, load_vocoder("griffin_lim", mel=NAMED["speech16k"])))
    found = speeds({"cluit_mel": converter}, 0.1 * torch.randn(1, 1, 16_000), 1)["cluit_mel"]
    assert found["latency_ms"] is None
    assert set(found["rtf"]) == {"whole", "converter", "vocoder"}
    assert all(value > 0 for value in found["rtf"].values())


def test_rows_need_their_arms(bench) -> None:
    assert not ROADS["cluit_mel_tuned"].there(bench)
    for name in ("cluit_mel", "cluit_mel_tuned"):
        path = bench.folder(name) / "training.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"processor_seconds": 1.0, "steps": 2}))
    assert ROADS["cluit_mel_tuned"].there(bench)
    assert ROADS["cluit_mel_tuned"].spent(bench)["training"]["vocoder"]["steps"] == 2
    assert "vocoder" not in ROADS["cluit_mel"].spent(bench)["training"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--only", "w2v"], "'w2v'"),
        (["--pairs", "0"], "--pairs 1 to"),
        (["--minutes", "-1"], "above 0"),
        (["--presets", "w2w"], "ARM=NAME"),
    ],
)
def test_mistakes_are_told_in_one_sentence(words, complaint, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        study.main(["--data", "speech", *words])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_an_unknown_preset_is_told(bench) -> None:
    with pytest.raises(UserError, match="no such preset; choose from small"):
        trainers.w2w_config(replace(bench, presets={**PRESETS, "w2w": "smal"}), 10)
