"""The corpus of time-aligned voices: addressed, resumable, with unusable groups reported."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from data.audio import info, load
from data.manifest import read_manifest
from data.pairs import PairConfig, PairCrops
from data.parallel import ParallelConfig, main, make_parallel_corpus, plan_group
from data.synthetic.kokoro import Kokoro, cast, voices_named
from data.synthetic.sentences import LETTERS, built_in_lines, line_of_group, read_lines
from data.voices import LEVEL_DB
from engine.user_error import UserError

LINES = [f"{word} and {word} went to the sea, as they had done every year." for word in "abcdefgh"]
CONFIG = ParallelConfig(members=3, mixtures=30, format="flac", sample_rate=8_000)


class Tones(Kokoro):
    """A synthesiser of tones whose length depends on the prosody and whose frequency on the timbre."""

    voices = ("af_one", "af_two", "am_three", "am_four", "bf_five", "bm_six", "zf_seven")
    sample_rate = 8_000
    digest = "tones"

    def __init__(self) -> None:
        pass

    def phonemize(self, text: str, voice: str) -> str:
        return text

    def speak(self, phonemes: str, *, timbre: Mapping[str, float], prosody: str, speed: float) -> np.ndarray:
        n_samples = round((800 + 10 * len(phonemes) + 7 * self.voices.index(prosody)) / speed)
        step = 0.1 + sum(weight * self.voices.index(name) for name, weight in timbre.items()) / 10
        return 0.3 * np.sin(step * np.arange(n_samples), dtype=np.float32)


def make(out: Path, n_groups: int = 5, synthesizer: Tones | None = None, **fields) -> tuple[Path, list[str]]:
    config = replace(CONFIG, **fields)
    return make_parallel_corpus(out, n_groups, LINES, synthesizer or Tones(), config)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def groups(manifest: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for row in read_manifest(manifest):
        found.setdefault(row.extra["parallel"], []).append(row)
    return found


def test_groups_are_equally_long_versions_of_one_sentence(tmp_path):
    manifest, left_out = make(tmp_path / "corpus")
    assert not left_out
    mixed = json.loads((tmp_path / "corpus/speakers.json").read_text())
    assert len(groups(manifest)) == 5
    for members in groups(manifest).values():
        assert len({row.speaker for row in members}) == len(members) == 3
        assert members[0].speaker == members[0].extra["prosody"]
        assert len({(row.text, row.split, row.duration, row.extra["prosody"]) for row in members}) == 1
        assert len({info(row.path).samples for row in members}) == 1
        for row in members:
            assert row.duration == pytest.approx(info(row.path).duration, abs=1e-4)
            assert sum(mixed[row.speaker].values()) == pytest.approx(1, abs=1e-3)
            level = 20 * load(row.path).square().mean().sqrt().log10()
            assert level == pytest.approx(LEVEL_DB, abs=0.2)


def test_corpus_can_be_read_as_pairs(tmp_path):
    manifest, _ = make(tmp_path / "corpus", format="opus", sample_rate=16_000)
    crops = PairCrops(PairConfig(path=str(manifest), split="", crop_samples=400, batch=2), progress=False)
    assert len(crops.groups) == 5


class Stop(BaseException):
    """Raised in place of a killed process."""


def test_interrupted_corpus_has_complete_groups_and_resumes(tmp_path, monkeypatch):
    straight, _ = make(tmp_path / "straight", n_groups=3)
    whole = contents(straight.parent)
    out = tmp_path / "stopped"
    n_stops = 0
    for stop in count():
        calls = iter(range(stop + 1))
        with monkeypatch.context() as patched:
            # Every file appears by this call, so a stop before and after each is a stop at every instant.
            patched.setattr(os, "replace", _stopping(os.replace, calls, n_stops % 2 == 0))
            try:
                make(out, n_groups=3)
                break
            except Stop:
                n_stops += 1
        if (out / "manifest.csv").is_file():
            for members in groups(out / "manifest.csv").values():
                assert len(members) == 3
                assert all(row.path.is_file() for row in members)
    assert n_stops > 3
    assert contents(out) == whole


def _stopping(call, calls: Iterator[int], before: bool):
    def wrapped(*args) -> None:
        last = next(calls, None) is None
        if last and before:
            raise Stop
        call(*args)
        if last:
            raise Stop

    return wrapped


def test_only_missing_files_are_synthesised_again(tmp_path):
    manifest, _ = make(tmp_path / "corpus")
    before = contents(tmp_path / "corpus")
    lost = read_manifest(manifest)[4].path
    lost.unlink()
    spoken: list[str] = []

    class Counting(Tones):
        def speak(self, phonemes: str, **how) -> np.ndarray:
            spoken.append(phonemes)
            return super().speak(phonemes, **how)

    make(tmp_path / "corpus", synthesizer=Counting())
    assert len(spoken) == 3
    assert contents(tmp_path / "corpus") == before


def test_more_groups_extend_a_corpus_and_fewer_keep_it(tmp_path):
    make(tmp_path / "corpus", n_groups=2)
    make(tmp_path / "corpus", n_groups=4)
    make(tmp_path / "corpus", n_groups=1)
    make(tmp_path / "straight", n_groups=4)
    assert contents(tmp_path / "corpus") == contents(tmp_path / "straight")


def test_group_is_a_function_of_seed_and_number():
    casts = cast(Tones.voices, Tones.voices, 30, seed=0)
    plans = [plan_group(number, LINES, casts, CONFIG) for number in range(40)]
    assert plans[7] == plan_group(7, LINES, casts, CONFIG)
    assert plans[7] != plan_group(7, LINES, casts, replace(CONFIG, seed=1))
    assert {plan.text for plan in plans[:8]} == set(LINES)
    assert len({plan.speed for plan in plans}) > 30
    assert all(0.9 <= plan.speed <= 1.15 for plan in plans)


def test_validation_has_separate_voices_and_sentences():
    casts = cast(Tones.voices, (*Tones.voices, "em_x", "ef_y"), 100, seed=3)
    voices = {
        split: {voice for weights in cast.speakers.values() for voice in weights}
        for split, cast in casts.items()
    }
    assert not voices["train"] & voices["validation"]
    assert not set(casts["train"].speakers) & set(casts["validation"].speakers)
    for one in casts.values():
        assert one.prosody
        assert set(one.prosody) <= set(Tones.voices)
        weights = [list(w.values()) for w in one.speakers.values()]
        assert all(sum(w) == pytest.approx(1, abs=1e-3) for w in weights)
        assert all(-0.25 <= number <= 1.25 for w in weights for number in w)
        assert {len(w) for w in weights} <= {1, 2, 3}
    said: dict[str, set[str]] = {"train": set(), "validation": set()}
    for number in range(100):
        text, split = line_of_group(LINES, number, seed=0)
        said[split].add(text)
    assert len(said["train"]) == 7
    assert len(said["validation"]) == 1


def test_groups_of_unequal_lengths_are_skipped_and_reported(tmp_path, capsys):
    class Drifting(Tones):
        def speak(self, phonemes: str, *, timbre: Mapping[str, float], **how) -> np.ndarray:
            wave = super().speak(phonemes, timbre=timbre, **how)
            return wave[: len(wave) - (phonemes[0] == "c" and len(timbre) > 1)]

    manifest, left_out = make(tmp_path / "corpus", n_groups=8, synthesizer=Drifting())
    assert len(left_out) == 1
    assert "different lengths" in left_out[0]
    assert left_out[0] in capsys.readouterr().out
    assert len(groups(manifest)) == 7
    assert not any(row.text and row.text[0] == "c" for row in read_manifest(manifest))


def test_texts_without_phonemes_or_sound_are_skipped(tmp_path):
    class Mute(Tones):
        def phonemize(self, text: str, voice: str) -> str:
            return "" if text[0] in "ab" else text

    _, left_out = make(tmp_path / "corpus", n_groups=8, synthesizer=Mute())
    assert len(left_out) == 2

    class Silent(Tones):
        def speak(self, phonemes: str, **how) -> np.ndarray:
            return np.zeros(100, np.float32)

    with pytest.raises(UserError, match=r"none of 2 groups .* silence"):
        make(tmp_path / "other", n_groups=2, synthesizer=Silent())


@pytest.mark.parametrize("fields", [{"seed": 1}, {"members": 2}, {"mixtures": 31}, {"format": "opus"}])
def test_folder_of_another_corpus_is_refused(tmp_path, fields):
    make(tmp_path / "corpus", n_groups=1)
    with pytest.raises(UserError, match=r"other options.*corpus\.json"):
        make(tmp_path / "corpus", n_groups=1, **fields)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty"):
        make(tmp_path / "full", **fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"members": 1}, "members=1"),
        ({"members": 30}, "more mixtures"),
        ({"format": "wav"}, "format=wav is unknown: choose one of opus, flac"),
        ({"format": "opus", "sample_rate": 22_050}, "Opus does not support sample_rate=22050 Hz"),
        ({"prosody": ("bf_",)}, "matches 1 voices"),
        ({"prosody": ("af_", "xx_")}, "no voice's name begins with 'xx_'"),
    ],
)
def test_impossible_options_are_refused(tmp_path, fields, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        make(tmp_path / "corpus", **fields)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "corpus").exists()


def test_voices_are_selected_by_prefix():
    assert voices_named(["af_", "z"], Tones.voices) == ["af_one", "af_two", "zf_seven"]


def test_built_in_lines_are_distinct_and_short():
    lines = built_in_lines()
    assert len(set(lines)) == len(lines) >= 500
    assert all(len(line) in LETTERS for line in lines)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (b"One line only.\n\nOne line only.\n", "two different lines"),
        (b"Short.\n" + b"long " * 80, r"line 2: 399 letters"),
        (b"\xff\xfe\xff", "not UTF-8"),
    ],
)
def test_unusable_text_files_are_refused(tmp_path, written, sentence):
    (tmp_path / "texts.txt").write_bytes(written)
    with pytest.raises(UserError, match=sentence):
        read_lines(tmp_path / "texts.txt")
    with pytest.raises(UserError, match="no file of texts"):
        read_lines(tmp_path / "none.txt")


def command_error(capsys, *words: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        main([str(word) for word in words])
    return capsys.readouterr().err


def test_command_names_missing_files(tmp_path, capsys, monkeypatch):
    assert "--model" in command_error(capsys, tmp_path / "corpus")
    files = ["--model", tmp_path / "m.onnx", "--voices", tmp_path / "v.bin"]
    monkeypatch.setitem(sys.modules, "kokoro_onnx", None)
    assert "pip install 'timbre[synth]'" in command_error(capsys, tmp_path / "corpus", *files)
    assert not (tmp_path / "corpus").exists()
