"""Rows of corpora on disk have the right speakers, texts, splits and genders; the command lists them."""

import errno
import os
from pathlib import Path

import pytest
import torch

from data.audio import save
from data.corpora.__main__ import main, plain_folder, speaker_folders
from data.corpora.published import common_voice, jvs, librispeech, libritts, vctk
from data.manifest import Row, read_manifest, rows_from
from engine.user_error import UserError

ROOT = Path(__file__).resolve().parents[2]


def put(folder: Path, files: dict[str, str | None]) -> Path:
    """Write text files, and a short recording where the text is None."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            save(folder / name, 0.1 * torch.randn(1, 1, 1_600), 16_000)
        else:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def facts(rows: list[Row]) -> dict[str, tuple[str | None, ...]]:
    return {row.path.name: (row.speaker, row.text, row.split, row.gender) for row in rows}


def test_plain_folder(tmp_path):
    put(tmp_path, {"x/a.wav": None, "b.mp3": None, "b.txt": "Good\nmorning.\n"})
    assert facts(plain_folder(tmp_path, [])) == {
        "a.wav": (None, None, None, None),
        "b.mp3": (None, "Good morning.", None, None),
    }


def test_speaker_folders(tmp_path):
    put(tmp_path, {"anna/1/a.wav": None, "bert/b.flac": None})
    left_out: list[str] = []
    assert {row.path.name: row.speaker for row in speaker_folders(tmp_path, left_out)} == {
        "a.wav": "anna",
        "b.flac": "bert",
    }
    put(tmp_path, {"c.wav": None})
    assert len(speaker_folders(tmp_path, left_out)) == 2
    assert len(left_out) == 1
    assert "c.wav is in no speaker's folder" in left_out[0]


def command(capsys, *words) -> tuple[int, str]:
    """Return the command's exit status and its messages."""
    capsys.readouterr()
    try:
        main([str(word) for word in words])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err


def test_unusable_files_are_reported_and_the_rest_is_listed(tmp_path, capsys, monkeypatch):
    put(tmp_path / "in", {"anna/a.wav": None, "anna/b.flac": None, "stray.wav": None, "bert/c.wav": None})
    (tmp_path / "in/bert/c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "in/anna/b.flac").rename(tmp_path / "in/anna/b.M4A")
    (tmp_path / "in/carl").mkdir()
    listed = os.scandir

    def scandir(place):
        if str(place).endswith("carl"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    line = ("speaker-folders", tmp_path / "in", "--write", tmp_path / "list.csv")
    code, said = command(capsys, *line)
    assert code == 1
    assert said.startswith("2 listed, 3 left out:\n")
    for why in ("in/stray.wav is in no", "in/carl is a folder, not", "in/bert/c.txt is not UTF-8"):
        assert f"/{why}" in said
    assert [row.path.name for row in read_manifest(tmp_path / "list.csv")] == ["a.wav", "b.M4A"]
    assert [row.speaker for row in rows_from(tmp_path / "in" / "anna")] == [None, None]
    named = Path(os.fsdecode(os.fsencode(tmp_path / "in/bert") + b"/caf\xe9.wav"))
    (tmp_path / "in/bert/c.wav").rename(named)
    code, said = command(capsys, "plain-folder", tmp_path / "in", *line[2:])
    assert code == 1
    assert r"in/bert/caf\udce9.wav has a name that is not valid text" in said
    code, said = command(capsys, "plain-folder", tmp_path / "in/anna", *line[2:])
    assert (code, said) == (0, f"note: {tmp_path / 'list.csv'} is replaced\n2 listed, none left out\n")


def test_unlisted_files_of_a_published_corpus_are_reported(tmp_path, capsys):
    put(tmp_path / "libri", LIBRISPEECH | {"LibriSpeech/dev-clean/84/1/84-1-0001.flac": None})
    code, said = command(capsys, "librispeech", tmp_path / "libri", "--write", tmp_path / "l.csv")
    assert code == 1
    assert "3 listed, 1 left out:" in said
    assert "84-1-0001.flac has no text" in said
    place = "vctk/wav48_silence_trimmed/p225"
    put(tmp_path, {f"{place}/p225_001_mic1.flac": None, f"{place}/p225_001_mic2.flac": None})
    code, said = command(capsys, "vctk", tmp_path / "vctk", "--write", tmp_path / "v.csv")
    assert code == 0
    assert "1 recordings" in said
    assert "mic2.flac" in said


LIBRISPEECH = {
    "LibriSpeech/SPEAKERS.TXT": ";ID|SEX\n19   | F | train-clean-100  | 25.19\n84 | M | dev-clean | 8\n",
    "LibriSpeech/train-clean-100/19/198/19-198-0000.flac": None,
    "LibriSpeech/train-clean-100/19/198/19-198-0001.flac": None,
    "LibriSpeech/train-clean-100/19/198/19-198.trans.txt": "19-198-0000 ONE TWO\n19-198-0001 THREE\nX Y\n",
    "LibriSpeech/dev-clean/84/1/84-1-0000.flac": None,
    "LibriSpeech/dev-clean/84/1/84-1.trans.txt": "84-1-0000 FOUR\n",
}


@pytest.mark.parametrize("given", ["", "LibriSpeech"])
def test_librispeech(tmp_path, given):
    put(tmp_path, LIBRISPEECH)
    assert facts(librispeech(tmp_path / given)) == {
        "19-198-0000.flac": ("19", "ONE TWO", "train", "F"),
        "19-198-0001.flac": ("19", "THREE", "train", "F"),
        "84-1-0000.flac": ("84", "FOUR", "validation", "M"),
    }
    one = librispeech(tmp_path / "LibriSpeech" / "dev-clean")
    assert facts(one) == {"84-1-0000.flac": ("84", "FOUR", "validation", "M")}


def test_libritts(tmp_path):
    put(
        tmp_path / "LibriTTS",
        {
            "speakers.tsv": "READER\tGENDER\tSUBSET\tNAME\n14\tF\ttest-other\tKristin\n",
            "test-other/14/208/14_208_000001_000000.wav": None,
            "test-other/14/208/14_208_000001_000000.normalized.txt": "Hello, you.\n",
            "test-other/14/208/14_208_000001_000000.original.txt": "HELLO, you.\n",
            "test-other/14/208/14_208_000001_000001.wav": None,
        },
    )
    assert facts(libritts(tmp_path)) == {
        "14_208_000001_000000.wav": ("14", "Hello, you.", "test", "F"),
        "14_208_000001_000001.wav": ("14", None, "test", "F"),
    }


def test_vctk(tmp_path):
    place = "VCTK-Corpus-0.92/wav48_silence_trimmed"
    put(
        tmp_path,
        {
            f"{place}/p225/p225_001_mic1.flac": None,
            f"{place}/p225/p225_001_mic2.flac": None,
            f"{place}/p280/p280_001_mic1.flac": None,
            f"{place}/s5/s5_001_mic1.flac": None,
            "VCTK-Corpus-0.92/txt/p225/p225_001.txt": "Please call Stella.\n",
            "VCTK-Corpus-0.92/speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
            "p225  23  F    English    Southern  England\n"
            "p280  25  F    France  (mic2 files unavailable)\ns5  18  M    British\n",
        },
    )
    assert facts(vctk(tmp_path)) == {
        "p225_001_mic1.flac": ("p225", "Please call Stella.", None, "F"),
        "p280_001_mic1.flac": ("p280", None, None, "F"),
        "s5_001_mic1.flac": ("s5", None, None, "M"),
    }
    names = {which: [row.path.stem for row in vctk(tmp_path, which)] for which in ("mic2", "both")}
    assert names["mic2"] == ["p225_001_mic2", "p280_001_mic1", "s5_001_mic1"]
    assert names["both"] == ["p225_001_mic1", "p225_001_mic2", "p280_001_mic1", "s5_001_mic1"]


def test_vctk_version_0_80(tmp_path):
    files = {"wav48/p225/p225_001.wav": None, "speaker-info.txt": "ID  AGE  GENDER\n225  23  F    English\n"}
    assert facts(vctk(put(tmp_path, files))) == {"p225_001.wav": ("p225", None, None, "F")}


def test_jvs(tmp_path):
    put(
        tmp_path / "jvs_ver1",
        {
            "gender_f0range.txt": "speaker Male_or_Female minf0[Hz]\njvs001 M 70 250\njvs002 F 120 400\n",
            "jvs001/parallel100/wav24kHz16bit/VOICEACTRESS100_001.wav": None,
            "jvs001/parallel100/transcripts_utf8.txt": "VOICEACTRESS100_001:また、東寺のように\n",
            "jvs001/whisper10/wav24kHz16bit/W_001.wav": None,
            "jvs002/nonpara30/wav24kHz16bit/BASIC_1.wav": None,
        },
    )
    assert facts(jvs(tmp_path)) == {
        "VOICEACTRESS100_001.wav": ("jvs001", "また、東寺のように", None, "M"),
        "BASIC_1.wav": ("jvs002", None, None, "F"),
    }
    assert [row.extra["style"] for row in jvs(tmp_path, ["whisper10"])] == ["whisper10"]


def test_common_voice(tmp_path):
    head = "client_id\tpath\tsentence\tup_votes\tgender\n"
    files = {
        "cv/en/train.tsv": head + 'aa\tc_1.mp3\tShe said "no.\t2\tfemale_feminine\nbb\tgone.mp3\tX\t2\t\n',
        "cv/en/test.tsv": head + "cc\tc_2\tYes\u2028indeed\t2\tother\n",
        "cv/en/validated.tsv": head + "dd\tc_3.mp3\tWell\t2\tmale\n",
        "cv/en/clips/c_1.mp3": None,
        "cv/en/clips/c_2.mp3": None,
        "cv/en/clips/c_3.mp3": None,
    }
    put(tmp_path, files)
    expected = {
        "c_1.mp3": ("aa", 'She said "no.', "train", "F"),
        "c_2.mp3": ("cc", "Yes\u2028indeed", "test", None),
    }
    assert facts(common_voice(tmp_path / "cv" / "en")) == expected
    assert facts(common_voice(tmp_path)) == expected
    assert facts(common_voice(tmp_path, ["validated"])) == {"c_3.mp3": ("dd", "Well", None, "M")}
    (tmp_path / "cv" / "fr" / "clips").mkdir(parents=True)
    with pytest.raises(UserError, match="several languages"):
        common_voice(tmp_path)


@pytest.mark.parametrize("build", [librispeech, libritts, vctk, jvs, common_voice])
def test_folder_of_another_kind_is_refused(tmp_path, build):
    put(tmp_path, {"somewhere/a.wav": None, "somewhere/notes.txt": "none"})
    with pytest.raises(UserError, match="does not look like"):
        build(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        build(tmp_path / "nowhere")


def test_command_writes_a_manifest_with_relative_paths(tmp_path, capsys):
    put(tmp_path / "raw", LIBRISPEECH)
    main(["librispeech", str(tmp_path / "raw"), "--write", str(tmp_path / "m" / "libri.csv"), "--durations"])
    assert "3 recordings, 2 speakers, 3 with text" in capsys.readouterr().out
    rows = read_manifest(tmp_path / "m" / "libri.csv")
    assert [row.duration for row in rows] == [0.1] * 3
    assert all(row.path.is_file() for row in rows)
    assert "../raw/" in (tmp_path / "m" / "libri.csv").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["librispeach", "x", "--write", "m.csv"], "did you mean librispeech?"),
        (["vctk", "nowhere", "--write", "m.csv"], "there is no folder nowhere"),
        (["vctk", "x", "--write", "m.txt"], "m.txt cannot be written"),
        (["vctk", "x", "--wrote", "m.csv"], "--write"),
        (
            ["vctk", "x", "--write", "m.csv", "--limt", "3"],
            "there is no option --limt (did you mean --limit?)",
        ),
        (["vctk", "x", "--write", "m.csv", "--limit", "3"], "--limit is not an option of kind vctk"),
        (["vctk", "x", "--write", "m.csv", "--microphone", "mic3"], "mic1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert printed.err.startswith("error: ")
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
