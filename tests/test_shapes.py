"""A wrong tensor shape raises where it enters, in every test."""

import jaxtyping
import pytest
import torch
from shapes import CALLS

from data.frontends import LogMel, MelConfig


@pytest.mark.parametrize("when", ["in one test", "in the next"])
def test_wrong_shape_raises_in_the_first_calls(when):
    mel = LogMel(MelConfig())
    for _ in range(CALLS):
        with pytest.raises(jaxtyping.TypeCheckError):
            mel(torch.zeros(2, 2, 4_096))
