"""``python -m vocoders.synthesize``: recordings and mels to waves; every refusal leaves nothing behind."""

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
    """A folder with a tiny trained-looking vocoder."""
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


def complaint(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as end:
        run(*argv)
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


def test_a_folder_of_both_is_made_each_as_long_as_it_was(network, sources, tmp_path, capsys):
    run(sources, "--vocoder", network, "--out", tmp_path)
    lengths = {str(path.relative_to(tmp_path)): load(path).shape[-1] for path in tmp_path.rglob("*.wav")}
    assert lengths == {"a.wav": 9_000, "deep/b.wav": 4_000, "deep/a.wav": 100, "mel.wav": 37 * 160}
    printed = capsys.readouterr()
    assert len(printed.out.split()) == 4
    assert "times real time" in printed.err
    assert printed.err.endswith("4 done, none left out\n")


def test_together_is_as_alone(network, sources, tmp_path):
    run(sources, "--vocoder", network, "--out", tmp_path / "one")
    run(sources, "--vocoder", network, "--out", tmp_path / "all", "--batch", 3)
    for path in (tmp_path / "one").rglob("*.wav"):
        same = tmp_path / "all" / path.relative_to(tmp_path / "one")
        assert_close(load(same), load(path), rtol=0, atol=4e-5)


def test_long_recordings_are_streamed_and_equal_the_whole(network, tmp_path, monkeypatch):
    save(tmp_path / "long.wav", 0.1 * torch.randn(1, 1, 40_000), 16_000)
    run(tmp_path / "long.wav", "--vocoder", network, "--out", tmp_path / "whole.wav")
    monkeypatch.setattr(synthesize, "BLOCK_S", 0.1)
    monkeypatch.setattr("vocoders.vocoder.SHORTEST_BLOCK", 8)
    run(tmp_path / "long.wav", "--vocoder", network, "--out", tmp_path / "pieces.wav")
    assert_close(load(tmp_path / "pieces.wav"), load(tmp_path / "whole.wav"), rtol=0, atol=4e-5)


def test_memory_does_not_grow_with_the_recording(network, tmp_path, monkeypatch):
    """The network is left out: what is read, heard, cut and written is all there is."""
    monkeypatch.setattr("vocoders.vocoder.Vocoder.make", lambda s, w, *_: torch.zeros(1, 1, w.frames * s.hop))
    monkeypatch.setattr("vocoders.inputs.READ_SAMPLES", 1 << 14)
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


def test_a_saved_mel_makes_the_same_wave_and_no_other_vocoder_takes_it(network, sources, tmp_path, capsys):
    run(sources / "a.wav", "--vocoder", network, "--out", tmp_path / "first", "--save-mel")
    run(tmp_path / "first/a.npz", "--vocoder", network, "--out", tmp_path / "second")
    capsys.readouterr()
    first, second = load(tmp_path / "first/a.wav"), load(tmp_path / "second/a.wav")
    assert_close(second[..., : first.shape[-1]], first, rtol=0, atol=4e-5)
    told = complaint(
        capsys,
        tmp_path / "first/a.npz",
        "--vocoder",
        "griffin_lim",
        "--mel",
        "hifigan",
        "--out",
        tmp_path / "x",
    )
    assert "'speech16k'" in told
    assert "'hifigan'" in told
    assert not (tmp_path / "x").exists()


def test_griffin_lim_copies_a_recording(tmp_path, hum):
    save(tmp_path / "hum.wav", hum(16_000, (150.0,)), 16_000)
    save_config(
        VocoderConfig(mel=SPEECH, network=GriffinLimConfig(iterations=8)), tmp_path / "lim/config.json"
    )
    run(tmp_path / "hum.wav", "--vocoder", tmp_path / "lim", "--out", tmp_path / "copy.flac", "--seed", 3)
    hear = LogMel(SPEECH)
    missed = (hear(load(tmp_path / "copy.flac")) - hear(load(tmp_path / "hum.wav"))).abs().mean()
    assert missed < 0.5


def test_what_is_there_can_be_skipped(network, sources, tmp_path, capsys):
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
    assert "b.npz is there already" in complaint(capsys, *save_too)
    run(sources / "a.wav", "--vocoder", network, "--out", tmp_path, "--overwrite")
    assert load(tmp_path / "a.wav").shape[-1] == 9_000


def test_mistakes_are_told_and_leave_nothing(network, sources, tmp_path, capsys):
    out = tmp_path / "out"
    bad = tmp_path / "bad.npy"
    np.save(bad, np.full((80, 5), np.nan, np.float32))
    turned = tmp_path / "turned.npy"
    np.save(turned, np.zeros((5, 80), np.float32))
    few = tmp_path / "few.npy"
    np.save(few, np.zeros((64, 5), np.float32))
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    (tmp_path / "empty").mkdir()
    good = sources / "a.wav"
    for wrong, told in (
        (bad, "NaN"),
        (turned, "transposed"),
        (few, "64 bands"),
        (text, "text.wav"),
        (tmp_path / "none.wav", "no source"),
        (tmp_path / "empty", "neither recordings nor mels"),
    ):
        assert told in complaint(capsys, wrong, "--vocoder", network, "--out", out)
    for option, value, told in (
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
        assert told in complaint(capsys, good, "--vocoder", network, "--out", out, option, value)
    assert not out.exists()


def test_bad_sources_are_named_and_the_good_ones_made(network, sources, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/text.wav").write_text("no sound")
    np.save(tmp_path / "in/few.npy", np.zeros((64, 5), np.float32))
    with pytest.raises(SystemExit) as end:
        run(sources / "a.wav", tmp_path / "in", "--vocoder", network, "--out", tmp_path / "out", "--batch", 2)
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert "1 done, 2 left out:" in told
    assert "few.npy has 64 bands" in told
    assert "text.wav is not audio" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


def test_sources_are_never_written_over(network, sources, tmp_path, capsys):
    save(tmp_path / "a.wav", torch.zeros(1, 1, 4_000), 16_000)
    before = (tmp_path / "a.wav").read_bytes()
    assert "written over" in complaint(
        capsys, tmp_path / "a.wav", "--vocoder", network, "--out", tmp_path / "a.wav"
    )
    assert "folder of the sources" in complaint(capsys, tmp_path, "--vocoder", network, "--out", tmp_path)
    assert "names one file" in complaint(capsys, sources, "--vocoder", network, "--out", tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == before
