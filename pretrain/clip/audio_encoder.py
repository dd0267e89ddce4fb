"""Wav2CLIP's audio encoder (Wu et al., 2022): a ResNet-18 on log power spectrograms."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import stft
from engine.user_error import UserError
from pretrain.clip.audio_config import AudioEncoderConfig

FLOOR = 1e-7
"""Added to the power before its logarithm."""


class AudioEncoder(nn.Module):
    """An encoder of waves into CLIP's space; ``trunk`` is the ResNet, ``transform`` the paper's g.

    Embeddings are not normalised. In evaluation mode they do not depend on other clips of the batch, except
    with the ``reference`` normalisation.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.trunk = ResNet(config.width, config.blocks)
        self.transform: nn.Module = nn.Identity()
        if config.transform:
            self.transform = projection(config.channels, config.hidden, config.dim, config.dropout)

    window: Tensor

    def forward(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        return self.transform(self.pooled(wave))

    def pooled(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch channels"]:
        """Return the input of the transform: the last feature map averaged over frequency and time."""
        return self.trunk(self.spectrogram(wave)[:, None]).mean((2, 3))

    def features(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch channels frames"]:
        """Return the last feature map averaged over frequency; its mean over time is ``pooled``.

        With four stages, the hop is 32 spectrogram frames, 0.7 s at the paper's sizes.
        """
        return self.trunk(self.spectrogram(wave)[:, None]).mean(2)

    def spectrogram(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch bins frames"]:
        """Return the standardised log power spectrogram, always in float32."""
        self._check(wave)
        config = self.config
        spectrum = stft(wave, n_fft=config.n_fft, hop=config.hop, padding="center", window=self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        with torch.autocast(wave.device.type, enabled=False):
            if config.normalisation == "reference":
                level = torch.log(power + FLOOR)
                return (level - level.mean()) / (level.std() + 1e-9)
            # log(power + FLOOR) − log(FLOOR); standardisation removes the constant. Digital silence is then
            # exactly 0, so that no rounding error of the mean is divided by 1e-9.
            level = torch.log1p(power / FLOOR)
            deviation, mean = torch.std_mean(level, dim=(1, 2), keepdim=True)
            return (level - mean) / (deviation + 1e-9)

    def _check(self, wave: Tensor) -> None:
        config = self.config
        if not wave.shape[0]:
            raise UserError("there is no clip to embed: the batch is empty")
        least, n_samples = config.n_fft, wave.shape[-1]
        if n_samples < least:
            raise UserError(
                f"a clip of {n_samples} samples is shorter than the encoder's window of {least} "
                f"({1000 * least / config.sample_rate:.0f} ms at {config.sample_rate} Hz): give a longer one"
            )
        # Not in training, where recordings are checked when read: on a GPU, the check would synchronise.
        if not self.training and not bool(torch.isfinite(wave).all()):
            raise UserError("a clip contains samples that are not finite: find it with data.check")


def projection(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return the paper's two-layer projection between embedding spaces: g for audio, f for images."""
    inner, outer = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    return nn.Sequential(inner, nn.ReLU(), nn.Dropout(dropout), outer)


class ResNet(nn.Module):
    """A ResNet on one-channel maps without a classifier, of torchvision's basic blocks.

    With ``blocks`` (2, 2, 2, 2) and ``width`` 64 it is ResNet-18 (He et al., 2016), 11,170,240 parameters;
    torchvision's own class does not support other widths or fewer stages.
    """

    def __init__(self, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock

        self.conv1 = nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, n_blocks in enumerate(blocks):
            channels, stride, downsample = width * 2**stage, 2 if stage else 1, None
            if stage:
                shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False)
                downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))
            layers = [BasicBlock(inputs, channels, stride, downsample)]
            layers += [BasicBlock(channels, channels) for _ in range(n_blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            inputs = channels
        self.n_stages = len(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
        # 10 to 25 % less time per step on CPUs, and the layout that GPUs' tensor cores need.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch channels h w"]:
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(self.n_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x
