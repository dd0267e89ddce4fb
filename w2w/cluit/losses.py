"""The losses of the converter that are not content: each a function, each says where gradients go."""

import math

import torch
import torch.nn.functional as F
import torchaudio
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Wave = Float[Tensor, "batch 1 samples"]
Vectors = Float[Tensor, "batch dim"]


def r1(scores: list[Tensor], wave: Wave) -> Float[Tensor, ""]:
    """Squared norm of the scores' gradient at real waves (Mescheder et al. 2018, eq. 9, without its γ/2)."""
    total = torch.stack([score.sum() for score in scores]).sum()
    (gradient,) = torch.autograd.grad(total, wave, create_graph=True)
    return gradient.square().sum((1, 2)).mean()


def info_nce(
    query: Vectors,
    positive: Vectors,
    negatives: Float[Tensor, "bank dim"],
    *,
    temperature: float = 0.07,
    query_label: Int[Tensor, " batch"] | None = None,
    negative_label: Int[Tensor, " bank"] | None = None,
) -> Float[Tensor, ""]:
    """Ask each query to pick its positive out of the bank (van den Oord et al. 2018; Lee et al. 2021).

    Negatives with the query's own label are no negatives and are masked; label -1 means not known and masks
    nothing (other numbers below 0 are labels like any). Vectors are normalised here. Gradients reach
    ``query`` and ``positive``; the bank is data.
    """
    query, positive, negatives = (
        F.normalize(v.float(), dim=-1) for v in (query, positive, negatives.detach())
    )
    match = (query * positive).sum(-1, keepdim=True)
    with torch.autocast(query.device.type, enabled=False):
        others = query @ negatives.T
    if query_label is not None and negative_label is not None:
        others = others.masked_fill(same_speaker(query_label, negative_label), -math.inf)
    logits = torch.cat([match, others], dim=-1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def same_speaker(query: Int[Tensor, " batch"], bank: Int[Tensor, " bank"]) -> Bool[Tensor, "batch bank"]:
    """Which pairs are known to be one speaker's."""
    return (query[:, None] == bank[None]) & (query[:, None] != -1)


def labelled_cross_entropy(
    logits: Float[Tensor, "batch n_speakers"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the items whose speaker is known; 0, with a gradient of 0, where none is."""
    total = F.cross_entropy(logits.float(), label.long(), ignore_index=-1, reduction="sum")
    return total / (label >= 0).sum().clamp_min(1)


class SpectralDistance(nn.Module):
    """Distance of two waves in magnitude, at several resolutions, on mel and linear frequency.

    Mean L1 of log-mels over windows of 2048, 1024, 512 and 256 samples (at 16 kHz), plus L1 of
    linear-frequency log-magnitudes at 1024 times ``linear``. Levels below the floor are all alike: what
    happens in silence is not learned from.
    """

    def __init__(self, sample_rate: int, linear: float = 0.5, floor: float = 0.003) -> None:
        super().__init__()
        scale = sample_rate / 16_000
        self.sizes = [2 * round(size * scale / 2) for size in (2048, 1024, 512, 256)]
        self.linear, self.floor = linear, floor
        for size, n_mels in zip(self.sizes, (128, 80, 64, 32)):
            window = torch.hann_window(size)
            bands = torchaudio.functional.melscale_fbanks(
                size // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate
            )
            self.register_buffer(f"window_{size}", window / window.sum() * 32.0, persistent=False)
            bands = bands / bands.sum(0).clamp_min(1e-6)
            self.register_buffer(f"bands_{size}", bands, persistent=False)

    def forward(self, fake: Wave, real: Wave) -> Float[Tensor, ""]:
        """Distance; ``real`` is data."""
        both = torch.cat([fake, real.detach()])[:, 0].float()
        total = both.new_zeros(())
        for size in self.sizes:
            window, bands = getattr(self, f"window_{size}"), getattr(self, f"bands_{size}")
            spectrum = torch.stft(both, size, size // 4, window=window, return_complex=True)
            magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()
            with torch.autocast(both.device.type, enabled=False):
                mels = bands.T @ magnitude
            total = total + _log_distance(mels, self.floor) / len(self.sizes)
            if self.linear and size == self.sizes[1]:
                total = total + self.linear * _log_distance(magnitude, self.floor)
        return total


def _log_distance(both: Tensor, floor: float) -> Tensor:
    fake, real = (both + floor).log().chunk(2)
    return (fake - real).abs().mean()


def cosine_distance(
    features: Float[Tensor, "batch dim frames"],
    target: Float[Tensor, "batch dim frames"],
    weight: Float[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """One minus the cosine of each frame, weighted; gradients reach ``features``."""
    distance = 1.0 - F.cosine_similarity(features, target.detach(), dim=1, eps=1e-4)
    return (distance * weight).sum() / weight.sum().clamp_min(1e-3)


def energy_distance(
    converted: Float[Tensor, "batch 1 frames"], source: Float[Tensor, "batch 1 frames"]
) -> Float[Tensor, ""]:
    """The norm loss: L1 between log frame energies, down to 35 dB below the loudest; ``source`` is data."""
    floor = source.detach().amax(-1, keepdim=True) - 4.0
    return F.l1_loss(torch.maximum(converted, floor), torch.maximum(source.detach(), floor))


def audible_frames(wave: Wave, n_frames: int) -> Float[Tensor, "batch n_frames"]:
    """Weight of each frame in losses of content: 1 in speech, towards 0 at 35 dB below the loudest."""
    power = F.adaptive_avg_pool1d(wave.detach().float().square(), n_frames)[:, 0]
    level_db = 10 * torch.log10(power + 1e-10)
    return torch.sigmoid(0.5 * (level_db - level_db.amax(-1, keepdim=True) + 35.0))
