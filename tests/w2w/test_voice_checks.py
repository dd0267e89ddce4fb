"""A converter refuses voices of other converters, and losses negative weights."""

import pytest
import torch

from engine.user_error import UserError
from w2w.cluit.config import Weights
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork


def test_voice_of_another_converter_is_refused(tiny):
    converter = Converter(ConverterNetwork(tiny()))
    with pytest.raises(UserError, match="embed it with the same converter"):
        converter.stream(torch.zeros(1, 3))


def test_negative_weight_is_refused():
    with pytest.raises(UserError, match=r"weights\.norm=-1\.0 must be 0 or more"):
        Weights(norm=-1.0)
