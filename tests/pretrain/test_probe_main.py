"""The probes' command: it names its tasks, and a mistake is one sentence."""

import pytest

from pretrain.probe.__main__ import TASKS, listing, main


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
        (["classification", "--data", ".", "--seeds", "0"], "--seeds 0 must be above 0"),
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


@pytest.mark.parametrize("task", TASKS)
def test_every_task_describes_itself_and_its_options(task, capsys):
    with pytest.raises(SystemExit) as end:
        main([task, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "--encoder" in printed
    assert len(printed.split("\n\n")[1]) > 20
