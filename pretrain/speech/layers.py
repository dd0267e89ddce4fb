"""Faster implementations of Data2VecAudio's layers: convolutions and attention as matrix products."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.models.data2vec.modeling_data2vec_audio import (
    Data2VecAudioAttention,
    Data2VecAudioEncoderLayer,
)

Frames = Float[Tensor, "batch frames hidden"]
Mask = Bool[Tensor, "batch 1 1 frames"]
SHORT = 640
"""Frames up to which, in bfloat16 on a CPU, two plain products are faster than the fused attention."""


def transformer_layer(layer: nn.Module, x: Frames, mask: Mask | None = None) -> tuple[Frames, Frames]:
    """Return the layer's output, and the output of its feed-forward network before the residual."""
    assert isinstance(layer, Data2VecAudioEncoderLayer)
    x = layer.layer_norm(x + layer.dropout(attend(layer.attention, x, mask)))
    fed = layer.feed_forward(x)
    return layer.final_layer_norm(x + fed), fed


def attend(attention: Data2VecAudioAttention, x: Frames, mask: Mask | None = None) -> Frames:
    """Self-attention; only frames where the mask is true are attended to."""
    heads, drop = attention.num_heads, attention.dropout if attention.training else 0.0
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    pattern = "batch frames (three heads dim) -> three batch heads frames dim"
    q, k, v = rearrange(F.linear(x, weight, bias), pattern, three=3, heads=heads)
    if x.is_cpu and q.dtype == torch.bfloat16 and x.shape[1] <= SHORT:
        scores = (q * attention.scaling) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        y = F.dropout(scores.softmax(-1, dtype=torch.bfloat16), drop) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, scale=attention.scaling)
    return attention.out_proj(rearrange(y, "batch heads frames dim -> batch frames (heads dim)"))


def strided_convolution(
    x: Float[Tensor, "batch time inner"], conv: nn.Module
) -> Float[Tensor, "batch frames outer"]:
    """Convolve channels-last frames as one matrix product over blocks of ``stride`` samples.

    A kernel spans a few neighbouring blocks: each block is multiplied with all parts of the kernel at once,
    and the shifted products are summed, without unfolding or transposing. In half precision on CPUs, this
    takes half the time of a convolution.
    """
    assert isinstance(conv, nn.Conv1d)
    outer, _, kernel = conv.weight.shape
    stride = conv.stride[0]
    n_blocks, frames = -(-kernel // stride), (x.shape[1] - kernel) // stride + 1
    missing = (frames + n_blocks - 1) * stride - x.shape[1]
    x = F.pad(x, (0, 0, 0, missing))
    blocks = rearrange(x, "batch (block stride) inner -> batch block (stride inner)", stride=stride)
    weight = F.pad(conv.weight, (0, n_blocks * stride - kernel))
    weight = rearrange(weight, "outer inner (block stride) -> (block outer) (stride inner)", stride=stride)
    products = F.linear(blocks, weight)
    parts = [products[:, i : i + frames, i * outer : (i + 1) * outer] for i in range(n_blocks)]
    y = parts[0] if conv.bias is None else parts[0] + conv.bias
    for part in parts[1:]:
        y = y + part
    return y
