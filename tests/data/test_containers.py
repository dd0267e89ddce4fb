"""Containers are read to their end, whatever their header states; truncation is detected."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from compressed import put_av
from torch.testing import assert_close

from data.audio import AudioError, blocks, excerpt, info, load, save
from data.audio.containers import SCANNED, layout

LOSSLESS = ("wav", "flac", "aiff", "au", "w64", "rf64", "caf")


def sound(rate: int, channels: int = 1, seconds: float = 0.7) -> np.ndarray:
    """Noise with a glide, so that no two segments are equal."""
    n = int(rate * seconds) + 77
    noise = np.random.default_rng(rate).standard_normal((n, channels)) * 0.02
    return (noise + 0.3 * np.sin(np.arange(n) ** 1.3 / 40)[:, None]).astype(np.float32)


def put(path: Path, wave: np.ndarray, rate: int) -> bytes:
    """Write by soundfile and return the bytes."""
    kind = {"opus": "OGG", "oga": "OGG", "aiff": "AIFF"}.get(path.suffix[1:], path.suffix[1:].upper())
    soundfile.write(path, wave, rate, format=kind, subtype="OPUS" if path.suffix == ".opus" else None)
    return path.read_bytes()


def alike(a: torch.Tensor, b: np.ndarray) -> float:
    n = min(a.shape[-1], len(b))
    return float(np.corrcoef(a[0, 0, :n].numpy(), b.mean(1)[:n])[0, 1])


@pytest.mark.parametrize(("channels", "rate"), [(1, 8_000), (2, 44_100), (2, 48_000)])
@pytest.mark.parametrize("extension", [*LOSSLESS, "ogg", "opus", "mp3"])
def test_libsndfile_formats_keep_their_length(tmp_path, extension, rate, channels):
    if extension == "opus" and rate == 44_100:
        pytest.skip("no such rate")
    wave = sound(rate, channels)
    put(tmp_path / f"a.{extension}", wave, rate)
    assert info(tmp_path / f"a.{extension}").samples == len(wave)
    back = load(tmp_path / f"a.{extension}")
    assert back.shape[-1] == len(wave)
    assert alike(back, wave) > 0.98


@pytest.mark.parametrize(("channels", "rate"), [(2, 44_100), (1, 48_000)])
@pytest.mark.parametrize(
    ("extension", "container", "codec", "tolerance"),
    [
        ("m4a", "ipod", "aac", 0.001),  # MP4 counts in milliseconds
        ("mp4", "mp4", "aac", 0.001),
        ("m4a", "ipod", "alac", 0.0),
        ("aac", "adts", "aac", 0.13),  # the coder's padding is unknown
        ("webm", "webm", "libopus", 0.001),
        ("mka", "matroska", "flac", 0.0),
        ("wma", "asf", "wmav2", 0.13),
        ("mp3", "mp3", "libmp3lame", 0.0),
    ],
)
def test_ffmpeg_formats_keep_their_length(tmp_path, extension, container, codec, tolerance, rate, channels):
    if codec == "libopus" and rate == 44_100:
        pytest.skip("no such rate")
    path, wave = tmp_path / f"a.{extension}", sound(rate, channels)
    put_av(path, wave, rate, container, codec)
    found, whole = info(path), load(path)
    assert abs(found.duration - len(wave) / rate) <= tolerance
    assert whole.shape[-1] == found.samples
    assert_close(torch.cat(list(blocks(path, None, 999)), dim=-1), whole)
    assert_close(excerpt(path, 3_000, 2_000), whole[..., 3_000:5_000])
    if tolerance <= 0.001:
        assert alike(load(path, rate), wave) > 0.98


def wav(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body


def fmt(rate: int = 16_000, codec: int = 1) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", codec, 1, rate, 2 * rate, 2, 16))


@pytest.fixture
def samples() -> bytes:
    return (sound(16_000)[:, 0] * 32_767).astype("<i2").tobytes()


def test_wav_of_unknown_length_is_read_to_its_end(tmp_path, samples):
    true = torch.from_numpy(np.frombuffer(samples, "<i2") / 32768).float()
    for size in (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x80000024, 0xFFFFFFFF, 0xFFFFFFDB, 0xFFFF0000):
        path = tmp_path / f"{size}.wav"
        path.write_bytes(wav(fmt(), chunk(b"data", samples, size), size=size))
        assert info(path).samples == len(samples) // 2
        assert_close(load(path)[0, 0], true)


@pytest.mark.parametrize("size", [None, 0xFFFFFFFF, 0])
def test_concatenated_wavs_are_read_without_discontinuity(tmp_path, samples, size):
    one = wav(fmt(), chunk(b"data", samples, size), size=size)
    (tmp_path / "a.wav").write_bytes(one + one)
    assert "2 concatenated recordings" in info(tmp_path / "a.wav").remarks[0]
    once = torch.from_numpy(np.frombuffer(samples, "<i2") / 32768).float()
    assert_close(load(tmp_path / "a.wav")[0, 0], torch.cat([once, once]))


@pytest.mark.parametrize(
    ("chunks", "count"),
    [
        (lambda s: [fmt(), chunk(b"data", s), chunk(b"data", s)], 2),
        (lambda s: [chunk(b"data", s), fmt()], 1),
        (lambda s: [fmt(), chunk(b"LIST", b"INFOabcd"), chunk(b"data", s), chunk(b"LIST", b"INFOabcd")], 1),
        (lambda s: [fmt(), chunk(b"data", s), b"\xff\x00\x80\x01" * 99], 1),
    ],
)
def test_wav_chunks_are_read_in_any_order(tmp_path, samples, chunks, count):
    (tmp_path / "a.wav").write_bytes(wav(*chunks(samples)))
    assert load(tmp_path / "a.wav").shape[-1] == count * len(samples) // 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (wav(fmt(0), chunk(b"data", bytes(99))), "rate of 0 Hz"),
        (wav(chunk(b"data", bytes(99))), "no 'fmt ' chunk"),
        (wav(fmt(codec=0x9999), chunk(b"data", bytes(99))), "0x9999"),
        (wav(fmt()), "no 'data' chunk"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(99), "ZIP"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"Dear Sir,\n", "text"),
        (b"MThd" + bytes(99), "MIDI"),
        (b"\0\0\0\x20ftypM4A " + bytes(99), "M4A or MP4"),
        (bytes(range(1, 250)) * 9, "not audio of a known format"),
        (b"RF64" + b"\xff" * 4 + b"WAVEds64" + bytes(12), "no 'fmt ' chunk"),
        (b".snd" + struct.pack(">5I", 24, 3072, 99, 16_000, 1), "not audio of a known format"),
    ],
)
def test_error_states_the_kind_of_a_file_that_is_not_audio(tmp_path, content, words):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError) as caught:
        load(tmp_path / "a.wav")
    assert words in str(caught.value)
    assert caught.value.problem == "unreadable"


def test_file_without_samples_is_empty(tmp_path):
    for index, content in enumerate(
        (wav(fmt(), chunk(b"data", b"")), wav(fmt(), chunk(b"data", b""), chunk(b"LIST", b"INFO")))
    ):
        (tmp_path / f"{index}.wav").write_bytes(content)
        with pytest.raises(AudioError, match="holds no samples"):
            load(tmp_path / f"{index}.wav")


@pytest.mark.parametrize("wrapped", [True, False])
def test_wav_above_4_gib_is_read_to_its_end(tmp_path, monkeypatch, wrapped):
    """A sparse file of 5 GiB, which needs no disk space."""
    monkeypatch.setattr("data.audio.containers.SEARCHED", SCANNED)
    # One channel: several would be decoded to find how to mix them.
    size, head = 5 << 30, struct.pack("<HHIIHH", 3, 1, 192_000, 192_000 * 8, 8, 64)
    stated = size & 0xFFFFFFFF if wrapped else 0xFFFFFFFF
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(wav(chunk(b"fmt ", head), chunk(b"data", b"", stated)))
        start = file.tell()
        file.truncate(start + size)
        file.seek(start + size - 8)
        file.write(struct.pack("<d", 0.5))
    found = info(tmp_path / "a.wav")
    assert found.samples == size // 8
    assert excerpt(tmp_path / "a.wav", found.samples - 2, 5).flatten().tolist() == [0.0, 0.5]


@pytest.mark.parametrize("extension", ["mp3", "flac", "ogg", "opus"])
def test_concatenated_files_are_read_to_the_end(tmp_path, extension):
    rate, path = 16_000, tmp_path / f"joined.{extension}"
    waves = [sound(rate, 2, seconds) for seconds in (0.7, 2.0, 0.7)]
    path.write_bytes(b"".join(put(tmp_path / f"a.{extension}", wave, rate) for wave in waves))
    whole, true = load(path), np.concatenate(waves)
    assert whole.shape[-1] == info(path).samples == len(true)
    assert alike(whole, true) > 0.98
    assert "3 concatenated recordings" in info(path).remarks[0]
    for start in (0, len(waves[0]) - 500, len(waves[0]) + len(waves[1]) + 100):
        assert_close(excerpt(path, start, 3_000), whole[..., start : start + 3_000], rtol=0, atol=5e-3)


def test_end_of_a_long_flac_is_found_without_reading_all_of_it(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, (SCANNED // 2, 1)).astype(np.float32)
    once = put(tmp_path / "a.flac", noise, 48_000)
    assert len(once) > SCANNED
    assert len(layout(tmp_path / "a.flac").pieces) == 1
    (tmp_path / "b.flac").write_bytes(once + put(tmp_path / "c.flac", noise[:5_000], 48_000))
    assert info(tmp_path / "b.flac").samples == len(noise) + 5_000


def test_concatenated_files_of_different_rates_are_refused(tmp_path):
    (tmp_path / "a.flac").write_bytes(
        b"".join(put(tmp_path / "b.flac", sound(rate), rate) for rate in (8_000, 16_000))
    )
    with pytest.raises(AudioError, match="different rates"):
        load(tmp_path / "a.flac")


def test_vbr_mp3_without_frame_count_is_read_whole(tmp_path):
    rate = 44_100
    wave = sound(rate, 1, 12.0)
    wave[: 6 * rate] *= 1e-3  # little to code at first: from there the length is guessed wrongly
    put_av(tmp_path / "a.mp3", wave, rate, "mp3", "libmp3lame", write_xing="0")
    found = info(tmp_path / "a.mp3")
    assert abs(found.samples - len(wave)) < 3 * 1152  # the coder's padding is unknown
    assert load(tmp_path / "a.mp3").shape[-1] == found.samples


@pytest.mark.parametrize("extension", ["opus", "ogg"])
def test_ogg_stream_without_end_mark_is_read_whole(tmp_path, extension):
    wave = sound(48_000, 1, 3.0)
    content = bytearray(put(tmp_path / f"a.{extension}", wave, 48_000))
    page = content.rfind(b"OggS")
    content[page + 5] &= ~4
    content[page + 22 : page + 26] = bytes(4)
    checksum = 0
    for byte in content[page:]:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    content[page + 22 : page + 26] = struct.pack("<I", checksum)
    (tmp_path / f"a.{extension}").write_bytes(content)
    found = info(tmp_path / f"a.{extension}")
    assert abs(found.samples - len(wave)) <= 0.02 * 48_000
    assert "ends the stream" in found.remarks[0]


@pytest.mark.parametrize(("container", "flags"), [("ipod", ""), ("ipod", "faststart"), ("webm", "")])
def test_truncation_is_reported(tmp_path, container, flags):
    path = tmp_path / "a.m4a"
    options = {"movflags": flags} if flags else {}
    codec = "libopus" if container == "webm" else "aac"
    put_av(path, sound(48_000, 1, 6.0), 48_000, container, codec, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"truncated|cannot be decoded"):
        load(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_wav_too_long_for_its_header_is_written_as_rf64(tmp_path, monkeypatch, subtype):
    wave = torch.from_numpy(sound(16_000, 2).T)[None]
    save(tmp_path / "a.wav", wave, 16_000, subtype)
    monkeypatch.setattr("data.audio.writing.MOST_WAV_BYTES", 1_000)
    save(tmp_path / "b.wav", wave, 16_000, subtype)
    assert soundfile.info(str(tmp_path / "b.wav")).format == "RF64"
    assert torch.equal(load(tmp_path / "b.wav", mono=False), load(tmp_path / "a.wav", mono=False))
    assert (
        struct.unpack("<Q", (tmp_path / "b.wav").read_bytes()[20:28])[0]
        == (tmp_path / "b.wav").stat().st_size - 8
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]
