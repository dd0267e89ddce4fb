"""Evaluation pairs: the drawn list is fixed and balanced, CSV files are read back and validated."""

from pathlib import Path

import pytest

from data.manifest import Row, write_manifest
from engine.user_error import UserError
from eval.pairs import Pair, fixed_pairs, read_pairs, write_pairs


def corpus(folder: Path, n_speakers: int, n_utterances: int) -> Path:
    rows = [
        Row(
            path=folder / f"s{s}" / f"{u}.wav",
            speaker=f"s{s}",
            text=f"{s} {u}",
            split="test",
            duration=2.0 + u,
        )
        for s in range(n_speakers)
        for u in range(n_utterances)
    ]
    write_manifest(folder / "metadata.csv", rows)
    return folder


def test_ten_speakers_give_all_ordered_pairs_deterministically(tmp_path: Path) -> None:
    pairs = fixed_pairs(corpus(tmp_path, 10, 10))
    assert pairs == fixed_pairs(tmp_path)
    assert len(pairs) == len({(p.source.parent, p.target.parent) for p in pairs}) == 90
    assert all(p.source.parent != p.target.parent for p in pairs)


@pytest.mark.parametrize(("n_speakers", "n_utterances"), [(10, 10), (3, 3), (25, 5)])
def test_references_exclude_the_scored_target(tmp_path: Path, n_speakers: int, n_utterances: int) -> None:
    for pair in fixed_pairs(corpus(tmp_path, n_speakers, n_utterances)):
        assert pair.target not in pair.voice_clips
        assert pair.target_other != pair.target
        assert {clip.parent for clip in pair.voice_clips} == {pair.target.parent}


def test_speakers_are_used_equally(tmp_path: Path) -> None:
    pairs = fixed_pairs(corpus(tmp_path, 15, 4))
    for role in ("source", "target"):
        names = [getattr(p, role).parent.name for p in pairs]
        assert {names.count(name) for name in names} == {6}


def test_written_pairs_are_read_back(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("a.wav", "b.wav", "c.wav"))
    pair = Pair(source=a, target=b, output=c, text="x, y", system="ours", target_other=a, references=(a, c))
    write_pairs(tmp_path / "lists" / "pairs.csv", [pair])
    (read,) = read_pairs(tmp_path / "lists" / "pairs.csv")
    assert {k: p.resolve() for k, p in read.files.items()} == {k: p.resolve() for k, p in pair.files.items()}
    assert (read.text, read.system) == (pair.text, pair.system)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("source,target,output,text\na,b,c,d\n", r"line 1 lacks the column 'system'"),
        ("source,target,output,text,system\na.wav,,c.wav,,x\n", r"line 2 has no target"),
        ("source,target,output,text,system\n", "lists no pairs"),
        ("", "lacks the column 'source'"),
    ],
)
def test_invalid_csv_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_pairs(tmp_path / "pairs.csv")


def test_corpus_without_the_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labelled speakers in split 'dev'; it has test"):
        fixed_pairs(corpus(tmp_path, 3, 3), "dev")
