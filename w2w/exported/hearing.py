"""The content encoder of a few frames: from new samples and what was heard before to codes and energy."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.causal_mel import FLOOR
from w2w.exported.rows import RowBlocks, RowStem
from w2w.exported.spectra import transform
from w2w.networks.content import ContentEncoder

State = dict[str, Tensor]


class Hearing(nn.Module):
    """What is said in ``n_frames`` frames. The raw past, ``wave``, is kept by who calls."""

    spectrum: Tensor
    bands: Tensor
    code: Tensor
    code_bias: Tensor
    decay: Tensor
    carried: Tensor

    def __init__(self, encoder: ContentEncoder, n_frames: int) -> None:
        super().__init__()
        analysis = encoder.analysis
        self.n_frames, self.hop, self.window = n_frames, analysis.hop, analysis.window
        self.wave_context = analysis.context
        self.n_mels, self.has_mean = analysis.n_mels, encoder.mean is not None
        spectrum = analysis.taper.double()[:, None] * transform(analysis.window, analysis.n_fft).double()
        self.register_buffer("spectrum", spectrum.float())
        self.register_buffer("bands", analysis.bands.clone())
        if encoder.mean is not None:
            n = n_frames
            self.register_buffer("decay", encoder.mean.decay[:n, :n].T.float().contiguous())
            self.register_buffer("carried", encoder.mean.carried[:n, None].float())
        self.samples = encoder.samples
        self.stem = RowStem(encoder.stem, n_frames)
        self.blocks = RowBlocks(encoder.blocks, n_frames)
        assert encoder.code.bias is not None
        self.register_buffer("code", encoder.code.weight.detach()[:, :, 0].T.contiguous())
        self.register_buffer("code_bias", encoder.code.bias.detach().clone())
        begun = encoder.begin(1)
        self.begun: State = {}
        if self.has_mean:
            self.begun["mean"] = torch.cat([begun["mean"].total[..., 0], begun["mean"].weight[..., 0]], dim=1)
        for number, past in enumerate(begun["samples"]):
            self.begun[f"samples_{number}"] = past
        self.begun["content_stem"] = torch.zeros(self.stem.past_shape)
        self.begun["content_blocks"] = torch.zeros(self.blocks.past_shape)

    def forward(
        self, heard: Float[Tensor, " heard"], chunk: Float[Tensor, "1 1 samples"], state: State
    ) -> tuple[Float[Tensor, "frames dim"], Float[Tensor, "frames 1"], State]:
        """Codes, energies and the next state; ``heard`` ends with the chunk, and has its context before."""
        frames = [heard[n * self.hop : n * self.hop + self.window] for n in range(self.n_frames)]
        real, imaginary = torch.mm(torch.stack(frames), self.spectrum).chunk(2, dim=1)
        magnitude = torch.sqrt(real * real + imaginary * imaginary + FLOOR**2)
        levels = torch.mm(magnitude, self.bands).clamp_min(FLOOR)
        energy = torch.log(levels.mean(1, keepdim=True))
        after: State = {}
        if len(self.samples):
            hidden = chunk
            for number, layer in enumerate(self.samples):
                hidden, after[f"samples_{number}"] = layer.step(hidden, state[f"samples_{number}"])  # type: ignore
                hidden = F.silu(hidden)
            rows = hidden[0].T
        else:
            rows = torch.log(levels)
            if self.has_mean:
                share = torch.sigmoid(2.0 * (energy + 3.0))
                added = torch.cat([rows * share, share], dim=1)
                sums = torch.mm(self.decay, added) + self.carried * state["mean"]
                after["mean"] = sums[-1:]
                rows = rows - sums[:, : self.n_mels] / sums[:, self.n_mels :]
            rows = rows * 0.5
        rows, after["content_stem"] = self.stem(rows, state["content_stem"])
        rows, after["content_blocks"] = self.blocks(rows, state["content_blocks"])
        code = torch.addmm(self.code_bias, rows, self.code)
        return code / torch.sqrt((code * code).sum(1, keepdim=True) + 1e-4), energy, after
