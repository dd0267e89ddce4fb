"""Mels as input of vocoders: checks of tensors, and files of mels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.frontends import named_mel
from engine.user_error import UserError
from vocoders import Vocoder, VocoderConfig
from vocoders.mel_files import check_definition, check_mel, read_mel, save_mel
from vocoders.melgan import MelGANConfig

SPEECH = named_mel("speech16k")
SMALL = MelGANConfig(ratios=(5, 4, 4, 2), channels=2)


def mel_of(frames: int) -> torch.Tensor:
    return torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(1)) - 5


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.zeros(1, 79, 10), "has 79 bands, the vocoder reads 80"),
        (torch.zeros(1, 10, 80), "transposed"),
        (torch.zeros(1, 80, 0), "no frame"),
        (torch.zeros(80, 10), r"\(80, 10\): it must be \(batch, 80, frames\)"),
        (torch.zeros(1, 80, 10, dtype=torch.long), "holds int64"),
        (torch.full((1, 80, 10), float("nan")), "holds NaN"),
        (torch.full((1, 80, 10), float("-inf")), "holds infinite.*floor"),
        (torch.full((1, 80, 10), -80.0), "in dB"),
        (torch.full((1, 80, 10), 200.0), "take its logarithm"),
        (torch.randn(1, 80, 200).clamp_min(0) - 5, "log10 mel.*multiply by ln 10"),
        (np.zeros((1, 80, 10)), "torch.from_numpy"),
    ],
)
def test_invalid_mels_are_refused(mel, message):
    with pytest.raises(UserError, match=message) as raised:
        check_mel(mel, SPEECH)
    assert "\n" not in str(raised.value)


def test_natural_log_mel_for_log10_vocoder_is_refused():
    vocoder = Vocoder(VocoderConfig(mel=named_mel("melgan"), network=MelGANConfig(channels=2)))
    with pytest.raises(UserError, match=r"natural-log mel \(divide by ln 10\)"):
        vocoder(torch.full((1, 80, 10), -11.5))


def test_mel_of_another_definition_is_refused():
    vocoder = Vocoder(VocoderConfig(mel=SPEECH, network=SMALL))
    with pytest.raises(UserError, match=r"'melgan'.*'speech16k'"):
        vocoder(mel_of(5), definition=named_mel("melgan"))
    with pytest.raises(UserError, match="n_mels=64"):
        check_definition(replace(SPEECH, n_mels=64), SPEECH, "it")
    vocoder(mel_of(5), definition=SPEECH)


def test_saved_mel_keeps_its_definition(tmp_path):
    mel = mel_of(5)
    save_mel(tmp_path / "a.npz", mel, SPEECH)
    assert_close(read_mel(tmp_path / "a.npz", SPEECH), mel)
    with pytest.raises(UserError, match=r"a\.npz is a mel 'speech16k'.*'hifigan'"):
        read_mel(tmp_path / "a.npz", named_mel("hifigan"))
    np.save(tmp_path / "b.npy", mel[0].numpy())
    assert_close(read_mel(tmp_path / "b.npy", SPEECH), mel)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 80, 5), np.float32), "save one mel"),
        (np.zeros(80, np.float32), r"a mel is \(80, frames\)"),
        (np.zeros((80, 5), int), "holds int64"),
        (np.zeros((5, 80), np.float32), "transposed"),
        (np.array([{"a": 1}]), "pickled objects"),
    ],
)
def test_arrays_that_are_not_mels_are_refused(tmp_path, values, message):
    path = tmp_path / "mel.npy"
    np.save(path, values, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        read_mel(path, SPEECH)


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 0.99), kind=st.sampled_from([".npy", ".npz"]))
def test_truncated_mel_files_are_refused(tmp_path_factory, share, kind):
    path = tmp_path_factory.mktemp("cut") / f"mel{kind}"
    if kind == ".npz":
        save_mel(path, mel_of(5), SPEECH)
    else:
        np.save(path, mel_of(5)[0].numpy())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="cannot be read as a mel"):
        read_mel(path, SPEECH)
