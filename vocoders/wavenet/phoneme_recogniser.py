"""Phoneme recognition with a WaveNet as trunk (van den Oord et al. 2016, section 3.4)."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.user_error import UserError, at_least
from vocoders.wavenet.distributions import Input, delay, encode, negative_log_likelihood
from vocoders.wavenet.network import WaveNet, WaveNetConfig
from vocoders.wavenet.spoken import N_PHONEMES


@dataclass(frozen=True, kw_only=True)
class PhonemeRecogniserConfig:
    """A trunk that predicts samples, and a head that classifies phonemes."""

    wavenet: WaveNetConfig = field(default_factory=WaveNetConfig)
    """The trunk, without conditioning."""
    pool: int = 160
    """Samples whose activations are averaged to a frame: 10 ms at 16 kHz, as published."""
    channels: int = 64
    """Channels of the convolutions over frames."""
    n_layers: int = 3
    """Non-causal convolutions over frames."""
    kernel: int = 5
    """Kernel size of these convolutions, in frames; odd."""
    classes: int = N_PHONEMES
    """Phoneme classes."""

    def __post_init__(self) -> None:
        at_least(1, self, "pool", "channels", "n_layers", "classes")
        if self.kernel % 2 == 0:
            raise UserError(f"kernel={self.kernel} must be odd, to be centred on a frame")
        if self.wavenet.local is not None or self.wavenet.global_ is not None:
            raise UserError(
                "a recogniser's trunk takes only the wave: set wavenet.local and wavenet.global_ to none"
            )


class RecogniserOutput(NamedTuple):
    """The trunk's prediction of each sample, and the logits of each frame's class."""

    parameters: Float[Tensor, "batch n_out samples"]
    """Distribution parameters of each sample, as returned by ``WaveNet``."""
    logits: Float[Tensor, "batch classes frames"]


class PhonemeRecogniser(nn.Module):
    """A causal WaveNet trunk, average pooling of its activations to frames, and non-causal convolutions."""

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
        """Predict samples and classes; ``x`` as for ``WaveNet.forward``, a multiple of ``pool`` samples."""
        if x.shape[-1] % self.config.pool:
            raise ValueError(f"{x.shape[-1]} samples are not whole frames of {self.config.pool}")
        activations = self.wavenet.activations(x)
        frames = self.norm(F.avg_pool1d(activations, self.config.pool))
        for convolution in self.convolutions:
            frames = F.relu(convolution(frames))
        return RecogniserOutput(self.wavenet.last_conv_layers(activations), self.classify(frames))

    def losses(
        self, wave: Float[Tensor, "batch 1 samples"], phonemes: Int[Tensor, "batch frames"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The paper's two losses: negative log-likelihood, nats per sample, and the frames' cross-entropy."""
        x, target = self.wavenet.input_and_target(wave)
        predicted = self(x)
        nll = negative_log_likelihood(self.config.wavenet.output, predicted.parameters, target).mean()
        return nll, F.cross_entropy(predicted.logits.float(), phonemes)

    @torch.no_grad()
    def recognise(self, wave: Float[Tensor, "batch 1 samples"]) -> Int[Tensor, "batch frames"]:
        """The likeliest class of each frame."""
        output = self.config.wavenet.output
        return self(delay(output, encode(output, wave))).logits.argmax(1)
