"""The fuzzing benchmark reports exceptions, timeouts and crashes of readers."""

import pickle

import pytest
from hypothesis import given

from benchmarks import fuzz


@given(fuzz.CHANGES)
def test_changes_are_deterministic(changes):
    assert fuzz.change(b"something good", changes) == fuzz.change(b"something good", changes)
    assert fuzz.change(b"something good", []) == b"something good"


def test_exceptions_timeouts_and_crashes_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def read(path):
        content = path.read_bytes()
        if content == b"good":
            return
        if content.startswith(b"good"):
            pickle.loads(b"no pickle")
        while not content:
            pass

    target = fuzz.Target("file", [b"good"], read)
    findings = fuzz.forked(target, tmp_path, 40, 0, tmp_path / "findings")
    assert {finding.split(" at ")[0] for finding in findings} == {"UnpicklingError", "TooLong"}
    crash = fuzz.Target("file", [b"good"], lambda path: fuzz.os.abort())
    assert fuzz.forked(crash, tmp_path, 1, 0, tmp_path / "findings") == {"the process ended with -6"}
    assert (tmp_path / "findings" / "crash.file").is_file()


@pytest.mark.slow
def test_readers_pass_a_short_run(tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as end:
        fuzz.main(["--cases", "3000", "--findings", str(tmp_path / "findings")])
    assert end.value.code == 0
