"""The convert command: voices, formats, lengths, names of outputs, memory."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from data.audio import info, load, save
from data.manifest import Row, write_manifest
from w2w import Converter
from w2w.convert import main


def run(line: str) -> None:
    main(line.split())


def test_one_source_gives_one_file_of_equal_length(here):
    run("me.wav --reference her.wav --out as_her.wav")
    assert info("as_her.wav").samples == 12_345


def test_written_audio_equals_the_librarys_result(here, model):
    run("me.wav --reference her.wav voices --out out --pitch 2 --no-watermark")
    converter = Converter.from_pretrained(model)
    voice = converter.embed([load("her.wav"), load("voices/his.flac")])
    known = converter.source_log_f0(load("me.wav"))
    assert known is not None
    expected = converter.convert(load("me.wav"), voice, semitones=2.0, source_log_f0=known)
    expected = expected.clamp(-1, 1 - 2**-15)
    assert_close(load("out/me.wav"), expected, rtol=0, atol=2**-16 + 1e-5)


def test_blend_option_equals_blended_voices(here, model):
    save("odd:0.2/name:3.wav", load("her.wav"), 16_000)  # colons in names
    run("me.wav --blend odd:0.2:3 voices:1 --out out --no-watermark")
    run("me.wav --blend odd:0.2/name:3.wav:0.75 --blend voices/his.flac:0.25 --out again --no-watermark")
    assert_close(load("out/me.wav"), load("again/me.wav"), rtol=0, atol=1e-4)
    converter = Converter.from_pretrained(model)
    voice = converter.blend([converter.embed(load(p)) for p in ("her.wav", "voices/his.flac")], [3.0, 1.0])
    known = converter.source_log_f0(load("me.wav"))
    expected = converter.convert(load("me.wav"), voice, source_log_f0=known).clamp(-1, 1)
    assert_close(load("out/me.wav"), expected, rtol=0, atol=1e-4)


def test_manifest_speakers_are_target_voices(here):
    rows = [Row(path=Path("her.wav"), speaker="p1"), Row(path=Path("voices/his.flac"), speaker="p2")]
    write_manifest("list.csv", rows)
    run("me.wav --speaker p1 --data list.csv --out known")
    run("me.wav --reference her.wav --out named")
    assert torch.equal(load("known/me.wav"), load("named/me.wav"))
    run("me.wav --blend p1:1 p2:1 --data list.csv --out a")
    run("me.wav --reference her.wav voices --out b")
    assert_close(load("a/me.wav"), load("b/me.wav"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rate", "subtype", "channels"),
    [
        (16_000, "PCM_U8", 1),
        (44_100, "PCM_24", 2),
        (8_000, "PCM_16", 6),
        (96_000, "FLOAT", 1),
        (22_050, "DOUBLE", 1),
    ],
)
def test_length_is_kept_for_any_rate_subtype_and_channels(here, rate, subtype, channels):
    samples = rate // 3 + 1
    sound = 0.1 * np.sin(np.arange(samples)[:, None] * np.ones(channels) / 9)
    soundfile.write("odd.wav", sound, rate, subtype)
    run("odd.wav --reference her.wav --out source --rate source")
    run("odd.wav --reference her.wav --out other --rate 11025")
    assert (info("source/odd.wav").samples, info("source/odd.wav").sample_rate) == (samples, rate)
    assert info("other/odd.wav").samples == round(samples * 11_025 / rate)
    assert info("source/odd.wav").channels == 1


def test_outputs_mirror_source_folders_and_clashing_names_differ(here, capsys, files_under):
    for name in ("in/a/x.wav", "in/b/x.wav", "in/b/y.1.wav", "in/c/z.wav", "in/c/z.flac"):
        save(name, load("me.wav")[..., :2_000], 16_000)
    run("in in/b/y.1.wav --reference her.wav --out out")
    assert files_under(Path("out")) == {"a/x.wav", "b/x.wav", "b/y.1.wav", "c/z_wav.wav", "c/z_flac.wav"}
    told = capsys.readouterr().err
    assert "note: in/c/z.wav becomes out/c/z_wav.wav" in told
    assert told.count("note: ") == 2
    assert told.endswith("5 done, none left out\n")
    Path("in/b/link.wav").symlink_to("y.1.wav")
    run("in/a in/b --reference her.wav --out two")
    assert files_under(Path("two")) == {"a/x.wav", "b/x.wav", "link.wav"}
    assert "note: in/b/y.1.wav leads to in/b/link.wav" in capsys.readouterr().err


def test_results_inside_the_source_folder_are_not_converted_again(here, files_under):
    save("in/x.wav", load("me.wav"), 16_000)
    for overwrite in ("", " --overwrite"):
        run("in --reference her.wav --out in/converted" + overwrite)
    assert files_under(Path("in")) == {"x.wav", "converted/x.wav"}


def test_named_output_file_is_replaced_with_a_note(here, capsys):
    for said in (False, True):
        run("me.wav --reference her.wav --out as_her.wav")
        assert ("note: as_her.wav is replaced\n" in capsys.readouterr().err) == said


def test_memory_does_not_grow_with_duration(here, monkeypatch):
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("peak memory is read from /proc")
    monkeypatch.setattr("w2w.convert.BLOCK_S", 1.0)
    peaks = []
    for seconds in (4, 4, 64):  # the first fills caches
        save(f"{seconds}.wav", load("me.wav")[..., :12_000].repeat(1, 1, seconds * 4 // 3), 16_000)
        reset.write_text("5")
        run(f"{seconds}.wav --reference her.wav --out out.wav")
        peaks.append(int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) / 1024)  # MiB
    # At once, the pitch tracker alone would take over 100 MiB for a minute.
    assert peaks[2] - peaks[1] < 40


def test_real_speech_gives_finite_output_of_equal_length(here, speech_pack):
    recordings = sorted(speech_pack.rglob("*.flac"))[:2]
    main([str(recordings[0]), "--reference", str(recordings[1]), "--out", "out", "--rate", "source"])
    out = load(f"out/{recordings[0].stem}.wav")
    assert out.shape[-1] == info(recordings[0]).samples
    assert bool(out.isfinite().all())
    assert float(out.square().mean()) > 0
