"""Options of accelerate are applied or refused, never ignored."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from engine import launch
from engine.checkpoint import newest_checkpoint
from engine.config import cli
from engine.user_error import UserError

DEFAULTS = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
"""The launcher's environment without options."""


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Simulate a launcher with these options and this environment."""
    for name in list(os.environ):
        if name.startswith("ACCELERATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none"))

    def say(options="", **environment):
        for name, value in (DEFAULTS | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(launch.WORDS, f"{options} train.py")

    return say


def adopted(toy, *words):
    loop = cli(toy.PRESETS, argv=words).loop
    return loop.mixed_precision, loop.accumulate, loop.compile


def test_launcher_options_are_adopted(toy, launched):
    options = "--mixed_precision bf16 --gradient_accumulation_steps 4 --dynamo_backend inductor"
    said = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}
    launched(options, **said)
    assert adopted(toy) == ("bf16", 4, "inductor")
    assert adopted(toy, "--loop.accumulate", "4", "--loop.mixed_precision=bf16") == ("bf16", 4, "inductor")


def test_options_not_given_to_the_launcher_keep_the_preset(toy, launched, monkeypatch):
    half = replace(toy.BASE, loop=replace(toy.BASE.loop, mixed_precision="bf16", accumulate=2))
    monkeypatch.setattr(toy, "PRESETS", {"half": half})
    assert adopted(toy) == ("bf16", 2, "no")
    launched()
    assert adopted(toy) == ("bf16", 2, "no")
    assert adopted(toy, "--loop.mixed-precision", "no") == ("no", 2, "no")
    launched("--mixed_precision no")
    assert adopted(toy) == ("no", 2, "no")


def test_launcher_configuration_file_is_adopted(toy, launched, monkeypatch, tmp_path):
    half = replace(toy.BASE, loop=replace(toy.BASE.loop, mixed_precision="bf16"))
    monkeypatch.setattr(toy, "PRESETS", {"half": half})
    file = tmp_path / "one.yaml"
    settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "mixed_precision": "no"}
    file.write_text(yaml.safe_dump(settings | {"num_processes": 1, "use_cpu": True}))
    launched(f"--config_file {file}")
    assert adopted(toy) == ("no", 1, "no")


@pytest.mark.parametrize(
    ("options", "word", "value"),
    [
        ("--mixed_precision no", "--loop.mixed-precision", "bf16"),
        ("--gradient_accumulation_steps 4", "--loop.accumulate", "2"),
        ("--dynamo_backend no", "--loop.compile", "eager"),
    ],
)
def test_contradicting_options_are_refused(toy, launched, capsys, options, word, value):
    launched(options)
    with pytest.raises(SystemExit) as end:
        cli(toy.PRESETS, argv=[word, value])
    assert end.value.code == 2
    assert f"error: {word} {value} contradicts accelerate" in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "what"), launch.REFUSED.items())
def test_unsupported_launcher_features_are_refused(toy, launched, capsys, variable, what):
    launched(**{variable: "true"})
    with pytest.raises(SystemExit):
        cli(toy.PRESETS, argv=[])
    told = capsys.readouterr().err
    assert told.startswith(f"error: accelerate is configured for {what}, which")
    assert told.count("\n") == 1


def test_float16_on_a_cpu_and_unknown_compilers_are_refused(toy, tmp_path):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        toy.accelerator(replace(toy.BASE.loop, out=tmp_path, mixed_precision="fp16"))
    with pytest.raises(UserError, match=r"loop\.compile=fast is unknown: choose one of no, eager"):
        replace(toy.BASE.loop, compile="fast")


def test_compiled_training_equals_eager_training(toy, tmp_path):
    def weights(out, **options):
        options = {"out": tmp_path / out, "steps": 3, "trackers": "none", "sample_every": 0, **options}
        toy.train(replace(toy.BASE, loop=replace(toy.BASE.loop, **options)))
        folder = newest_checkpoint(tmp_path / out)
        return [(folder / f"{name}.safetensors").read_bytes() for name in ("maker", "critic", "maker_ema")]

    assert weights("compiled", compile="eager") == weights("plain")


ACCELERATE = [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch"]


def command(toy_path, out, *options, own=()):
    args = [*ACCELERATE, "--num_cpu_threads_per_process", "1", *own, str(toy_path)]
    return [*args, "--loop.out", str(out), "--loop.trackers", "none", *options]


@pytest.fixture
def environment(toy_path):
    return os.environ | {"PYTHONPATH": str(toy_path.parents[2])}


TWO = ["--multi_gpu", "--num_processes", "2"]


@pytest.mark.parametrize("own", [["--cpu"], pytest.param(TWO, marks=pytest.mark.slow)])
def test_user_error_exits_with_one_sentence_and_status_2(toy_path, tmp_path, environment, own):
    words = command(toy_path, tmp_path, "--loop.stepps", "3", own=own)
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2
    assert "error: there is no option --loop.stepps" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("own", [["--cpu"], TWO])
def test_signal_to_the_launcher_saves_and_leaves_no_orphan(toy_path, tmp_path, environment, own):
    options = ["--loop.steps", "1000000", "--loop.save-every", "100"]
    words = command(toy_path, tmp_path, *options, own=own)
    running = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while newest_checkpoint(tmp_path) is None:
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)
    marker = f"--loop.out {tmp_path}"
    while marker in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout:
        time.sleep(0.2)
    saved = int(newest_checkpoint(tmp_path).name.removeprefix("step_"))
    assert saved % 100  # not by its cadence


@pytest.mark.slow
def test_death_of_one_process_ends_all_and_the_run_resumes(toy_path, tmp_path, environment):
    words = command(toy_path, tmp_path, "--loop.steps", "3000", "--loop.save-every", "100", own=TWO)
    running = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while newest_checkpoint(tmp_path) is None:
        assert running.poll() is None
        time.sleep(0.2)
    psutil.Process(running.pid).children()[-1].kill()
    assert running.wait(timeout=60) != 0
    subprocess.run(words, env=environment, check=True, timeout=600)
    assert newest_checkpoint(tmp_path).name == "step_00003000"


def test_launcher_is_recognised_by_its_command_line():
    words = shlex.split("python /venv/bin/accelerate launch --mixed_precision bf16 train.py --steps 3")
    assert launch._options(words) == words[3:]
    assert launch._options(shlex.split("python -m accelerate.commands.launch --cpu train.py")) == [
        "--cpu",
        "train.py",
    ]
    assert launch._options(shlex.split("python train.py --out accelerate")) is None
