"""Study runs have equal cost, resume after interruptions, and record their cost."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.loop import LoopConfig, fit
from engine.user_error import UserError
from experiments import study as module
from experiments.stargan.__main__ import draw_curves, read_curve, spread
from experiments.study import Phase, Recorded, Study, Training, step_seconds, steps_within


@dataclass(frozen=True, kw_only=True)
class Config:
    """A trainer's config with only a loop."""

    loop: LoopConfig


class Counting:
    """A task whose odd steps take three seconds of a fake clock, and even ones one."""

    def __init__(self, clock: dict[str, float]) -> None:
        self.clock, self.seen = clock, list[int]()
        self.players: dict = {}
        self.network = nn.Linear(1, 1)
        self.modules: dict[str, nn.Module] = {"network": self.network}

    def update(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        self.seen.append(step)
        self.clock["now"] += 3.0 if step % 2 else 1.0
        return {"loss/network": self.network(batch).mean().detach()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A fake processor clock, read by the study."""
    time = {"now": 0.0}
    monkeypatch.setattr(module, "process_time", lambda: time["now"])
    return time


@pytest.fixture
def make(clock: dict[str, float]) -> Callable[[Path, int], Training]:
    """Make trainings; ``make.built`` has every task that was built."""

    def ready(folder: Path, steps: int) -> Training:
        loop = LoopConfig(out=folder, steps=steps, save_every=2, sample_every=2, trackers="none", cpu=True)

        def build() -> Counting:
            ready.built.append(Counting(clock))
            return ready.built[-1]

        return Training(
            config=Config(loop=loop),
            batches=lambda start: iter(lambda: torch.ones(2, 1), None),
            build=build,
            phases=[Phase(period=2)],
            evaluate=lambda task: {"steps": float(len(task.seen))},
            export=lambda run, out: out.mkdir(),
        )

    ready.built = list[Counting]()
    return ready


def test_planned_steps_weight_phase_costs_by_their_share() -> None:
    phases = [Phase(share=0.25), Phase(share=0.75, step=10, period=2)]
    steps = steps_within(1.0, phases, [0.1, 0.3])
    assert steps == 240
    assert steps * (0.25 * 0.1 + 0.75 * 0.3) == pytest.approx(60.0)
    assert steps_within(0.001, phases, [9.0, 9.0]) == 1


def test_step_cost_is_median_over_rounds_and_mean_over_a_period(make, tmp_path) -> None:
    phases = [Phase(share=0.5, step=2), Phase(share=0.5, step=100, period=2)]
    training = replace(make(tmp_path, 1_000), phases=phases)
    _, (single, mixed) = step_seconds(training, rounds=2)
    assert make.built[0].seen == [2, 3, 4, 100, 101, 102, 103, 104, 105]
    assert single == 2.0  # of steps 3 and 4
    assert mixed == 2.0


def test_run_fits_its_minutes_and_is_trained_once(make, tmp_path) -> None:
    study = Study(out=tmp_path, options={"data": "speech"}, minutes=0.5)
    assert study.cost("full") is None
    cost = study.train("full", make)
    assert cost.steps == 15
    assert cost.processor_seconds == 8 * 1.0 + 7 * 3.0
    assert (tmp_path / "full/export").is_dir()
    assert study.train("full", lambda folder, steps: pytest.fail("trained again")) == cost
    steps = [point["step"] for point in read_curve(tmp_path / "full/curve.jsonl")]
    assert steps == [*range(2, 15, 2), 15]


def test_run_with_given_steps_is_not_probed(make, tmp_path) -> None:
    Study(out=tmp_path, options={}, steps=3).train("full", make)
    assert [task.seen for task in make.built] == [[0, 1, 2]]


def test_interrupted_run_resumes_with_its_plan_and_cost(make, tmp_path) -> None:
    """Steps that are repeated after the last checkpoint count once."""
    study = Study(out=tmp_path, options={}, minutes=0.2)
    steps = 6
    part = make(tmp_path / "full", steps)
    module.write_json(tmp_path / "full/plan.json", {"options": study._options, "steps": steps})
    loop = replace(part.config.loop, steps=4)
    build = lambda: Recorded(part.build(), None, tmp_path / "none")  # noqa: E731
    fit(build, part.batches, loop, full_config=part.config)
    cost = study.train("full", make)
    assert make.built[-1].seen == [4, 5]
    assert (cost.steps, cost.processor_seconds) == (6, 12.0)


def test_run_with_other_options_is_refused_naming_the_option(make, tmp_path) -> None:
    study = Study(out=tmp_path, options={"data": "speech", "n_clips": 2}, steps=2)
    study.train("full", make)
    for other, option in (
        (replace(study, options={"data": "other", "n_clips": 2}), "--data speech, not other"),
        (replace(study, options={"data": "speech", "n_clips": 3}), "--n-clips 2, not 3"),
        (replace(study, steps=3), "--steps 2, not 3"),
        (replace(study, steps=0, minutes=1.0), "--minutes 0.0, not 1.0"),
    ):
        with pytest.raises(UserError, match=option):
            other.cost("full")


def test_curve_keeps_the_later_of_repeated_steps_and_is_drawn(tmp_path) -> None:
    (tmp_path / "full").mkdir()
    lines = ['{"step": 2, "copy": 9.0}', '{"step": 1, "copy": 3.0}', '{"step": 2, "copy": 2.0, "way": 1.0}']
    (tmp_path / "full/curve.jsonl").write_text("\n".join(lines) + "\n")
    runs = {"full": [tmp_path / "full"]}
    assert read_curve(tmp_path / "full/curve.jsonl")[1] == {"step": 2, "copy": 2.0, "way": 1.0}
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path, runs, {"copy": "Copied", "way": "Way"})
    assert (tmp_path / "curves.png").is_file()


def test_spread_is_mean_and_sample_deviation() -> None:
    assert (spread([1.0, 2.0, 3.0]), spread([0.5]), spread([])) == ("2.000 ± 1.000", "0.500", "")
