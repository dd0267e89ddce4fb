"""The three heads, for a few frames: rows of features to samples, with real numbers only."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from w2w.exported.spectra import inverse, transform
from w2w.networks.excitation import Excitation, white_noise
from w2w.networks.heads import HarmonicNoiseHead, InverseSTFTHead, TransposedHead

Rows = Float[Tensor, "frames channels"]
LogF0 = Float[Tensor, " frames"] | None
State = dict[str, Tensor]


def build_row_head(head: nn.Module, n_frames: int) -> nn.Module:
    """The same head, for ``n_frames`` frames."""
    match head:
        case HarmonicNoiseHead():
            return HarmonicNoiseRows(head, n_frames)
        case InverseSTFTHead():
            return InverseSTFTRows(head, n_frames)
        case TransposedHead():
            return TransposedRows(head)
    raise TypeError(f"no graph is known for {type(head).__name__}")


class Sources(nn.Module):
    """Pulses at F0, and noise: the excitation, in float64."""

    ramp: Tensor
    places: Tensor

    def __init__(self, excitation: Excitation, n_frames: int) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.n_frames = excitation.sample_rate, excitation.hop, n_frames
        self.register_buffer("ramp", excitation.ramp.clone())
        self.register_buffer("places", torch.arange(n_frames * excitation.hop))
        begun = excitation.begin(1)
        self.begun: State = {
            "phase": begun.phase[0],
            "last_log_f0": begun.log_f0[0, 0],
            "position": begun.position[0],
        }

    def forward(
        self, log_f0: Float[Tensor, " frames"], state: State
    ) -> tuple[Float[Tensor, "frames 2 hop"], State]:
        """Pulses and noise, and the next state."""
        before = torch.cat([state["last_log_f0"], log_f0[:-1]])[:, None]
        f0 = torch.exp(before + (log_f0[:, None] - before) * self.ramp).flatten()
        cycles = state["phase"] + (f0 / self.sample_rate).cumsum(0)
        angle = math.pi * (cycles - torch.floor(cycles))
        harmonics = torch.floor(0.5 * self.sample_rate / f0)
        odd, sine = 2.0 * harmonics + 1.0, torch.sin(angle)
        summit = sine.abs() < 1e-9
        ratio = torch.where(summit, odd, torch.sin(odd * angle) / torch.where(summit, 1.0, sine))
        pulses = (0.5 * (ratio - 1.0) * torch.sqrt(2.0 / harmonics)).float()
        noise = white_noise((state["position"] + self.places)[None])[0]
        after = {
            "phase": cycles[-1:] - torch.floor(cycles[-1:]),
            "last_log_f0": log_f0[-1:],
            "position": state["position"] + self.n_frames * self.hop,
        }
        shape = (self.n_frames, self.hop)
        return torch.stack([pulses.view(shape), noise.view(shape)], dim=1), after


class HarmonicNoiseRows(nn.Module):
    """Harmonic plus noise."""

    bands: Tensor
    bands_bias: Tensor
    spread: Tensor
    fades: Tensor
    spectrum: Tensor
    samples: Tensor

    def __init__(self, head: HarmonicNoiseHead, n_frames: int) -> None:
        super().__init__()
        self.n_frames, self.hop, self.n_fft = n_frames, head.hop, head.n_fft
        self.bins = head.n_fft // 2 + 1
        self.sources = Sources(head.excitation, n_frames)
        assert head.bands.bias is not None
        self.register_buffer("bands", head.bands.weight.detach()[:, :, 0].T.contiguous())
        self.register_buffer("bands_bias", head.bands.bias.detach().clone())
        self.register_buffer("spread", head.spread.clone())
        self.register_buffer("fades", torch.stack([head.rise, 1.0 - head.rise])[:, None])
        self.register_buffer("spectrum", transform(head.hop, head.n_fft))
        self.register_buffer("samples", inverse(head.n_fft))
        self.begun: State = {
            **self.sources.begun,
            "filters": torch.zeros(1, 4, self.bins),
            "tail": torch.zeros(1, self.n_fft - self.hop),
        }

    def forward(self, rows: Rows, log_f0: LogF0, state: State) -> tuple[Float[Tensor, " samples"], State]:
        """Samples, and the next state."""
        assert log_f0 is not None
        n = self.n_frames
        sources, after = self.sources(log_f0, state)
        faded = (sources[:, None] * self.fades).view(-1, self.hop)  # frames, fading in or out, source
        real, imaginary = torch.mm(faded, self.spectrum).view(n, 4, -1).chunk(2, dim=2)
        drawn = torch.addmm(self.bands_bias, rows, self.bands).clamp(-12.0, 6.0)
        gain, angle = torch.mm(drawn.view(2 * n, -1), self.spread).chunk(2, dim=1)
        gain = torch.exp(gain)
        # Four rows a frame: real parts of both sources' filters, and imaginary ones.
        now = torch.cat(
            [(gain * torch.cos(angle)).view(n, 2, -1), (gain * torch.sin(angle)).view(n, 2, -1)], dim=1
        )
        after["filters"] = now[-1:]
        before = torch.cat([state["filters"], now[:-1]])
        real_filter = torch.cat([now[:, :2], before[:, :2]], dim=1)
        imaginary_filter = torch.cat([now[:, 2:], before[:, 2:]], dim=1)
        spectrum = torch.cat(
            [
                (real * real_filter - imaginary * imaginary_filter).sum(1),
                (real * imaginary_filter + imaginary * real_filter).sum(1),
            ],
            dim=1,
        )
        wave, after["tail"] = overlapped(torch.mm(spectrum, self.samples), self.hop, state["tail"])
        return wave, after


class InverseSTFTRows(nn.Module):
    """Predicted magnitude and phase."""

    weight: Tensor
    bias: Tensor
    samples: Tensor

    def __init__(self, head: InverseSTFTHead, n_frames: int) -> None:
        super().__init__()
        self.hop, self.n_fft = head.hop, head.n_fft
        assert head.spectrum.bias is not None
        self.register_buffer("weight", head.spectrum.weight.detach()[:, :, 0].T.contiguous())
        self.register_buffer("bias", head.spectrum.bias.detach().clone())
        self.register_buffer("samples", inverse(head.n_fft) * head.window)
        self.begun: State = {"tail": torch.zeros(1, self.n_fft - self.hop)}

    def forward(self, rows: Rows, log_f0: LogF0, state: State) -> tuple[Float[Tensor, " samples"], State]:
        """Samples, and the next state."""
        log_magnitude, phase = torch.addmm(self.bias, rows, self.weight).chunk(2, dim=1)
        magnitude = torch.exp(log_magnitude.clamp(max=6.0))
        spectrum = torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], dim=1)
        wave, tail = overlapped(torch.mm(spectrum, self.samples), self.hop, state["tail"])
        return wave, {"tail": tail}


class TransposedRows(nn.Module):
    """Transposed convolutions: the plain head, its state flat."""

    def __init__(self, head: TransposedHead) -> None:
        super().__init__()
        self.head = head
        begun = head.begin(1)
        self.begun: State = {f"up_{i}": past for i, past in enumerate(begun["up"])}
        for i, stack in enumerate(begun["blocks"]):
            self.begun |= {f"up_{i}_block_{j}": past for j, past in enumerate(stack)}
        self.begun["out"] = begun["out"]

    def forward(self, rows: Rows, log_f0: LogF0, state: State) -> tuple[Float[Tensor, " samples"], State]:
        """Samples, and the next state."""
        stacks = range(len(self.head.up))
        nested = {
            "up": [state[f"up_{i}"] for i in stacks],
            "blocks": [
                [state[f"up_{i}_block_{j}"] for j in range(len(self.head.blocks[i]))]  # type: ignore[arg-type]
                for i in stacks
            ],
            "out": state["out"],
        }
        wave, after = self.head.step(rows.T[None], torch.zeros(1, 1, len(rows)), nested)
        flat = {f"up_{i}": past for i, past in enumerate(after["up"])}
        for i, stack in enumerate(after["blocks"]):
            flat |= {f"up_{i}_block_{j}": past for j, past in enumerate(stack)}
        return wave.flatten(), flat | {"out": after["out"]}


def overlapped(
    blocks: Float[Tensor, "frames n_fft"], hop: int, tail: Float[Tensor, "1 rest"]
) -> tuple[Float[Tensor, " samples"], Float[Tensor, "1 rest"]]:
    """Add blocks ``hop`` apart onto the tail of what came before; what is finished, and a new tail."""
    done = []
    for block in blocks.split(1):
        block = block + F.pad(tail, (0, hop))
        done.append(block[:, :hop])
        tail = block[:, hop:]
    return torch.cat(done).flatten(), tail
