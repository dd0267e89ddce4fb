"""Phoneme recognition from a WaveNet's own trunk (van den Oord et al. 2016, section 3.4)."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.user_error import UserError, at_least
from vocoders.wavenet.distributions import Input, delay, dither, encode, negative_log_likelihood
from vocoders.wavenet.network import WaveNet, WaveNetConfig
from vocoders.wavenet.spoken import N_PHONEMES


@dataclass(frozen=True, kw_only=True)
class PhonemeRecogniserConfig:
    """A trunk that predicts samples, and what names the phonemes in it."""

    wavenet: WaveNetConfig = field(default_factory=WaveNetConfig)
    """The trunk; without conditioning."""
    pool: int = 160
    """Samples whose activations are averaged into a frame: 10 ms, as published."""
    channels: int = 64
    """Of the convolutions over frames."""
    n_layers: int = 3
    """Convolutions over frames, which look both ways."""
    kernel: int = 5
    """Frames each of them sees; odd."""
    classes: int = N_PHONEMES
    """What a frame may be."""

    def __post_init__(self) -> None:
        at_least(1, self, "pool", "channels", "n_layers", "classes")
        if self.kernel % 2 == 0:
            raise UserError(f"kernel={self.kernel} must be odd: frames look as far ahead as back")
        if self.wavenet.local is not None or self.wavenet.global_ is not None:
            raise UserError(
                "a recogniser's trunk takes only the wave: set wavenet.local and wavenet.global_ to none"
            )


class RecogniserOutput(NamedTuple):
    """The trunk's prediction of each sample, and the classes' logits."""

    parameters: Float[Tensor, "batch n_out samples"]
    """Of each sample's distribution, as ``WaveNet`` gives them."""
    logits: Float[Tensor, "batch classes frames"]


class PhonemeRecogniser(nn.Module):
    """A causal trunk, its activations averaged over frames, and convolutions that look both ways."""

    def __init__(self, config: PhonemeRecogniserConfig) -> None:
        super().__init__()
        self.config, self.wavenet = config, WaveNet(config.wavenet)
        widths = [config.wavenet.skip, *[config.channels] * config.n_layers]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inner, outer, config.kernel, padding=config.kernel // 2)
            for inner, outer in pairwise(widths)
        )
        self.norm = nn.BatchNorm1d(config.wavenet.skip)
        self.classify = nn.Conv1d(config.channels, config.classes, 1)

    def forward(self, x: Input) -> RecogniserOutput:
        """``x`` is what ``WaveNet.forward`` takes: one sample late, in whole frames of ``pool`` samples."""
        if x.shape[-1] % self.config.pool:
            raise ValueError(f"{x.shape[-1]} samples are not whole frames of {self.config.pool}")
        skips: list[Tensor] = []
        tap = self.wavenet.last_conv_layers[0].register_forward_pre_hook(
            lambda _, given: skips.append(given[0])
        )
        try:
            parameters = self.wavenet(x)
        finally:
            tap.remove()
        frames = self.norm(F.avg_pool1d(skips[0], self.config.pool))
        for convolution in self.convolutions:
            frames = F.relu(convolution(frames))
        return RecogniserOutput(parameters, self.classify(frames))

    def losses(
        self, wave: Float[Tensor, "batch 1 samples"], phonemes: Int[Tensor, "batch frames"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The paper's two terms: next-sample likelihood, nats a sample, and the frames' cross-entropy."""
        output = self.config.wavenet.output
        if self.training and self.config.wavenet.lsb_noise:
            wave = dither(wave)
        target = encode(output, wave)
        predicted = self(delay(output, target))
        surprise = negative_log_likelihood(output, predicted.parameters, target).mean()
        return surprise, F.cross_entropy(predicted.logits.float(), phonemes)

    @torch.no_grad()
    def recognise(self, wave: Float[Tensor, "batch 1 samples"]) -> Int[Tensor, "batch frames"]:
        """The likeliest class of each frame."""
        output = self.config.wavenet.output
        return self(delay(output, encode(output, wave))).logits.argmax(1)
