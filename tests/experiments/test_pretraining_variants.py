"""The arms differ in what they should and in nothing else; finished runs are not repeated; tables add up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checkpoint import export
from engine.user_error import UserError
from eval.cache import Cache
from experiments.pretraining import __main__ as study
from experiments.pretraining.__main__ import ARMS, Bench, arm, main, one
from experiments.pretraining.report import COLUMNS, curves, read, spread, table
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig

EARS = SpeechEncoderConfig(
    conv_dims=(8, 8), conv_kernels=(20, 16), conv_strides=(20, 16), hidden=16, layers=2, heads=2, ffn=16
)


@pytest.fixture
def bench(tmp_path):
    encoder = export(tmp_path / "ears", EARS, SpeechEncoder(EARS))
    return Bench(data=Path("speech"), encoder=str(encoder), out=tmp_path / "arms", steps=40, pairs=2)


def test_arms_of_one_network_differ_only_in_their_beginning_and_in_who_listens(bench):
    configs = {name: arm(name, bench, 0) for name in ARMS}
    none = configs["none"]
    assert all(configs[name].converter == none.converter for name in ARMS[:4])
    assert configs["mel"].converter == configs["mel_feature_loss"].converter != none.converter
    assert {name: configs[name].pretrained.use for name in ARMS[:4]} == {
        "none": "random",
        "frozen": "frozen",
        "fine_tuned": "fine_tuned",
        "feature_loss": "random",
    }
    for name, config in configs.items():
        listens = config.cluit.weights.content > 0
        assert listens == name.endswith("feature_loss")
        weights = replace(config.cluit.weights, content=0.0)
        assert (config.data, config.optim_converter, weights) == (
            none.data,
            none.optim_converter,
            none.cluit.weights,
        )
    assert arm("none", bench, 1).loop.out != none.loop.out


def test_a_finished_run_is_read_and_never_repeated(bench, monkeypatch):
    monkeypatch.setattr(study, "train", lambda config: pytest.fail("trained again"))
    stored = {"arm": "mel", "seed": 1, "steps": 40, "pairs": 2, "encoder": bench.encoder, "cer": 0.5}
    path = bench.out / "mel" / "1" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(stored))
    assert one("mel", 1, bench, [], Cache(bench.out)) == stored
    with pytest.raises(UserError, match="another benchmark"):
        one("mel", 1, replace(bench, steps=41), [], Cache(bench.out))


def test_tables_give_mean_and_deviation_over_seeds():
    assert spread([1.0, 2.0, 3.0]) == "2.000 ± 1.000"
    assert spread([0.5]) == "0.500"
    runs = [
        {"arm": "mel", "steps": 4, "pairs": 2, "seconds": 10.0, **dict.fromkeys(COLUMNS, value)}
        for value in (0.2, 0.4)
    ]
    text = table(runs, {**dict.fromkeys(COLUMNS, 1.0), "chance": 0.1}, ["none", "mel"])
    assert "| mel | 0.300 ± 0.141 |" in text
    assert "| none" not in text
    assert "| chance |" in text


def test_curves_take_the_later_of_two_looks_at_a_step(tmp_path):
    folder = tmp_path / "mel" / "0"
    folder.mkdir(parents=True)
    points = [{"step": step, "reconstruction": value, "phones": 1.0} for step, value in ((2, 9.0), (1, 3.0))]
    again = {"step": 2, "reconstruction": 2.0, "phones": 1.0}
    (folder / "curve.jsonl").write_text("\n".join(map(json.dumps, [*points, again])))
    assert [point["reconstruction"] for point in read(folder / "curve.jsonl")] == [3.0, 2.0]
    curves(tmp_path, ["mel", "none"], range(1))
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "arm,seed,step,reconstruction,phones",
        "mel,0,1,3.0,1.0",
        "mel,0,2,2.0,1.0",
    ]


def test_unknown_arms_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--data", "speech", "--speech-encoder", "x", "--arms", "mel,frozzen"])
    assert stop.value.code == 2
    assert "'frozzen'" in capsys.readouterr().err
