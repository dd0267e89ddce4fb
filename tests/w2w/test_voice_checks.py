"""A converter refuses voices and shifts that it cannot speak with."""

import pytest
import torch

from engine.user_error import UserError
from w2w.cluit.config import Weights
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork


def test_a_voice_of_another_converter_is_refused(tiny):
    converter = Converter(ConverterNetwork(tiny("harmonic", "mel", "film")))
    with pytest.raises(UserError, match="embed it with the same converter"):
        converter.stream(torch.zeros(1, 3))


def test_a_head_without_pitch_refuses_to_move_it(tiny):
    config = tiny("istft", "mel", "film")
    converter = Converter(ConverterNetwork(config))
    voice = torch.zeros(1, config.style.voice_dim)
    with pytest.raises(UserError, match="cannot move the pitch"):
        converter.convert(torch.zeros(1, 1, 1600), voice, semitones=2.0)
    assert converter.convert(torch.zeros(1, 1, 1600), voice).shape == (1, 1, 1600)


def test_a_negative_weight_is_refused():
    with pytest.raises(UserError, match=r"weights\.norm=-1\.0 must be 0 or more"):
        Weights(norm=-1.0)
