"""Configs: JSON round trips, the command line, and one-sentence errors for mistakes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import cli, differences, from_json, load_config, save_config, stored_kind, to_json
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError


@settings(deadline=None)
@given(
    lr=st.floats(1e-6, 1.0),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    out=st.text("abc/é ", min_size=1),
    steps=st.integers(1, 10**9),
    deep=st.booleans(),
    spare=st.booleans(),
)
def test_json_round_trip(toy, lr, betas, out, steps, deep, spare):
    config = toy.ToyConfig(
        body=toy.Deep(layers=3) if deep else toy.Wide(width=5),
        spare=toy.Deep() if spare else None,
        optim=OptimConfig(lr=lr, betas=betas),
        loop=LoopConfig(out=Path(out), steps=steps),
    )
    assert from_json(toy.ToyConfig, to_json(config), "here") == config


def test_file_of_another_kind_is_refused(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Horn:
        """A config that is stored as a file of its own."""

        KIND: ClassVar[str] = "horn"
        bell: float = 1.0

    @dataclass(frozen=True, kw_only=True)
    class Flute(Horn):
        """Another config with the same fields."""

        KIND: ClassVar[str] = "flute"

    save_config(Horn(bell=2.0), tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text()) == {"kind": "horn", "bell": 2.0}
    assert stored_kind(tmp_path) == stored_kind(tmp_path / "config.json") == "horn"
    assert load_config(Horn, tmp_path / "config.json") == Horn(bell=2.0)
    with pytest.raises(UserError, match="describes a horn, not a flute"):
        load_config(Flute, tmp_path / "config.json")
    assert from_json(Flute, '{"bell": 2.0}', "written before kinds were") == Flute(bell=2.0)


def test_removed_fields_are_accepted_with_their_old_default():
    @dataclass(frozen=True, kw_only=True)
    class Horn:
        """A config that had two more fields."""

        GONE: ClassVar[Mapping[str, Any]] = {"mute": 0.0, "case": ...}
        bell: float = 1.0

    assert from_json(Horn, '{"bell": 2.0, "mute": 0.0, "case": {"lined": true}}', "here") == Horn(bell=2.0)
    with pytest.raises(UserError, match="no key 'mute'"):
        from_json(Horn, '{"mute": 1.0}', "here")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"road": {}, "vocoder": "released"}', "mel_converter"),
        ('{"loop": {}, "converter": {}, "cluit": {}}', "converter_training"),
        ('{"kind": "vocoder", "road": 1}', "vocoder"),
        ('{"something": 1}', ""),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_kind_of_earlier_files_is_inferred_from_their_keys(text, kind, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert stored_kind(tmp_path) == kind
    assert stored_kind(tmp_path / "missing.json") == ""


def test_missing_keys_get_defaults_and_integers_are_floats(toy):
    config = from_json(toy.ToyConfig, '{"optim": {"lr": 1}}', "here")
    assert config == replace(toy.ToyConfig(), optim=OptimConfig(lr=1.0))
    assert isinstance(config.optim.lr, float)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"optmi": {}}', "here: there is no key 'optmi' (did you mean optim?)"),
        ('{"optim": {"lrr": 1.0}}', "here: there is no key 'lrr' in optim (did you mean lr?)"),
        ('{"optim": {"lr": "fast"}}', 'here: optim.lr: "fast" is not of type float'),
        ('{"optim": {"betas": [0.1, true]}}', "here: optim.betas[1]: true is not of type float"),
        ('{"loop": {"steps": 1.5}}', "here: loop.steps: 1.5 is not of type int"),
        ('{"loop": {"cpu": 1}}', "here: loop.cpu: 1 is not of type bool"),
        ('{"loop": {"steps": 0}}', "here: loop: loop.steps=0 must be at least 1"),
        ('{"body": {"kind": "Flat"}}', 'here: body: needs an object whose "kind" is one of Wide, Deep'),
        ('{"body": {"kind": "Deep", "width": 3}}', "here: there is no key 'width' in body"),
        ("[1]", "here: [1] is not an object of ToyConfig's fields"),
        ('{"optim": 3}', "here: optim: 3 is not an object of OptimConfig's fields"),
        ("{", "here is not JSON: "),
    ],
)
def test_wrong_json_is_refused(toy, text, sentence):
    with pytest.raises(UserError) as caught:
        from_json(toy.ToyConfig, text, "here")
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--preset tny", "there is no preset 'tny' (did you mean tiny?); choose from base, tiny"),
        ("--preset", "--preset needs a value"),
        ("--preset tiny --config x.json", "--preset and --config exclude each other"),
        ("--config nowhere.json", "cannot read the configuration nowhere.json: No such file"),
        ("--loop.stps 3", "there is no option --loop.stps (did you mean --loop.steps?)"),
        ("--lr 3", "there is no option --lr (did you mean --optim.lr?)"),
        ("--optim.lr=fast", "--optim.lr: 'fast' is not a number"),
        ("--loop.steps 1.5", "--loop.steps: '1.5' is not a whole number"),
        ("--loop.steps 0", "loop.steps=0 must be at least 1"),
        ("--loop.mixed-precision fp8", "invalid choice 'fp8'"),
        ("--loop.steps", "Missing value for argument '--loop.steps'"),
        ("--body.kind Flat", "--body.kind Flat: no such kind; choose from Wide, Deep"),
        ("--bdy.kind Deep", "there is no option --bdy.kind"),
        ("stray", "these arguments belong to no option: stray"),
    ],
)
def test_wrong_options_are_refused(toy, capsys, words, sentence):
    with pytest.raises(SystemExit) as caught:
        cli(toy.PRESETS, argv=words.split())
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert told.startswith(f"error: {sentence}"), told
    assert told.count("\n") == 1


def test_options_modify_the_preset(toy):
    words = (
        "--preset tiny --body.layers 3 --optim.betas 0.5 0.9 --loop.log_every=7 --loop.no-cpu --loop.out a/b"
    )
    config = cli(toy.PRESETS, argv=words.split())
    assert config.body == toy.Deep(layers=3)
    assert config.optim == replace(toy.BASE.optim, betas=(0.5, 0.9))
    assert config.loop == replace(toy.BASE.loop, log_every=7, cpu=False, out=Path("a/b"))
    assert cli(toy.PRESETS, argv=[]) == toy.BASE
    assert cli(toy.PRESETS, default="tiny", argv=[]) == toy.PRESETS["tiny"]


def test_config_class_is_selected_by_name(toy):
    config = cli(toy.PRESETS, argv=["--body.kind", "Deep", "--body.layers", "5", "--spare.kind", "Deep"])
    assert config.body == toy.Deep(layers=5)
    assert config.spare == toy.Deep()
    assert cli(toy.PRESETS, argv=["--spare.kind", "Deep", "--spare.kind", "none"]).spare is None


def test_stored_config_can_be_modified(toy, tmp_path):
    save_config(toy.PRESETS["tiny"], tmp_path / "run/config.json")
    assert load_config(toy.ToyConfig, tmp_path / "run/config.json") == toy.PRESETS["tiny"]
    config = cli(toy.PRESETS, argv=["--config", str(tmp_path / "run/config.json"), "--body.layers", "9"])
    assert config == replace(toy.BASE, body=toy.Deep(layers=9))
    assert json.loads(to_json(config))["body"] == {"kind": "Deep", "layers": 9}


def test_free_fields_are_no_difference(toy):
    cadence = replace(toy.BASE, loop=replace(toy.BASE.loop, steps=99, out=Path("x"), save_every=7, workers=2))
    assert not [*differences(toy.BASE, cadence)]
    other = replace(toy.BASE, loop=replace(toy.BASE.loop, seed=1), optim=OptimConfig(lr=0.5), body=toy.Deep())
    assert {name for name, _, _ in differences(toy.BASE, other)} > {"loop.seed", "optim.lr", "body"}


def test_help_lists_presets_options_and_kinds(toy, capsys):
    with pytest.raises(SystemExit) as end:
        cli(toy.PRESETS, argv=["--help"])
    assert not end.value.code
    told = capsys.readouterr().out
    for word in ("base, tiny", "--loop.save-every", "--body.kind {Wide,Deep}", "Steps between checkpoints"):
        assert word in told
