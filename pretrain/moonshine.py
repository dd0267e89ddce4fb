"""Moonshine's speech encoder (Jeffries et al. 2024), with the parameter names of transformers.

The tiny encoder's weights are packaged, under the MIT licence of their authors, Useful Sensors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill, load_weights
from engine.user_error import UserError
from pretrain.teacher import Teacher, framing_of

RELEASED = Path(__file__).with_name("released") / "moonshine"
ENCODER_ALONE = "encoder.safetensors"
"""File name, next to config.json, of an encoder's weights without a decoder."""

Wave = Float[Tensor, "batch samples"]
Hidden = Float[Tensor, "batch frames hidden"]
Rotation = tuple[Float[Tensor, "frames pairs"], Float[Tensor, "frames pairs"]]


@dataclass(frozen=True, kw_only=True)
class MoonshineConfig:
    """Sizes, with the field names of transformers' config.json."""

    hidden_size: int
    intermediate_size: int
    encoder_num_hidden_layers: int
    encoder_num_attention_heads: int
    rotary_share: float
    """Fraction of a head's channels with rotary position embedding."""
    rotary_base: float
    """Base of the rotary frequencies."""

    @classmethod
    def from_published(cls, config: dict[str, Any]) -> "MoonshineConfig":
        rotary = config.get("rope_parameters") or config
        sizes = {name: config[name] for name in cls.__annotations__ if not name.startswith("rotary")}
        return cls(**sizes, rotary_share=rotary["partial_rotary_factor"], rotary_base=rotary["rope_theta"])


class MoonshineEncoder(nn.Module):
    """Three convolutions on the wave and a bidirectional transformer with rotary position embeddings.

    The outputs of the ``earlier`` layers, counted from 1, follow the last hidden states in the channels.
    """

    def __init__(self, config: MoonshineConfig, earlier: Sequence[int] = ()) -> None:
        super().__init__()
        width, self.config, self.earlier = config.hidden_size, config, earlier
        self.conv1 = nn.Conv1d(1, width, 127, stride=64, bias=False)
        self.groupnorm = nn.GroupNorm(1, width)
        self.conv2 = nn.Conv1d(width, 2 * width, 7, stride=3)
        self.conv3 = nn.Conv1d(2 * width, width, 3, stride=2)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.encoder_num_hidden_layers))
        self.layer_norm = nn.LayerNorm(width, bias=False)

    def forward(self, wave: Wave) -> Hidden:
        """Encode waves of 16 kHz; the convolutions of frame k span 895 samples from 384 k on."""
        # As a matrix product: on CPUs a quarter of the convolution's time.
        x = F.linear(wave.unfold(-1, 127, 64), self.conv1.weight[:, 0]).transpose(1, 2)
        x = self.groupnorm(torch.tanh(x))
        x = F.gelu(self.conv3(F.gelu(self.conv2(x)))).transpose(1, 2)
        rotation = self.rotation(x.shape[1], x.device)
        outputs = [x := layer(x, rotation) for layer in self.layers]
        return torch.cat([self.layer_norm(x), *(outputs[layer - 1] for layer in self.earlier)], dim=-1)

    def rotation(self, frames: int, device: torch.device) -> Rotation:
        """Return the cosine and sine of each channel pair's rotation angle at each frame."""
        config = self.config
        head = config.hidden_size // config.encoder_num_attention_heads
        n_rotary = int(head * config.rotary_share)
        speed = config.rotary_base ** (-torch.arange(0, n_rotary, 2, device=device).float() / n_rotary)
        angle = torch.arange(frames, device=device).float()[:, None] * speed
        return angle.cos(), angle.sin()


class Layer(nn.Module):
    """A pre-norm transformer layer: self-attention and a feed-forward network, each with a residual."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.input_layernorm = nn.LayerNorm(width, bias=False)
        self.self_attn = Attention(width, config.encoder_num_attention_heads)
        self.post_attention_layernorm = nn.LayerNorm(width, bias=False)
        inner = config.intermediate_size
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Hidden, rotation: Rotation) -> Hidden:
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.post_attention_layernorm(x))))


class Attention(nn.Module):
    """Multi-head self-attention with rotary position embeddings."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.v_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Hidden, rotation: Rotation) -> Hidden:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotated(query, rotation), rotated(key, rotation)
        # Plain products: with heads of 36 channels the fused attention's gradient is slow on CPUs.
        attention = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
        return self.o_proj((attention @ value).transpose(1, 2).flatten(2))


def rotated(
    x: Float[Tensor, "batch heads frames channels"], rotation: Rotation
) -> Float[Tensor, "batch heads frames channels"]:
    """Rotate pairs of neighbouring channels by each frame's angles (Su et al. 2021); the rest stays."""
    cosine, sine = (part.to(x.dtype) for part in rotation)
    pairs = x[..., : 2 * cosine.shape[-1]].unflatten(-1, (-1, 2))
    first, second = pairs.unbind(-1)
    pairs = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return torch.cat([pairs.flatten(-2), x[..., 2 * cosine.shape[-1] :]], dim=-1)


def moonshine_teacher(
    config: dict[str, Any], state: dict[str, Tensor], where: Path | str, earlier: Sequence[int] = ()
) -> Teacher:
    """Build a teacher from a published config and weights; ``where`` is named in errors.

    Its features are the last hidden states, and after them those of the ``earlier`` layers.

    Despite attention, frames are placed at the centre of their receptive field: ridge regression of log-mels
    on frames is best between 400 and 500 samples after ``k · hop``, and the centre is at 447.
    """
    try:
        encoder = MoonshineEncoder(MoonshineConfig.from_published(config), earlier)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{where}: the config of this Moonshine lacks or has a wrong value for {error}"
        ) from None
    if not all(1 <= layer <= len(encoder.layers) for layer in earlier):
        raise UserError(f"{where} has layers 1 to {len(encoder.layers)}: of {list(earlier)}, some are others")
    fill(encoder, {key: tensor.float() for key, tensor in state.items()}, where)
    framing, width = framing_of((127, 7, 3), (64, 3, 2)), encoder.config.hidden_size
    return Teacher(encoder, framing, width, lambda network, wave: network(wave[:, 0]), 1 + len(earlier))


def load_moonshine(folder: Path, earlier: Sequence[int] = ()) -> Teacher:
    config = json.loads((folder / "config.json").read_text())
    return moonshine_teacher(config, load_weights(folder / ENCODER_ALONE), folder / ENCODER_ALONE, earlier)
