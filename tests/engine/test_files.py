"""Files are written completely or not at all, whatever their names; disk errors are reported."""

import errno
from pathlib import Path

import pytest

from engine.files import atomic, check_writable


@pytest.mark.parametrize("name", ["a.json", "new/deep/a.json", "b" * 248 + ".flac", "é" * 120 + ".wav"])
def test_file_of_any_name_appears_after_the_block(tmp_path, name):
    path = tmp_path / name
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == path.suffix
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_failure_keeps_only_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_library_error_on_a_full_disk_is_reported_as_the_disks(tmp_path, monkeypatch):
    def full(self: Path, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail() -> None:
        with atomic(tmp_path / "a.txt"):
            monkeypatch.setattr(Path, "open", full)
            raise RuntimeError("System error.")

    with pytest.raises(OSError, match="No space") as caught:
        fail()
    assert caught.value.filename == str(tmp_path)


def test_error_of_the_temporary_file_names_the_target(tmp_path):
    with pytest.raises(OSError, match="a folder") as caught, atomic(tmp_path / "a.txt") as temporary:
        raise OSError(errno.EISDIR, "Is a folder, not a folder", str(temporary))
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_check_of_writability_leaves_no_file(tmp_path):
    check_writable(tmp_path / "new" / "deep" / "a.wav")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "a.wav", tmp_path / ("n" * 300)):
        with pytest.raises(OSError, match=r"Not a directory|too long"):
            check_writable(wrong)
