"""The probes' command: it names its tasks, and a mistake is one sentence."""

from importlib import import_module

import pytest

from pretrain.probe.__main__ import TASKS, listing, main

OURS = ("classification", "zero_shot", "audio_retrieval", "cross_modal", "low_data", "real_sounds")


def test_help_names_every_task(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed.strip() == listing().strip()
    assert all(task in printed for task in TASKS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clasification"], "did you mean classification?"),
        (["audio-retrieval", "--data", ".", "--encodr", "logmel"], "did you mean --encoder?"),
        (["classification"], "--data"),
        (["classification", "--data", "nowhere.csv"], "nowhere.csv"),
        (["real_sounds", "--data", ".", "--row", "captions"], "--towers"),
    ],
)
def test_mistakes_are_told_in_one_sentence(words, told, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    complaint = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert told in complaint
    assert "\n" not in complaint


@pytest.mark.parametrize("task", OURS)
def test_every_task_describes_its_options(task, capsys):
    with pytest.raises(SystemExit) as end:
        main([task, "--help"])
    assert end.value.code == 0
    assert "--encoder" in capsys.readouterr().out
    assert import_module(f"pretrain.probe.{task}").__doc__
