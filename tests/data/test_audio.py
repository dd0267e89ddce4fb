"""Audio files: exact round trips, blocks equal the whole, unusable files are refused."""

import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.audio import AudioError, Writer, audio_files, blocks, excerpt, info, load, resample, save
from data.audio.resampling import Resampler, resampled_length
from engine.user_error import UserError

RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])


def tone(samples: int = 8_000, channels: int = 1) -> torch.Tensor:
    phase = torch.arange(samples) * 0.05 * torch.arange(1, channels + 1)[:, None]
    return 0.4 * phase.sin()[None] + 0.01 * torch.randn(1, channels, samples)


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        ("PCM_U8", 2**-8),
        ("PCM_16", 2**-16),
        ("PCM_24", 2**-24),
        ("PCM_32", 2**-25),
        ("FLOAT", 0.0),
        ("DOUBLE", 0.0),
    ],
)
def test_wav_round_trip_error_is_at_most_half_a_quantisation_step(tmp_path, subtype, tolerance):
    wave = tone()
    save(tmp_path / "a.wav", wave, 16_000, subtype)
    assert_close(load(tmp_path / "a.wav"), wave, rtol=0, atol=tolerance)


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_second_round_trip_is_exact(tmp_path, extension):
    save(tmp_path / f"a.{extension}", tone(), 16_000)
    once = load(tmp_path / f"a.{extension}")
    save(tmp_path / f"b.{extension}", once, 16_000)
    assert torch.equal(load(tmp_path / f"b.{extension}"), once)


@pytest.mark.parametrize("extension", ["ogg", "opus", "mp3"])
@pytest.mark.parametrize("samples", [2, 999, 16_000])
def test_lossy_formats_preserve_length_and_waveform(tmp_path, extension, samples):
    wave = tone(samples)
    save(tmp_path / f"a.{extension}", wave, 16_000)
    back = load(tmp_path / f"a.{extension}")
    assert back.shape == wave.shape
    if samples > 10_000:
        assert torch.corrcoef(torch.cat([back, wave], dim=1)[0])[0, 1] > 0.99


@pytest.mark.parametrize(("extension", "rate", "kept"), [("opus", 22_050, 24_000), ("mp3", 96_000, 48_000)])
def test_unsupported_codec_rates_are_resampled_to_the_next_higher_one(tmp_path, extension, rate, kept):
    save(tmp_path / f"a.{extension}", tone(5_000), rate)
    about = info(tmp_path / f"a.{extension}")
    assert (about.sample_rate, about.samples) == (kept, resampled_length(5_000, rate, kept))


@pytest.mark.parametrize("rate", [8_000, 96_000])
def test_six_channels_are_mixed_to_mono_at_any_rate(tmp_path, rate):
    wave = tone(4_000, channels=6)
    save(tmp_path / "a.wav", wave, rate, "FLOAT")
    mixed = load(tmp_path / "a.wav")
    total = wave.sum(1, keepdim=True)
    assert_close(mixed, total * (mixed.norm() / total.norm()), rtol=0, atol=1e-5)
    loudest = (wave - wave.mean(-1, keepdim=True)).norm(dim=-1).max()
    assert_close((mixed - mixed.mean()).norm(), loudest, rtol=1e-3, atol=0)
    assert load(tmp_path / "a.wav", 24_000, mono=False).shape == (1, 6, resampled_length(4_000, rate, 24_000))


def test_integer_formats_clip_and_float_formats_do_not(tmp_path):
    loud = 3 * tone()
    save(tmp_path / "a.wav", loud, 16_000)
    save(tmp_path / "b.wav", loud, 16_000, "FLOAT")
    assert_close(load(tmp_path / "a.wav"), loud.clamp(-1, 1), rtol=0, atol=2**-15)
    assert_close(load(tmp_path / "b.wav"), loud)


@settings(deadline=None, max_examples=40)
@given(old=RATES, new=RATES, samples=st.integers(1, 3_000), cuts=st.lists(st.integers(0, 3_000), max_size=5))
def test_resampling_in_blocks_equals_resampling_at_once(old, new, samples, cuts):
    wave = torch.randn(1, 2, samples)
    whole = resample(wave, old, new)
    assert whole.shape[-1] == resampled_length(samples, old, new)
    resampler, frames = Resampler(old, new, 2), wave[0].T.numpy()
    edges = [0, *sorted(min(cut, samples) for cut in cuts), samples]
    parts = [resampler.push(frames[a:b]) for a, b in pairwise(edges)] + [resampler.flush()]
    assert_close(torch.from_numpy(np.concatenate(parts)).T[None], whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("extension", "rate"), [("wav", None), *((e, 22_050) for e in ("wav", "flac", "ogg", "opus", "mp3"))]
)
def test_blocks_and_excerpts_equal_the_whole(tmp_path, extension, rate):
    path = tmp_path / f"a.{extension}"
    save(path, tone(400_000), 16_000)
    whole = load(path, rate)
    parts = list(blocks(path, rate, 7_001))
    assert {part.shape[-1] for part in parts[:-1]} == {7_001}
    assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-6)
    decoder_memory = 5e-3 if extension == "opus" else 1e-5  # Opus forgets its past at a seek
    for start in (0, 5, 70_000, 130_000, 300_000, whole.shape[-1] - 100):
        piece = excerpt(path, start, 4_000, rate)
        assert_close(piece, whole[..., start : start + 4_000], rtol=0, atol=decoder_memory)


def test_reading_a_long_file_in_blocks_uses_constant_memory(tmp_path):
    import tracemalloc  # only numpy's memory is seen by it, which is where a whole file would lie

    with Writer(tmp_path / "long.wav", 48_000) as writer:
        for _ in range(120):
            writer.write(torch.zeros(1, 1, 48_000))
    tracemalloc.start()
    n = sum(block.shape[-1] for block in blocks(tmp_path / "long.wav", 16_000, 4_096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 120 * 16_000
    assert peak < 4 << 20


def test_writing_in_pieces_equals_writing_at_once(tmp_path):
    wave = tone(60_000)
    save(tmp_path / "a.wav", wave, 16_000)
    with Writer(tmp_path / "b.wav", 16_000) as writer:
        for piece in wave.split(997, dim=-1):
            writer.write(piece)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("extension", ["wav", "mp3"])
def test_failed_write_leaves_no_file_and_keeps_the_old_one(tmp_path, extension):
    path = tmp_path / "new" / f"a.{extension}"

    def fail_halfway() -> None:
        with Writer(path, 16_000) as writer:
            writer.write(tone())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(path.parent.iterdir()) == []
    save(path, tone(), 16_000)
    before = path.read_bytes()
    with pytest.raises(UserError, match="NaN"):
        save(path, torch.full((1, 1, 9), torch.nan), 16_000)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "subtype", "words"),
    [
        ("a.xyz", None, ".wav, .flac"),
        ("a", None, "name it"),
        ("a.flac", "FLOAT", "PCM_24"),
        ("", None, "name"),
    ],
)
def test_unsupported_output_formats_are_refused(tmp_path, name, subtype, words):
    with pytest.raises(UserError, match=words):
        save(tmp_path / name, tone(), 16_000, subtype)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_not_overwritten_by_a_file(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        save(tmp_path / "a.wav", tone(), 16_000)
    (tmp_path / "b").write_text("")
    with pytest.raises(FileExistsError):
        save(tmp_path / "b" / "c.wav", tone(), 16_000)


def spoil(path: Path, how: str) -> None:
    match how:
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "0 bytes":
            path.write_bytes(b"")
        case "text":
            path.write_text("This is no recording.\n" * 50)
        case "noise":
            path.write_bytes(np.random.default_rng(0).bytes(5_000))
        case "half":
            os.truncate(path, path.stat().st_size // 2)
        case "last byte":
            os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("missing", "missing"),
        ("folder", "unreadable"),
        ("0 bytes", "empty"),
        ("text", "unreadable"),
        ("noise", "unreadable"),
        ("half", "truncated"),
        ("last byte", "truncated"),
    ],
)
def test_unusable_file_is_refused_with_its_name_and_problem(tmp_path, extension, how, problem):
    path = tmp_path / f"a.{extension}"
    save(path, tone(40_000), 16_000)
    spoil(path, how)
    with pytest.raises(AudioError) as caught:
        load(path)
    assert caught.value.problem == problem
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(AudioError):
        list(blocks(path, 24_000, 1_000))


@pytest.mark.parametrize(
    ("extension", "kind"), [("w64", "W64"), ("aiff", "AIFF"), ("au", "AU"), ("rf64", "RF64")]
)
def test_other_containers_are_read_and_truncation_is_detected(tmp_path, extension, kind):
    path, wave = tmp_path / f"a.{extension}", tone()
    soundfile.write(path, wave[0, 0].numpy(), 16_000, format=kind, subtype="PCM_16")
    assert_close(load(path), wave, rtol=0, atol=1e-4)
    spoil(path, "half")
    with pytest.raises(AudioError, match="truncated"):
        load(path)


def test_headers_of_unknown_length_are_read_to_the_end_of_the_file(tmp_path):
    wave = tone()
    save(tmp_path / "a.wav", wave, 16_000)
    whole = bytearray((tmp_path / "a.wav").read_bytes())
    for unknown in (0xFFFFFFFF, 0x7FFFF000):
        whole[4:8] = whole[40:44] = unknown.to_bytes(4, "little")
        (tmp_path / "b.wav").write_bytes(whole)
        assert torch.equal(load(tmp_path / "b.wav"), load(tmp_path / "a.wav"))
    save(tmp_path / "a.flac", wave, 16_000)
    whole = bytearray((tmp_path / "a.flac").read_bytes())
    whole[21] &= 0xF0  # the length of the stream: 36 bits, and 0 is "not known"
    whole[22:26] = bytes(4)
    (tmp_path / "b.flac").write_bytes(whole)
    assert torch.equal(load(tmp_path / "b.flac"), load(tmp_path / "a.flac"))
    assert info(tmp_path / "b.flac").samples == 8_000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_with_their_time(tmp_path, value):
    wave = tone()
    wave[..., 4_000] = value
    soundfile.write(tmp_path / "a.wav", wave[0, 0].numpy(), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"0\.250 s") as caught:
        load(tmp_path / "a.wav")
    assert pickle.loads(pickle.dumps(caught.value)).problem == "NaN"


def test_single_samples_and_implausible_rates_are_refused(tmp_path):
    save(tmp_path / "a.wav", tone(1), 16_000)
    save(tmp_path / "b.wav", tone(2), 48_000)
    save(tmp_path / "c.wav", tone(), 1)
    for path, rate, problem in (
        ("a", None, "too short"),
        ("b", 8_000, "too short"),
        ("c", None, "wrong rate"),
    ):
        with pytest.raises(AudioError) as caught:
            load(tmp_path / f"{path}.wav", rate)
        assert caught.value.problem == problem


def test_audio_files_are_sorted_without_hidden_files_and_link_cycles(tmp_path):
    for name in ("b/2.FLAC", "a/1.wav", "a/._1.wav", ".hidden/3.wav", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert audio_files(tmp_path) == [tmp_path / "a/1.wav", tmp_path / "b/2.FLAC"]
    (tmp_path / "empty").mkdir()
    for wrong, words in (("empty", "no audio files"), ("nowhere", "no folder"), ("a/1.wav", "is a file")):
        with pytest.raises(UserError, match=words):
            audio_files(tmp_path / wrong)
