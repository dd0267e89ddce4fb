"""The convolution as a product of matrices is the same function, with the same gradients."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vocoders.matrix_convolution import MatrixConv1d


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 9), (2, 5)])
def test_equals_the_plain_convolution(kernel, dilation):
    fast, plain = (c(32, 40, kernel, dilation=dilation) for c in (MatrixConv1d, nn.Conv1d))
    plain.load_state_dict(fast.state_dict())
    results, start = [], torch.randn(3, 32, 50)
    for conv in (fast, plain):
        signal = start.clone().requires_grad_()
        out = conv(signal)
        gradients = torch.autograd.grad((out * out.detach().cos()).sum(), [signal, *conv.parameters()])
        results.append((out.detach(), *gradients))
    for ours, theirs in zip(*results):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
