"""Manifests: round trips, column aliases, and errors for invalid ones."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.manifest import Row, gender_of, read_manifest, rows_from, write_manifest
from engine.user_error import UserError

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=30)
ROWS = st.lists(
    st.builds(
        Row,
        path=st.integers(0, 99).map(lambda n: Path(f"clips/ä {n},b.wav")),
        speaker=st.none() | WORDS,
        text=st.none() | TEXTS,
        split=st.none() | st.sampled_from(["train", "test"]),
        duration=st.none() | st.integers(1, 10_000).map(lambda n: n / 16),
        gender=st.none() | st.sampled_from("FM"),
        extra=st.dictionaries(st.sampled_from(["phonemes", "corpus"]), TEXTS, max_size=2),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=ROWS)
def test_written_manifest_is_read_back(tmp_path, kind, rows):
    here = [Row(**{**vars(row), "path": tmp_path / row.path}) for row in rows]
    write_manifest(tmp_path / "a" / f"m.{kind}", here)
    back = read_manifest(tmp_path / "a" / f"m.{kind}")
    assert [{**vars(row), "path": row.path.resolve()} for row in back] == [vars(row) for row in here]
    assert [child.name for child in (tmp_path / "a").iterdir() if child.suffix == ".tmp"] == []


def test_paths_are_relative_to_the_manifest(tmp_path):
    write_manifest(tmp_path / "old" / "m.csv", [Row(path=tmp_path / "old" / "clips" / "a.wav")])
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.csv")[0].path == tmp_path / "new" / "clips" / "a.wav"
    assert (tmp_path / "new" / "m.csv").read_text() == "path\nclips/a.wav\n"


def test_only_the_path_is_required_and_column_aliases_are_accepted(tmp_path):
    (tmp_path / "m.csv").write_text(
        "\ufefffile_name,speaker_id,sentence,sex,duration_s,age\na.wav,7,Hi,female,1.5,30\n\n"
    )
    (row,) = read_manifest(tmp_path / "m.csv")
    expected = Row(
        path=tmp_path / "a.wav", speaker="7", text="Hi", gender="F", duration=1.5, extra={"age": "30"}
    )
    assert row == expected
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "/x/a.wav", "speaker": 7, "tags": ["a"]}\n')
    assert read_manifest(tmp_path / "m.jsonl") == [
        Row(path=Path("/x/a.wav"), speaker="7", extra={"tags": '["a"]'})
    ]


def test_unusual_line_separators_do_not_end_a_line(tmp_path):
    (tmp_path / "m.csv").write_text("path,text\na.wav,one\u2028two\x85three\n")
    assert [row.text for row in read_manifest(tmp_path / "m.csv")] == ["one\u2028two\x85three"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", "", "no 'path' column"),
        ("m.csv", "path,text\n", "lists no recordings"),
        ("m.csv", "name,text\na.wav,x\n", "no 'path' column in its first line (found: name, text)"),
        ("m.csv", "path,text\na.wav,one, two\n", "line 2: 3 cells under 2 columns"),
        ("m.csv", "path,duration\na.wav,1\nb.wav,long\n", "line 3: duration 'long' is not"),
        ("m.csv", "path,duration\na.wav,nan\n", "line 2: duration 'nan' is not"),
        ("m.csv", "path,text\n,x\n", "line 2: the path is missing"),
        ("m.csv", "path\na\0.wav\n", "line 2"),
        ("m.jsonl", '{"path": "a.wav"}\n{"path"\n', "line 2: not valid JSON"),
        ("m.jsonl", "[1]\n", "line 1: each line must be a JSON object"),
        ("m.jsonl", '{"path": 3}\n', "line 1: the path is missing"),
        ("m.txt", "path\na.wav\n", "must end in one of .csv"),
        ("m.csv", b"path\n\xff\xfe.wav\n", "not UTF-8"),
    ],
)
def test_invalid_manifest_is_refused_with_its_line(tmp_path, name, content, words):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / name)
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_other_files_are_refused_as_manifests(tmp_path):
    with pytest.raises(UserError, match="there is no manifest"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="there is no manifest or folder"):
        rows_from(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no audio files"):
        rows_from(tmp_path)
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        write_manifest(tmp_path / "m.csv", [])
    with pytest.raises(UserError, match="name it"):
        write_manifest(tmp_path / "m.doc", [])


def test_folder_is_read_by_its_contents(tmp_path, capsys):
    for name in ("anna/1.wav", "anna/2.wav", "bert/x/3.flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [row.speaker for row in rows_from(tmp_path)] == ["anna", "anna", "bert"]
    assert [row.speaker for row in rows_from(tmp_path / "bert")] == [None]  # one folder is no speaker
    (tmp_path / "top.wav").touch()
    assert {row.speaker for row in rows_from(tmp_path)} == {None}
    (tmp_path / "metadata.csv").write_text("path,speaker\nanna/1.wav,A\n")
    assert [(row.path, row.speaker) for row in rows_from(tmp_path)] == [(tmp_path / "anna/1.wav", "A")]
    assert "does not list 3 recordings in its folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "gender"),
    [
        ("F", "F"),
        ("male", "M"),
        ("female_feminine", "F"),
        ("male_masculine", "M"),
        ("other", None),
        (None, None),
    ],
)
def test_genders_are_normalised(word, gender):
    assert gender_of(word) == gender


def test_speech_pack_is_read(speech_pack):
    rows = rows_from(speech_pack)
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert all(row.speaker and row.duration and row.path.is_file() for row in rows)


def test_file_name_that_is_not_utf_8_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot list 'caf\\udce9.wav', whose name is not UTF-8: rename it"):
        write_manifest(tmp_path / "m.csv", [Row(path=tmp_path / "caf\udce9.wav")])
    assert not (tmp_path / "m.csv").exists()
