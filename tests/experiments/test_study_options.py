"""Every study refuses invalid options in one sentence that names them."""

from importlib import import_module

import pytest

CASES = [
    ("ablation", "--pairs pairs --fast --variants no_pears", "'no_pears'"),
    ("ablation", "--pairs pairs --fast --variants speech_frozen", "'speech_frozen'"),
    ("ablation", "--pairs pairs --fast --minutes 0", "--minutes must be above 0"),
    ("ablation", "--pairs pairs --fast --n-pairs 0", "at least 1"),
    ("mel_pipeline.__main__", "--only w2v", "'w2v'"),
    ("mel_pipeline.__main__", "--n-pairs 0", "--n-pairs 0 must be at least 1"),
    ("mel_pipeline.__main__", "--minutes -1", "above 0"),
    ("mel_pipeline.__main__", "--presets w2w", "NAME=PRESET"),
    ("mel_pipeline.__main__", "--presets w2w=smal", "no such preset; choose from small"),
    ("stargan.__main__", "--variants bath", "'bath'"),
    ("stargan.__main__", "--steps 0", "--steps=0 must be at least 1"),
    ("stargan.__main__", "--clips 1", "--clips=1 must be at least 2"),
    ("text_to_voice", "--faces 2", "--faces at least 8"),
    ("watermark.__main__", "--clips 0", "must be at least 1"),
    ("watermark.__main__", "--seconds 11", "at most 10"),
    ("watermark.__main__", "--unmarked 0", "must be at least 1"),
    ("wavenet", "--steps 0", "--steps=0 must be at least 1"),
]


@pytest.mark.parametrize(("study", "options", "message"), CASES)
def test_invalid_options_are_one_sentence(study, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        import_module(f"experiments.{study}").main(["--data", "speech", *options.split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
