"""``python -m vocoders.synthesize``: recordings and mels to waves; nothing is written after user errors."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.audio import load, save
from data.frontends import LogMel, named_mel
from engine.checkpoint import export
from engine.config import save_config
from vocoders import Vocoder, VocoderConfig, synthesize
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.hifigan import V1_16K
from vocoders.synthesize import main
from vocoders.vocoder import SHORTEST_BLOCK

SPEECH = named_mel("speech16k")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The folder of a tiny exported vocoder."""
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderConfig(mel=SPEECH, network=replace(V1_16K, channels=16)))
    vocoder.network.fold()
    return export(tmp_path_factory.mktemp("vocoder"), vocoder.config, vocoder.network)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Recordings at several rates, and a mel."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    save(folder / "a.wav", 0.1 * torch.randn(1, 1, 9_000), 16_000)
    save(folder / "deep/b.flac", 0.1 * torch.randn(1, 2, 11_025), 44_100)
    save(folder / "deep/a.wav", 0.1 * torch.randn(1, 1, 50), 8_000)
    np.save(folder / "mel.npy", (torch.randn(80, 37) - 5).numpy())
    return folder


def run(*argv) -> None:
    main([str(word) for word in argv])


def error_message(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as end:
        run(*argv)
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_folder_of_recordings_and_mels_keeps_durations(network, sources, tmp_path, capsys):
    run(sources, "--vocoder", network, "--out", tmp_path)
    lengths = {str(path.relative_to(tmp_path)): load(path).shape[-1] for path in tmp_path.rglob("*.wav")}
    assert lengths == {"a.wav": 9_000, "deep/b.wav": 4_000, "deep/a.wav": 100, "mel.wav": 37 * 160}
    printed = capsys.readouterr()
    assert len(printed.out.split()) == 4
    assert "times real time" in printed.err
    assert printed.err.endswith("4 done, none left out\n")


def test_batched_output_equals_single_output(network, sources, tmp_path):
    run(sources, "--vocoder", network, "--out", tmp_path / "one")
    run(sources, "--vocoder", network, "--out", tmp_path / "all", "--batch", 3)
    for path in (tmp_path / "one").rglob("*.wav"):
        same = tmp_path / "all" / path.relative_to(tmp_path / "one")
        assert_close(load(same), load(path), rtol=0, atol=4e-5)


def test_streamed_recording_equals_the_whole(network, tmp_path, monkeypatch):
    save(tmp_path / "long.wav", 0.1 * torch.randn(1, 1, 40_000), 16_000)
    run(tmp_path / "long.wav", "--vocoder", network, "--out", tmp_path / "whole.wav")
    monkeypatch.setattr(synthesize, "BLOCK_S", 0.1)
    monkeypatch.setattr("vocoders.vocoder.SHORTEST_BLOCK", 8)
    run(tmp_path / "long.wav", "--vocoder", network, "--out", tmp_path / "pieces.wav")
    assert_close(load(tmp_path / "pieces.wav"), load(tmp_path / "whole.wav"), rtol=0, atol=4e-5)


def test_memory_does_not_grow_with_recording_length(network, tmp_path, monkeypatch):
    """The network is replaced, so that only reading, mels, windows and writing use memory."""
    monkeypatch.setattr("vocoders.vocoder.Vocoder.make", lambda s, w, *_: torch.zeros(1, 1, w.frames * s.hop))
    monkeypatch.setattr(synthesize, "READ_SAMPLES", 1 << 14)
    pieces = []
    written = synthesize.Writer.write
    monkeypatch.setattr(
        synthesize.Writer, "write", lambda self, wave: (pieces.append(wave.shape[-1]), written(self, wave))[1]
    )
    peaks = []
    for seconds in (20, 80):
        path = tmp_path / f"{seconds}.wav"
        save(path, 0.1 * torch.randn(1, 1, seconds * 16_000), 16_000)
        pieces.clear()
        tracemalloc.start()
        run(path, "--vocoder", network, "--out", tmp_path / f"out_{seconds}.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(pieces) <= 160 * SHORTEST_BLOCK
    assert peaks[1] < 1.2 * peaks[0] + 2**20
    assert load(tmp_path / "out_80.wav").shape[-1] == 80 * 16_000


def test_saved_mel_gives_the_same_wave_and_keeps_its_definition(network, sources, tmp_path, capsys):
    run(sources / "a.wav", "--vocoder", network, "--out", tmp_path / "first", "--save-mel")
    run(tmp_path / "first/a.npz", "--vocoder", network, "--out", tmp_path / "second")
    capsys.readouterr()
    first, second = load(tmp_path / "first/a.wav"), load(tmp_path / "second/a.wav")
    assert_close(second[..., : first.shape[-1]], first, rtol=0, atol=4e-5)
    message = error_message(
        capsys,
        tmp_path / "first/a.npz",
        "--vocoder",
        "griffin_lim",
        "--mel",
        "hifigan",
        "--out",
        tmp_path / "x",
    )
    assert "'speech16k'" in message
    assert "'hifigan'" in message
    assert not (tmp_path / "x").exists()


def test_griffin_lim_resynthesises_a_recording(tmp_path, hum):
    save(tmp_path / "hum.wav", hum(16_000, (150.0,)), 16_000)
    save_config(
        VocoderConfig(mel=SPEECH, network=GriffinLimConfig(iterations=8)), tmp_path / "lim/config.json"
    )
    run(tmp_path / "hum.wav", "--vocoder", tmp_path / "lim", "--out", tmp_path / "copy.flac", "--seed", 3)
    log_mel = LogMel(SPEECH)
    difference = (log_mel(load(tmp_path / "copy.flac")) - log_mel(load(tmp_path / "hum.wav"))).abs().mean()
    assert difference < 0.5


def test_existing_outputs_are_skipped_refused_or_replaced(network, sources, tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(b"kept")
    run(sources, "--vocoder", network, "--out", tmp_path, "--skip-existing")
    assert (tmp_path / "a.wav").read_bytes() == b"kept"
    assert (tmp_path / "mel.wav").is_file()
    with pytest.raises(SystemExit) as end:
        run(sources, sources / "a.wav", "--vocoder", network, "--out", tmp_path)
    assert end.value.code == 2
    assert "a.wav is there already; --overwrite replaces it" in capsys.readouterr().err
    (tmp_path / "b.npz").write_bytes(b"kept")
    save_too = (sources / "deep/b.flac", "--vocoder", network, "--out", tmp_path, "--save-mel")
    assert "b.npz is there already" in error_message(capsys, *save_too)
    run(sources / "a.wav", "--vocoder", network, "--out", tmp_path, "--overwrite")
    assert load(tmp_path / "a.wav").shape[-1] == 9_000


def test_user_errors_are_reported_and_write_nothing(network, sources, tmp_path, capsys):
    out = tmp_path / "out"
    bad = tmp_path / "bad.npy"
    np.save(bad, np.full((80, 5), np.nan, np.float32))
    swapped = tmp_path / "turned.npy"
    np.save(swapped, np.zeros((5, 80), np.float32))
    few = tmp_path / "few.npy"
    np.save(few, np.zeros((64, 5), np.float32))
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    (tmp_path / "empty").mkdir()
    good = sources / "a.wav"
    for wrong, message in (
        (bad, "NaN"),
        (swapped, "transposed"),
        (few, "64 bands"),
        (text, "text.wav"),
        (tmp_path / "none.wav", "no source"),
        (tmp_path / "empty", "neither recordings nor mels"),
    ):
        assert message in error_message(capsys, wrong, "--vocoder", network, "--out", out)
    for option, value, message in (
        ("--batch", 0, "at least 1"),
        ("--seed", -1, "0 or more"),
        ("--speaker", 1, "no option 'speaker'"),
        ("--temperature", -1, "0 or more"),
        ("--denoise", 11, "between 0 and 10"),
        ("--device", "abacus", "cannot be used"),
        ("--weights", "g_1", "unknown"),
        ("--mel", "melgan", "'melgan'"),
        ("--bach", 2, "did you mean --batch"),
        ("--temperature", 1, "no option 'temperature'"),
    ):
        assert message in error_message(capsys, good, "--vocoder", network, "--out", out, option, value)
    assert not out.exists()


def test_unusable_sources_are_reported_and_skipped(network, sources, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/text.wav").write_text("no sound")
    np.save(tmp_path / "in/few.npy", np.zeros((64, 5), np.float32))
    with pytest.raises(SystemExit) as end:
        run(sources / "a.wav", tmp_path / "in", "--vocoder", network, "--out", tmp_path / "out", "--batch", 2)
    assert end.value.code == 1
    message = capsys.readouterr().err
    assert "1 done, 2 left out:" in message
    assert "few.npy has 64 bands" in message
    assert "text.wav is not audio" in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


def test_sources_are_never_overwritten(network, sources, tmp_path, capsys):
    save(tmp_path / "a.wav", torch.zeros(1, 1, 4_000), 16_000)
    before = (tmp_path / "a.wav").read_bytes()
    assert "written over" in error_message(
        capsys, tmp_path / "a.wav", "--vocoder", network, "--out", tmp_path / "a.wav"
    )
    assert "folder of the sources" in error_message(capsys, tmp_path, "--vocoder", network, "--out", tmp_path)
    assert "names one file" in error_message(
        capsys, sources, "--vocoder", network, "--out", tmp_path / "b.wav"
    )
    assert (tmp_path / "a.wav").read_bytes() == before
