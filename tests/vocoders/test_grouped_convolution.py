"""The faster grouped convolution has the outputs and gradients of torch's."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vocoders.cpu import grouped_convolution
from vocoders.cpu.grouped_convolution import GroupedConv1d


@pytest.mark.parametrize(("groups", "stride", "samples"), [(4, 2, 700), (2, 4, 1_031), (8, 1, 300)])
def test_equals_the_plain_convolution(groups, stride, samples, monkeypatch):
    monkeypatch.setattr(grouped_convolution, "SHORTEST", 1)
    monkeypatch.setattr(grouped_convolution, "NARROWEST", 1)
    fast = GroupedConv1d(16, 24, 41, stride, padding=20, groups=groups)
    plain = nn.Conv1d(16, 24, 41, stride, padding=20, groups=groups)
    plain.load_state_dict(fast.state_dict())
    waves = [torch.randn(3, 16, samples).requires_grad_() for _ in range(2)]
    waves[1].data.copy_(waves[0].data)
    results = []
    for conv, wave in ((fast, waves[0]), (plain, waves[1])):
        out = conv(wave)
        gradients = torch.autograd.grad((out * out.detach().cos()).sum(), [wave, *conv.parameters()])
        results.append((out.detach(), *gradients))
    for ours, theirs in zip(*results):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_output_without_gradients_equals_output_with(monkeypatch):
    monkeypatch.setattr(grouped_convolution, "SHORTEST", 1)
    monkeypatch.setattr(grouped_convolution, "NARROWEST", 1)
    conv, wave = GroupedConv1d(4, 4, 5, padding=2, groups=2), torch.randn(1, 4, 50)
    with torch.no_grad():
        without = conv(wave)
    assert_close(conv(wave).detach(), without, rtol=1e-5, atol=1e-6)
