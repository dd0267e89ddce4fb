"""A converter's residual blocks for a fixed number of frames, time first, in as few operations as they take.

All blocks' pasts lie in one tensor. What a block's convolution makes of its past does not wait for the
block's turn: it is computed for all blocks at once. Biases that meet a matrix product are part of it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.residual import ResidualBlock
from engine.streaming import CausalConv1d

Rows = Float[Tensor, "frames channels"]
Pasts = Float[Tensor, "context channels"]


class RowStem(nn.Module):
    """A causal convolution as one product: the frames that an output hears, side by side, make a row."""

    weight: Tensor
    bias: Tensor
    places: Tensor

    def __init__(self, layer: CausalConv1d, n_frames: int) -> None:
        super().__init__()
        assert layer.bias is not None
        outer, inner, kernel = layer.weight.shape
        self.n_frames, self.past_shape = n_frames, (kernel - 1, inner)
        self.register_buffer("weight", layer.weight.detach().permute(2, 1, 0).reshape(-1, outer).clone())
        self.register_buffer("bias", layer.bias.detach().clone())
        places = torch.arange(n_frames)[:, None] + torch.arange(kernel)
        self.register_buffer("places", places.flatten())

    def forward(
        self, rows: Float[Tensor, "frames inner"], past: Float[Tensor, "context inner"]
    ) -> tuple[Float[Tensor, "frames outer"], Float[Tensor, "context inner"]]:
        """Frames out, and the next past."""
        window = torch.cat([past, rows])
        wide = window.index_select(0, self.places).reshape(self.n_frames, -1)
        return torch.addmm(self.bias, wide, self.weight), window[self.n_frames :]


class RowBlocks(nn.Module):
    """Residual blocks one after another."""

    early_places: Tensor
    early_taps: Tensor
    late_taps: Tensor
    after_places: Tensor

    def __init__(self, modules: nn.ModuleList, n_frames: int) -> None:
        super().__init__()
        self.n_frames = n_frames
        blocks: list[ResidualBlock] = list(modules)  # type: ignore[arg-type]
        convs = [block.conv for block in blocks]
        self.dilations = [conv.dilation[0] for conv in convs]
        kernel, width = convs[0].kernel_size[0], convs[0].in_channels
        self.kernel = kernel
        contexts = [conv.context for conv in convs]
        self.past_shape = (sum(contexts), width)
        places, taps, after, start = [], [], [], 0
        for number, (conv, context) in enumerate(zip(convs, contexts)):
            first_new = sum(contexts) + number * n_frames
            for frame in range(n_frames):
                heard = frame + torch.arange(kernel - 1) * conv.dilation[0]
                known = heard < context
                places.append(torch.where(known, start + heard, 0))
                taps.append(torch.where(known[:, None], conv.weight.detach()[:, 0, : kernel - 1].T, 0.0))
            rows = [*range(start, start + context), *range(first_new, first_new + n_frames)]
            after += rows[n_frames:]
            start += context
        self.register_buffer("early_places", torch.cat(places))
        self.register_buffer("early_taps", torch.stack(taps))
        self.register_buffer("late_taps", torch.stack([conv.weight.detach()[:, 0].T for conv in convs]))
        self.register_buffer("after_places", torch.tensor(after))
        for number, block in enumerate(blocks):
            learned = _folded(block)
            for name, tensor in learned.items():
                self.register_buffer(f"{name}_{number}", tensor)
        self.steered = blocks[0].style is not None

    def forward(
        self, rows: Rows, pasts: Pasts, styles: Sequence[Float[Tensor, "_ channels"]] = ()
    ) -> tuple[Rows, Pasts]:
        """Frames out, and the next pasts; ``styles`` are every block's factors, and its shifts after them."""
        n, heard = self.n_frames, pasts.index_select(0, self.early_places)
        early = (heard.reshape(-1, self.kernel - 1, heard.shape[1]) * self.early_taps).sum(1)
        hiddens = []
        for number, come in enumerate(early.split(n)):
            level = torch.sqrt(rows.pow(2).mean(1, keepdim=True) + 1e-4)
            hidden = rows / level * self._of("scale_in", number)  # in this form onnxruntime fuses it
            if self.steered:
                hidden = hidden * styles[2 * number] + styles[2 * number + 1]
            hiddens.append(hidden)
            come = come + hidden * self.late_taps[number, -1]
            for back in range(1, self.kernel):
                apart = back * self.dilations[number]
                if apart < n:
                    late = F.pad(hidden[: n - apart], (0, 0, apart, 0))
                    come = come + late * self.late_taps[number, -1 - back]
            wide = torch.addmm(self._of("widen_bias", number), come, self._of("widen", number))
            signal, gate = wide.split(wide.shape[1] // 2, dim=1)
            opened = gate * torch.sigmoid(gate) * signal
            rows = rows + torch.addmm(self._of("out_bias", number), opened, self._of("out", number))
        return rows, torch.cat([pasts, *hiddens]).index_select(0, self.after_places)

    def _of(self, name: str, number: int) -> Tensor:
        return getattr(self, f"{name}_{number}")


def _folded(block: ResidualBlock) -> dict[str, Tensor]:
    """A block's learned numbers as its products take them."""
    conv_bias, widen_bias, out_bias = block.conv.bias, block.widen.bias, block.out.bias
    assert conv_bias is not None
    assert widen_bias is not None
    assert out_bias is not None
    widen = block.widen.weight.detach()[:, :, 0]
    return {
        "scale_in": block.scale_in.detach()[:, 0].clone(),
        "widen": widen.T.contiguous(),
        # The convolution's bias, as the product after it sees it.
        "widen_bias": (widen_bias + widen.double() @ conv_bias.double()).detach().float(),
        "out": block.out.weight.detach()[:, :, 0].T.contiguous(),
        "out_bias": out_bias.detach().clone(),
    }
