"""The speech encoder: transformers' Data2VecAudio trunk with separate access to its parts."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Data2VecAudioConfig, Data2VecAudioModel
from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioConvLayer

from data.frontends import hz_to_mel, mel_to_hz
from engine.user_error import UserError
from pretrain.speech.layers import strided_convolution, transformer_layer
from pretrain.teacher import framing_of

PHASES = 4
"""Filters per band, a quarter of a period apart, so that the sum of their rectified outputs is the level."""
SHORTEST_SECONDS = 0.01
"""Window length of the highest bands' filters; lower bands have longer ones, up to the whole kernel."""

Wave = Float[Tensor, "batch 1 samples"]
Local = Float[Tensor, "batch frames conv_dim"]
Frames = Float[Tensor, "batch frames hidden"]
Valid = Bool[Tensor, "batch frames"]


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig:
    """A stack of strided convolutions on the wave, and a transformer on their frames."""

    KIND: ClassVar[str] = "speech_encoder"
    sample_rate: int = 16_000
    """Sample rate of the input, in Hz."""
    conv_dims: tuple[int, ...] = (512,) * 7
    """Channels of each convolution."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel size of each convolution."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each convolution; their product is the hop."""
    conv_bias: bool = False
    """Use a bias in the convolutions."""
    filterbank: bool = False
    """Initialise the first convolution with band-pass filters instead of at random; it is trained as well."""
    hidden: int = 768
    """Channels of the transformer."""
    layers: int = 12
    """Layers of the transformer."""
    heads: int = 12
    """Attention heads."""
    ffn: int = 3072
    """Inner channels of the feed-forward networks."""
    position_layers: int = 5
    """Grouped convolutions of the convolutional position embedding."""
    position_kernel: int = 19
    """Kernel size of these convolutions, in frames."""
    position_groups: int = 16
    """Groups of these convolutions."""
    dropout: float = 0.1
    """Dropout of the outputs of attention and feed-forward networks."""
    attention_dropout: float = 0.1
    """Dropout of the attention weights."""
    feature_dropout: float = 0.0
    """Dropout of the projected frames."""

    def __post_init__(self) -> None:
        counts = {len(self.conv_dims), len(self.conv_kernels), len(self.conv_strides)}
        if len(counts) != 1 or 0 in counts:
            raise UserError("conv_dims, conv_kernels and conv_strides must have the same length, at least 1")
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
        """Samples between frames."""
        return math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Receptive field of the convolutions, in samples."""
        return framing_of(self.conv_kernels, self.conv_strides).shortest

    def frames(self, samples: Any) -> Any:
        """Return the number of frames, an integer or a tensor, that ``samples`` give."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides):
            samples = (samples - kernel) // stride + 1
        return samples

    def published(self) -> Data2VecAudioConfig:
        return Data2VecAudioConfig(
            **{theirs: getattr(self, ours) for ours, theirs in PUBLISHED_NAMES.items()},
            activation_dropout=0.0,
            layerdrop=0.0,  # it would shorten the list of features, and leave parameters without gradient
            mask_time_prob=0.05,  # only so that ``masked_spec_embed`` exists; masks are drawn elsewhere
            mask_feature_prob=0.0,
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        )


PUBLISHED_NAMES = {
    "conv_dims": "conv_dim",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_bias": "conv_bias",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "position_layers": "num_conv_pos_embeddings",
    "position_kernel": "conv_pos_kernel_size",
    "position_groups": "num_conv_pos_embedding_groups",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "feature_dropout": "feat_proj_dropout",
}
"""Field names of ``SpeechEncoderConfig``, and transformers' names for them."""
SMALL = SpeechEncoderConfig(
    # The first convolution is a filterbank with 100 frames per second (in the paper 3200): this takes a tenth
    # of the time, and two hours of speech are too few to learn such filters.
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
"""Sizes for training on one core with a few hours of speech."""
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
"""Sizes for trying a command in seconds."""


class Encoded(NamedTuple):
    features: list[Frames]
    """Hidden states after each transformer layer."""
    last: Frames
    """Hidden states after the last layer."""
    valid: Valid
    """Frames that lie wholly within their wave; the others are padding."""


class SpeechEncoder(nn.Module):
    """A speech encoder; its output is independent of the wave's level, of padding and of other batch items.

    For a single wave, the output equals that of ``trunk``, a ``Data2VecAudioModel``. In padded batches of the
    published model, padding leaks into the last frames of speech through the convolutional position
    embedding; here padding is zeroed before each of its convolutions.
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
        if first.conv.bias is not None:  # lets the following layers distinguish quiet frames from loud ones
            first.conv.bias.normal_(std=0.1)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.config.hop

    @property
    def dim(self) -> int:
        return self.config.hidden

    def forward(self, wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> Encoded:
        local = self.local(wave, n_samples)
        valid = self.valid_frames(n_samples, local)
        padded = None if n_samples is None else valid
        features = self.layers(self.position(self.project(local), padded), padded)
        return Encoded(features, features[-1], valid)

    def local(self, wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> Local:
        """Return the convolutions' output for each wave, normalised to zero mean and unit variance."""
        x = standardised(wave, n_samples)
        x = F.pad(x, (0, max(0, self.config.receptive_field - x.shape[-1])))
        x = x.transpose(1, 2)
        for layer in self.trunk.feature_extractor.conv_layers:
            assert isinstance(layer, Data2VecAudioConvLayer)
            x = F.gelu(layer.layer_norm(strided_convolution(x, layer.conv)))
        return x

    def valid_frames(self, n_samples: Int[Tensor, "batch"] | None, local: Local) -> Valid:
        """Mark the frames that lie wholly within their wave, and always the first one."""
        batch, frames = local.shape[:2]
        if n_samples is None:
            return torch.ones(batch, frames, dtype=torch.bool, device=local.device)
        count = self.config.frames(n_samples.to(local.device)).clamp(1, frames)
        return torch.arange(frames, device=local.device) < count[:, None]

    def project(self, local: Local) -> Frames:
        return self.trunk.feature_projection(local)[0]

    def position(self, x: Frames, valid: Valid | None = None) -> Frames:
        """Add the convolutional position embedding and normalise, without dropout."""
        keep = None if valid is None else valid[:, None]
        positions = x.transpose(1, 2)
        for layer in self.trunk.encoder.pos_conv_embed.layers:
            positions = layer(positions if keep is None else positions * keep)
        return self.trunk.encoder.layer_norm(x + positions.transpose(1, 2))

    def layers(self, x: Frames, valid: Valid | None = None) -> list[Frames]:
        """Return each transformer layer's output; frames that are not valid are not attended to."""
        mask = None if valid is None else valid[:, None, None]
        x, features = self.trunk.encoder.dropout(x), []
        for layer in self.trunk.encoder.layers:
            x, _ = transformer_layer(layer, x, mask)
            features.append(x)
        return features


def standardised(wave: Wave, n_samples: Int[Tensor, "batch"] | None = None) -> Wave:
    """Normalise each wave to zero mean and unit variance over its own samples; padding stays 0."""
    if n_samples is None:
        centred = wave - wave.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 1e-7).rsqrt()
    count = n_samples.to(wave.device)[:, None, None]
    inside = torch.arange(wave.shape[-1], device=wave.device) < count
    centred = (wave - (wave * inside).sum(-1, keepdim=True) / count) * inside
    return centred * (centred.square().sum(-1, keepdim=True) / count + 1e-7).rsqrt()


def band_pass_filters(channels: int, kernel: int, sample_rate: int) -> Float[Tensor, "channels 1 kernel"]:
    """Return windowed cosines, evenly spaced in mel, with gains rising with frequency as speech weakens."""
    n_bands = -(-channels // PHASES)
    low, high = hz_to_mel(np.array([80.0, 0.95 * sample_rate / 2]), "htk")
    edges = torch.from_numpy(mel_to_hz(np.linspace(low, high, n_bands + 1), "htk")).float()
    centre, width = (edges[1:] + edges[:-1]) / 2, edges.diff()

    time = (torch.arange(kernel) - (kernel - 1) / 2) / sample_rate
    length = (4 / width).clamp(min(SHORTEST_SECONDS, kernel / sample_rate), kernel / sample_rate)
    window = torch.cos(math.pi * (time / length[:, None]).clamp(-0.5, 0.5)).square()

    phase = 2 * math.pi * (centre[:, None, None] * time + torch.arange(PHASES)[:, None] / PHASES)
    filters = window[:, None] * torch.cos(phase)  # (bands, phases, kernel)
    filters = filters / filters.norm(dim=-1, keepdim=True) * (centre / centre.mean())[:, None, None]
    return rearrange(filters, "band phase kernel -> (band phase) 1 kernel")[:channels]
