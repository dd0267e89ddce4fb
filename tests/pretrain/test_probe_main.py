"""The probes' command: its help, and mistakes reported in one sentence."""

import pytest

from pretrain.probe.__main__ import TASKS, listing, main


def test_help_lists_every_task(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed.strip() == listing().strip()
    assert all(task in printed for task in TASKS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clasification"], "did you mean classification?"),
        (["audio-retrieval", "--data", ".", "--encodr", "logmel"], "did you mean --encoder?"),
        (["classification"], "--data"),
        (["classification", "--data", ".", "--seeds", "0"], "--seeds 0 must be above 0"),
        (["classification", "--data", "nowhere.csv"], "nowhere.csv"),
        (["real_sounds", "--data", ".", "--row", "captions"], "--towers"),
    ],
)
def test_mistakes_in_the_command_are_reported_in_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert message in printed
    assert "\n" not in printed


@pytest.mark.parametrize("task", TASKS)
def test_help_of_every_task_describes_it_and_its_options(task, capsys):
    with pytest.raises(SystemExit) as end:
        main([task, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "--encoder" in printed
    assert len(printed.split("\n\n")[1]) > 20
