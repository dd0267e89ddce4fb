"""YAMNet (Plakal and Ellis 2020): MobileNet on log-mel patches of one second, trained on AudioSet's labels.

Parameter names are those of the torch port (``yamnet.pth`` of torch_audioset); the front end is as published.
"""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill
from engine.torch_files import read_torch_file

SAMPLE_RATE, WINDOW, HOP, N_FFT = 16_000, 400, 160, 512
N_MELS, F_MIN, F_MAX, OFFSET = 64, 125.0, 7_500.0, 1e-3
PATCH, PATCH_HOP = 96, 48
"""Length and hop of a patch, in frames."""
STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (1, 32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
DIM, N_CLASSES = 1024, 521

Patches = Float[Tensor, "batch 1 frames bands"]


class Convolution(nn.Module):
    """A convolution with TensorFlow's padding, BatchNorm and ReLU."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outer, eps=1e-4)

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        sides: list[int] = []
        for size in reversed(x.shape[-2:]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return F.relu(self.bn(self.conv(F.pad(x, sides))))


class Layer(nn.Module):
    """A depthwise-separable convolution; the first layer is an ordinary convolution."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        if inner == 1:
            self.fused = Convolution(1, outer, 3, stride)
            return
        self.depthwise_conv = Convolution(inner, inner, 3, stride, groups=inner)
        self.pointwise_conv = Convolution(inner, outer, 1)

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        for layer in self.children():
            x = layer(x)
        return x


class YAMNet(nn.Module):
    """A network from log-mel patches to embeddings; ``classifier`` maps these to AudioSet's logits."""

    bands: Tensor

    def __init__(self) -> None:
        super().__init__()
        for number, ((inner, outer), stride) in enumerate(zip(pairwise(WIDTHS), STRIDES), 1):
            self.add_module(f"layer{number}", Layer(inner, outer, stride))
        self.classifier = nn.Linear(DIM, N_CLASSES)
        self.register_buffer("bands", mel_bands(), persistent=False)

    def forward(self, patches: Patches) -> Float[Tensor, "batch 1024"]:
        x = patches
        for number in range(len(STRIDES)):
            x = self.get_submodule(f"layer{number + 1}")(x)
        return x.mean((2, 3))

    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch 1024"]:
        """Return the mean embedding over patches of waves at 16 kHz, padded with silence to whole patches."""
        first = (PATCH - 1) * HOP + WINDOW
        n_further = -(-max(wave.shape[-1] - first, 0) // (PATCH_HOP * HOP))
        wave = F.pad(wave[:, 0], (0, first + n_further * PATCH_HOP * HOP - wave.shape[-1]))
        frames = wave.unfold(-1, WINDOW, HOP) * torch.hann_window(WINDOW, device=wave.device)
        level = (torch.fft.rfft(frames, N_FFT).abs() @ self.bands + OFFSET).log()
        patches = level.unfold(1, PATCH, PATCH_HOP).transpose(2, 3)  # batch patches frames bands
        return self(patches.flatten(0, 1)[:, None]).unflatten(0, patches.shape[:2]).mean(1)


def mel_bands() -> Float[Tensor, "bins bands"]:
    """Return TensorFlow's triangular filters, which are linear in mels, not in Hz, and ignore DC."""
    mels = 1127.0 * (1 + torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64) / 700).log()
    low, high = (1127.0 * torch.tensor(1 + f / 700, dtype=torch.float64).log() for f in (F_MIN, F_MAX))
    edges = torch.linspace(float(low), float(high), N_MELS + 2, dtype=torch.float64)
    rise = (mels[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - mels[:, None]) / (edges[2:] - edges[1:-1])
    bands = torch.minimum(rise, fall).clamp_min(0)
    bands[0] = 0
    return bands.float()


def load_yamnet(file: Path | str) -> YAMNet:
    network = YAMNet()
    fill(network, read_torch_file(file), file)
    return network.eval().requires_grad_(False)
