"""The speech encoder: transformers' Data2VecAudio trunk, taken apart so that parts of it can be fed."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Data2VecAudioConfig, Data2VecAudioModel
from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioConvLayer

from engine.user_error import UserError
from pretrain.speech.filterbank import band_pass_filters
from pretrain.speech.layers import strided_convolution, transformer_layer

Wave = Float[Tensor, "batch 1 samples"]
Local = Float[Tensor, "batch frames conv_dim"]
Frames = Float[Tensor, "batch frames hidden"]
Valid = Bool[Tensor, "batch frames"]


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig:
    """A stack of strided convolutions on the wave, and a transformer on their frames."""

    KIND: ClassVar[str] = "speech_encoder"
    sample_rate: int = 16_000
    """Hz."""
    conv_dims: tuple[int, ...] = (512,) * 7
    """Channels of each convolution."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Length of each."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each; their product is the hop."""
    conv_bias: bool = False
    """Whether the convolutions add a bias."""
    filterbank: bool = False
    """Begin the first convolution with band-pass filters instead of noise; they are learned all the same."""
    hidden: int = 768
    """Channels of the transformer."""
    layers: int = 12
    """Layers of the transformer."""
    heads: int = 12
    """Attention heads."""
    ffn: int = 3072
    """Inner channels of the feed-forward parts."""
    position_layers: int = 5
    """Grouped convolutions that tell frames where they are."""
    position_kernel: int = 19
    """Frames each of them sees."""
    position_groups: int = 16
    """Groups of each of them."""
    dropout: float = 0.1
    """Share of what attention and feed-forward parts add that is dropped while training."""
    attention_dropout: float = 0.1
    """Share of attention weights dropped while training."""
    feature_dropout: float = 0.0
    """Share of the projected frames dropped while training."""

    def __post_init__(self) -> None:
        counts = {len(self.conv_dims), len(self.conv_kernels), len(self.conv_strides)}
        if len(counts) != 1 or 0 in counts:
            raise UserError("conv_dims, conv_kernels and conv_strides must name as many convolutions each")
        sizes = (*self.conv_dims, *self.conv_kernels, *self.conv_strides, self.layers, self.heads, self.ffn)
        if min(sizes) < 1 or self.position_layers < 0:
            raise UserError("the sizes of a speech encoder must be at least 1")
        if self.hidden % self.heads or self.hidden % self.position_groups:
            raise UserError(
                f"hidden={self.hidden} must be a multiple of heads={self.heads} "
                f"and of position_groups={self.position_groups}"
            )

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the convolutions sees."""
        seen, step = 1, 1
        for kernel, stride in zip(self.conv_kernels, self.conv_strides):
            seen, step = seen + (kernel - 1) * step, step * stride
        return seen

    def frames(self, samples: int) -> int:
        """Return the frames that ``samples`` give."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides):
            samples = (samples - kernel) // stride + 1
        return samples

    def published(self) -> Data2VecAudioConfig:
        """Return the same in transformers' words."""
        return Data2VecAudioConfig(
            conv_dim=list(self.conv_dims),
            conv_kernel=list(self.conv_kernels),
            conv_stride=list(self.conv_strides),
            conv_bias=self.conv_bias,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.ffn,
            num_conv_pos_embeddings=self.position_layers,
            conv_pos_kernel_size=self.position_kernel,
            num_conv_pos_embedding_groups=self.position_groups,
            hidden_dropout=self.dropout,
            activation_dropout=0.0,
            attention_dropout=self.attention_dropout,
            feat_proj_dropout=self.feature_dropout,
            layerdrop=0.0,  # it would shorten the list of features, and leave parameters without gradient
            mask_time_prob=0.05,  # only so that ``masked_spec_embed`` exists; we draw masks ourselves
            mask_feature_prob=0.0,
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        )


SMALL = SpeechEncoderConfig(
    # A filterbank at 100 frames a second, where the paper begins at 3200: a tenth of the time, and two hours
    # of speech are too few to learn such filters.
    conv_dims=(256, 256),
    conv_kernels=(400, 4),
    conv_strides=(160, 2),
    conv_bias=True,
    filterbank=True,
    hidden=256,
    layers=4,
    heads=4,
    ffn=1024,
    position_layers=2,
    dropout=0.0,
    attention_dropout=0.0,
)
"""For one core and a few hours of speech."""
TINY = SpeechEncoderConfig(
    conv_dims=(16, 16, 16),
    conv_kernels=(20, 16, 4),
    conv_strides=(10, 16, 2),
    hidden=32,
    layers=2,
    heads=2,
    ffn=64,
    position_layers=1,
    position_kernel=3,
    position_groups=4,
)
"""For trying a command in seconds."""


class Encoded(NamedTuple):
    """What the encoder makes of a batch of waves."""

    features: list[Frames]
    """After each layer of the transformer."""
    last: Frames
    """The last of them."""
    valid: Valid
    """Which frames lie wholly within their wave; the others are padding."""


class SpeechEncoder(nn.Module):
    """Frames of 20 ms from a wave at any level; neither batch-mates nor padding change them.

    On one wave equal to ``Data2VecAudioModel`` with the same weights, which is ``trunk``. In a padded batch
    the published model's first frames of padding leak into the last of speech through its convolutional
    positions; here they are silenced before each.
    """

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Data2VecAudioModel(config.published())
        if config.filterbank:
            self._begin_with_filters()

    @torch.no_grad()
    def _begin_with_filters(self) -> None:
        first = self.trunk.feature_extractor.conv_layers[0]
        assert isinstance(first, Data2VecAudioConvLayer)
        outer, _, kernel = first.conv.weight.shape
        first.conv.weight.copy_(band_pass_filters(outer, kernel, self.config.sample_rate))
        if first.conv.bias is not None:  # quiet frames are told from loud ones by what it adds to them
            first.conv.bias.normal_(std=0.1)

    @property
    def sample_rate(self) -> int:
        """Hz of the waves it takes."""
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return self.config.hop

    @property
    def dim(self) -> int:
        """Channels of its frames."""
        return self.config.hidden

    def forward(self, wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> Encoded:
        local = self.local(wave, n_samples)
        valid = self.valid_frames(n_samples, local)
        padded = None if n_samples is None else valid
        features = self.layers(self.position(self.project(local), padded), padded)
        return Encoded(features, features[-1], valid)

    def local(self, wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> Local:
        """Return the convolutions' frames of each wave at zero mean and unit variance."""
        x = standardised(wave, n_samples)
        x = F.pad(x, (0, max(0, self.config.receptive_field - x.shape[-1])))
        x = x.transpose(1, 2)
        for layer in self.trunk.feature_extractor.conv_layers:
            assert isinstance(layer, Data2VecAudioConvLayer)
            x = F.gelu(layer.layer_norm(strided_convolution(x, layer.conv)))
        return x

    def valid_frames(self, n_samples: Int[Tensor, "batch"] | None, local: Local) -> Valid:
        """Mark the frames that lie wholly within their wave; the first of each wave always counts."""
        batch, frames = local.shape[:2]
        if n_samples is None:
            return torch.ones(batch, frames, dtype=torch.bool, device=local.device)
        count = n_samples.to(local.device)
        for kernel, stride in zip(self.config.conv_kernels, self.config.conv_strides):
            count = (count - kernel).div(stride, rounding_mode="floor") + 1
        return torch.arange(frames, device=local.device) < count.clamp(1, frames)[:, None]

    def project(self, local: Local) -> Frames:
        """Bring the convolutions' frames to the transformer's width."""
        return self.trunk.feature_projection(local)[0]

    def position(self, x: Frames, valid: Valid | None = None) -> Frames:
        """Add what the frames around each tell of its place, and normalise; nothing is dropped yet."""
        keep = None if valid is None else valid[:, None]
        around = x.transpose(1, 2)
        for layer in self.trunk.encoder.pos_conv_embed.layers:
            around = layer(around if keep is None else around * keep)
        return self.trunk.encoder.layer_norm(x + around.transpose(1, 2))

    def layers(self, x: Frames, valid: Valid | None = None) -> list[Frames]:
        """Return what each layer of the transformer makes of the frames; none looks at those not valid."""
        mask = None if valid is None else valid[:, None, None]
        x, features = self.trunk.encoder.dropout(x), []
        for layer in self.trunk.encoder.layers:
            x, _ = transformer_layer(layer, x, mask)
            features.append(x)
        return features


def standardised(wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> Wave:
    """Bring each wave to zero mean and unit variance, over its own samples; padding stays 0."""
    if n_samples is None:
        centred = wave - wave.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 1e-7).rsqrt()
    count = n_samples.to(wave.device)[:, None, None]
    own = torch.arange(wave.shape[-1], device=wave.device) < count
    centred = (wave - (wave * own).sum(-1, keepdim=True) / count) * own
    return centred * (centred.square().sum(-1, keepdim=True) / count + 1e-7).rsqrt()
