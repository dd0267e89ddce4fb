"""WaveNet (van den Oord et al. 2016, arXiv:1609.03499): an autoregressive model of waves, sample by sample.

Parameters have the names of the most used implementation (r9y9/wavenet_vocoder), which differs slightly from
the paper: residuals are scaled by √½, the sum of the skips by 1/√layers.
"""

import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from engine.user_error import UserError, at_least
from vocoders.wavenet.conditioning import GlobalConfig, LocalConfig, Upsampling
from vocoders.wavenet.distributions import (
    Input,
    MuLaw,
    Output,
    Parameters,
    decode,
    delay,
    dither,
    encode,
    negative_log_likelihood,
)
from vocoders.wavenet.layers import ContextConfig, ContextStack, Layer, MaskedConv1d, bias_of, pointwise
from vocoders.weight_norm import Foldable

Local = Float[Tensor, "batch n_local frames"]
Speaker = Int[Tensor, "batch"]


@dataclass(frozen=True, kw_only=True)
class WaveNetConfig:
    """Sizes of a WaveNet; the defaults are the published ones, but with fewer channels."""

    layers: int = 30
    """Dilated layers."""
    stacks: int = 3
    """Dilation cycles: in each, dilations double from 1."""
    residual: int = 64
    """Channels between layers."""
    gate: int = 128
    """Channels before the gated units, which halve them; even."""
    skip: int = 128
    """Channels of the skip connections."""
    kernel: int = 3
    """Kernel size of the dilated convolutions; 2 in the paper."""
    output: Output = field(default_factory=MuLaw)
    """Distribution of the next sample."""
    local: LocalConfig | None = None
    """Local conditioning: features over time, such as mels."""
    global_: GlobalConfig | None = None
    """Global conditioning: the speaker."""
    context: ContextConfig | None = None
    """Context stack, at a lower rate, for the distant past."""
    lsb_noise: bool = True
    """Add uniform noise of one 16-bit step to training waves; without it, digital silence teaches scales near
    0, and generated waves diverge as soon as they are not silent."""

    def __post_init__(self) -> None:
        if self.layers < 1 or self.stacks < 1 or self.layers % self.stacks:
            raise UserError(f"layers={self.layers} must be a multiple of stacks={self.stacks}")
        if self.gate % 2:
            raise UserError(f"gate={self.gate} must be even: half of it gates the other half")
        at_least(2, self, "kernel")

    @property
    def dilations(self) -> tuple[int, ...]:
        cycle = self.layers // self.stacks
        return tuple(2 ** (layer % cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Input samples that an output depends on, without the context stack's."""
        return (self.kernel - 1) * sum(self.dilations) + 1


class WaveNet(Foldable):
    """WaveNet: the distribution of each sample given the previous ones and optional conditioning."""

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.config = config
        n_in = config.output.levels if isinstance(config.output, MuLaw) else 1
        self.first_conv = pointwise(n_in, config.residual)
        self.conv_layers = nn.ModuleList(
            Layer(
                config.residual,
                config.gate,
                config.skip,
                config.kernel,
                dilation,
                n_local=config.local.n if config.local else 0,
                n_global=config.global_.dim if config.global_ else 0,
                n_context=config.context.residual if config.context else 0,
            )
            for dilation in config.dilations
        )
        skip = config.skip
        self.last_conv_layers = nn.Sequential(
            nn.ReLU(), pointwise(skip, skip), nn.ReLU(), pointwise(skip, config.output.n_out)
        )
        self.embed_speakers = self.upsample_net = self.context_stack = None
        if config.global_ is not None:
            self.embed_speakers = nn.Embedding(config.global_.n_speakers, config.global_.dim)
            nn.init.normal_(self.embed_speakers.weight, std=0.1)
        if config.local is not None:
            self.upsample_net = Upsampling(config.local)
        if config.context is not None:
            self.context_stack = ContextStack(config.context)

    @property
    def layers(self) -> list[Layer]:
        return [layer for layer in self.conv_layers if isinstance(layer, Layer)]

    @property
    def hop(self) -> int:
        """Samples per frame of the local features; 1 without any."""
        return 1 if self.config.local is None else self.config.local.hop

    @property
    def n_mels(self) -> int:
        """Channels of the local features; 0 without any."""
        return 0 if self.config.local is None else self.config.local.n

    @property
    def receptive_field(self) -> int:
        """Input samples that an output depends on (with a context stack: the maximum)."""
        reach, context = self.config.receptive_field, self.config.context
        return reach if context is None else reach - 1 + context.receptive_field + context.factor

    def forward(self, x: Input, local: Local | None = None, speaker: Speaker | None = None) -> Parameters:
        """Distribution parameters of every sample t given ``x[..., : t + 1]``, the samples *before* it.

        ``x``: classes (batch, samples) for μ-law, else a wave (batch, 1, samples), in either case one sample
        late. ``local`` has samples / hop frames, or ``2 · pad`` more with its true surrounding frames.
        """
        return self.last_conv_layers(self.activations(x, local, speaker))

    def activations(
        self, x: Input, local: Local | None = None, speaker: Speaker | None = None
    ) -> Float[Tensor, "batch skip samples"]:
        """The scaled sum of the skip connections, from which the parameters are computed."""
        features = self.local_features(local, x.shape[-1])
        static = self.speaker_gates(speaker)
        context = None if self.context_stack is None else self.context_stack(decode(self.config.output, x))
        hidden, skips = self.embed(x), None
        for number, layer in enumerate(self.layers):
            before = None if static is None else static[:, number]
            hidden, skip = layer(hidden, features, before, context)
            skips = skip if skips is None else skips + skip
        assert skips is not None
        return skips * len(self.conv_layers) ** -0.5

    def embed(self, x: Input) -> Float[Tensor, "batch residual samples"]:
        """The first convolution; for μ-law classes an embedding look-up, equal to one-hot input."""
        if isinstance(self.config.output, MuLaw):
            table = self.first_conv.weight.squeeze(-1).T
            return (F.embedding(x, table) + bias_of(self.first_conv)).transpose(1, 2).contiguous()
        return self.first_conv(x)

    def local_features(
        self, local: Local | None, n_samples: int
    ) -> Float[Tensor, "batch n_local samples"] | None:
        """Local features upsampled to the sample rate."""
        if self.upsample_net is None:
            if local is not None:
                raise UserError("local features were given to a WaveNet without local conditioning")
            return None
        return self.upsample_net(self.padded(local, n_samples))

    def padded(self, local: Local | None, n_samples: int) -> Float[Tensor, "batch n_local frames_and_pad"]:
        """Check local features, and add ``pad`` frames at each end unless they are there."""
        config = self.config.local
        assert config is not None
        assert self.upsample_net is not None
        if local is None:
            raise UserError(f"this WaveNet needs local features of {config.n} channels")
        if local.shape[1] != config.n:
            raise UserError(f"local features have {local.shape[1]} channels; this WaveNet takes {config.n}")
        frames = local.shape[-1]
        if frames * config.hop == n_samples:
            return self.upsample_net.padded(local)
        if (frames - 2 * config.pad) * config.hop == n_samples:
            return local
        raise UserError(f"{frames} frames of {config.hop} samples do not fit {n_samples} samples")

    def speaker_gates(self, speaker: Speaker | None) -> Float[Tensor, "batch layers gate"] | None:
        """The speaker's contribution to every layer's gates."""
        if self.embed_speakers is None:
            if speaker is not None:
                raise UserError("a speaker was given to a WaveNet without global conditioning")
            return None
        if speaker is None:
            raise UserError("this WaveNet needs the speaker's number")
        weights = torch.cat([layer.conv1x1g.weight for layer in self.layers]).squeeze(-1)
        gates = self.embed_speakers(speaker) @ weights.T
        return gates.unflatten(-1, (len(self.conv_layers), self.config.gate))

    def static_gates(self, speaker: Speaker | None, batch: int) -> Float[Tensor, "batch channels"]:
        """The time-invariant part of all gates, layer after layer: convolution biases and the speaker."""
        bias = torch.cat([bias_of(layer.conv) for layer in self.layers])
        gates = self.speaker_gates(speaker)
        return bias.expand(batch, -1) if gates is None else bias + gates.flatten(1)

    def loss(
        self,
        wave: Float[Tensor, "batch 1 samples"],
        local: Local | None = None,
        speaker: Speaker | None = None,
    ) -> Float[Tensor, ""]:
        """Mean negative log-likelihood in nats per sample (for a Gaussian, of the density)."""
        x, target = self.input_and_target(wave)
        return negative_log_likelihood(self.config.output, self(x, local, speaker), target).mean()

    def input_and_target(self, wave: Float[Tensor, "batch 1 samples"]) -> tuple[Input, Input]:
        """Encode a wave, and delay it by one sample; in training, with noise (``lsb_noise``)."""
        if self.training and self.config.lsb_noise:
            wave = dither(wave)
        target = encode(self.config.output, wave)
        return delay(self.config.output, target), target

    def pixelcnn(self) -> "WaveNet":
        """The same network with PixelCNN's masks: its input is the wave itself, not the wave one sample late.

        Only for outputs of amplitudes. Slower and without cached generation; training uses the shifted form.
        """
        if isinstance(self.config.output, MuLaw):
            raise UserError("PixelCNN's masks need amplitudes: use another output than μ-law classes")
        if self.context_stack is not None:
            raise UserError("a context stack needs input one sample late: use masks without a context stack")
        network = copy.deepcopy(self)
        network.first_conv = MaskedConv1d.like(self.first_conv, "A")
        for layer in network.layers:
            layer.conv = MaskedConv1d.like(layer.conv, "B")
        return network
