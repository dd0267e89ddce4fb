"""Values handed over by programs are checked: integers, arrays, rates, numbers."""

import jaxtyping
import pytest
import torch

from data.audio.checking import check_number, check_rate, check_wave
from engine.user_error import UserError
from w2w import Converter
from w2w.networks.network import ConverterNetwork


@pytest.fixture
def refused(tiny, monkeypatch):
    """Check that calls are refused, with the tests' shape checks off."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    c, x = Converter(ConverterNetwork(tiny())), torch.rand(1, 1, 4_000) - 0.5
    v = torch.zeros(1, c.network.voice_dim)
    v[0, -1] = 5.0
    whole = (x * 32_767).to(torch.int16)
    return {
        "divide it by 32768": [
            *(lambda: c.convert(whole, v), lambda: c.embed(whole), lambda: c.embed([whole])),
            lambda: c.stream(v).push(whole),
        ],
        "not a tensor": [
            *(lambda: c.convert(x.numpy(), v), lambda: c.embed(x.numpy())),
            *(lambda: c.convert(x, v.numpy()), lambda: c.embed("her.wav")),
        ],
        "is no sample rate": [
            *(lambda r=r: c.convert(x, v, sample_rate=r) for r in (-1, 0, 16_000.0)),
            lambda: c.stream(v, sample_rate=0),
        ],
        "must be a number within 36": [
            lambda s=s: c.convert(x, v, semitones=s) for s in (float("nan"), 1e9, "up")
        ],
        "embed it with the same converter": [lambda: c.stream(torch.zeros(1, 3))],
        "the voice holds NaN": [lambda: c.convert(x, v * float("nan")), lambda: c.stream(v * float("nan"))],
    }


def test_converter_refuses_values_of_wrong_type_or_shape(refused):
    for words, calls in refused.items():
        for call in calls:
            with pytest.raises(ValueError, match=words):
                call()


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        (torch.zeros(1, 1, 9, dtype=torch.int32), "divide it by 2147483648"),
        (torch.zeros(1, 1, 9, dtype=torch.uint8), "floats within -1 and 1"),
        (torch.zeros(1, 9), r"has shape \(1, 9\)"),
        (torch.zeros(1, 2, 9), r"has shape \(1, 2, 9\)"),
        (torch.zeros(1, 1, 0), "is empty"),
        (torch.tensor([[[0.0, torch.inf]]]), "infinite"),
        ([0.0, 0.1], "of type list"),
        (None, "of type NoneType"),
    ],
)
def test_wrong_waves_are_refused(wave, words):
    with pytest.raises(UserError, match=f"the source .*{words}"):
        check_wave(wave, "the source")


@pytest.mark.parametrize("rate", [-1, 0, 999, 10**7, 16_000.0, True, None, "16000", float("nan")])
def test_wrong_rates_are_refused(rate):
    with pytest.raises(UserError, match="is no sample rate"):
        check_rate(rate)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 40.0, "1", None])
def test_wrong_numbers_are_refused(number):
    with pytest.raises(UserError, match="must be a number within 36 of 0"):
        check_number(number, "semitones", 36.0)
